"""Which events somebody wants: kinds (`server.*,approval.pending`), servers, tools, callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from hostwright.events.kinds import DURABLE, EPHEMERAL, GAP, KINDS
from hostwright_kit.errors import HostError

MAX_WORDS = 100
Sees = Callable[[str | None, str | None], bool]


class Filter(BaseModel, frozen=True):
    """Empty means everything. A gap is always told: it is about all that was asked for."""

    kinds: frozenset[str] = frozenset(KINDS)
    servers: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()
    sees: Sees | None = Field(
        default=None, description="What whoever asks may know of: a server, a tool of it."
    )

    @property
    def only_durable(self) -> bool:
        """Whether nothing that is wanted can be lost with the daemon's memory."""
        return self.kinds.isdisjoint(EPHEMERAL)

    @property
    def wants_durable(self) -> bool:
        """Whether anything that is wanted is in the ledger."""
        return not self.kinds.isdisjoint(DURABLE)

    def matches(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Whether this event is wanted. One without a server is none of any server's."""
        return (
            kind in self.kinds
            and (not self.servers or fields.get("server") in self.servers)
            and (not self.tools or fields.get("tool") in self.tools)
            and (not self.callers or fields.get("caller") in self.callers)
            and (kind == GAP or self._may_know(fields))
        )

    def _may_know(self, fields: Mapping[str, Any]) -> bool:
        return self.sees is None or self.sees(fields.get("server"), fields.get("tool"))


def parse_filter(
    kinds: Sequence[str] = (),
    *,
    servers: Sequence[str] = (),
    tools: Sequence[str] = (),
    callers: Sequence[str] = (),
) -> Filter:
    """Each word may hold several, divided by commas. A kind that does not exist is an error."""
    wanted = _words(kinds)
    chosen = frozenset().union(*(_kinds(word) for word in wanted)) if wanted else frozenset(KINDS)
    return Filter(
        kinds=chosen | {GAP},
        servers=frozenset(_words(servers)),
        tools=frozenset(_words(tools)),
        callers=frozenset(_words(callers)),
    )


def _kinds(word: str) -> frozenset[str]:
    if word == "*":
        return frozenset(KINDS)
    if word.endswith(".*"):
        found = frozenset(kind for kind in KINDS if kind.startswith(word[:-1]))
    else:
        found = frozenset({word} & set(KINDS))
    if not found:
        raise HostError(
            f"There is no kind of event {word[:60]!r}.",
            fix=f"Use these, or a group such as server.*: {', '.join(KINDS)}.",
            code="bad_filter",
        )
    return found


def _words(given: Sequence[str]) -> list[str]:
    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    if len(words) > MAX_WORDS:
        raise HostError(
            f"The filter has {len(words)} words.",
            fix=f"At most {MAX_WORDS}; use groups such as server.*.",
            code="bad_filter",
        )
    return words
