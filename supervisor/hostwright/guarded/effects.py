"""What a call of a third-party tool can do: what the owner says, else the worst.

A stranger's `readOnlyHint` would let it choose for itself whether it is asked about and recorded,
so annotations count only where the owner's manifest trusts them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

from hostwright.manifest_rules import GuardRules
from hostwright_kit.policy import Effect

GRAVITY = (Effect.READ, Effect.CONTAINED, Effect.DESTRUCTIVE)


class Traits(NamedTuple):
    """What the policy judges by, and whose word it is."""

    effect: Effect
    open_world: bool
    known: bool
    """Whether anybody who counts has said anything about this tool."""


UNKNOWN = Traits(Effect.DESTRUCTIVE, open_world=True, known=False)


def traits_of(rules: GuardRules, tool: str, entry: Mapping[str, Any]) -> Traits:
    """`tool` is the server's own name for it, `entry` what its list says."""
    if (said := _owner_says(rules, tool)) is not None:
        # The owner has weighed what it reaches as well.
        return Traits(said, open_world=said is Effect.DESTRUCTIVE, known=True)
    if rules.trust_annotations:
        return _server_says(entry)
    return UNKNOWN


def _owner_says(rules: GuardRules, tool: str) -> Effect | None:
    if (exact := rules.tools.get(tool)) is not None:
        return Effect(exact)
    matching = [
        Effect(effect) for pattern, effect in rules.tools.items() if fnmatchcase(tool, pattern)
    ]
    return max(matching, key=GRAVITY.index, default=None)


def _server_says(entry: Mapping[str, Any]) -> Traits:
    """The protocol's defaults are the worst case: what is not said is not trusted either."""
    annotations = entry.get("annotations")
    hints = cast("Mapping[str, Any]", annotations) if isinstance(annotations, Mapping) else {}
    open_world = hints.get("openWorldHint") is not False
    if hints.get("readOnlyHint") is True:
        return Traits(Effect.READ, open_world, known=True)
    if hints.get("destructiveHint") is False:
        return Traits(Effect.CONTAINED, open_world, known=True)
    return Traits(Effect.DESTRUCTIVE, open_world, known=bool(hints))
