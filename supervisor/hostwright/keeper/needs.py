"""What a server needs before it may start: other servers, and conditions of the machine.

`requires`: must be ready first, and go on running. `after`: only the order. `when`: conditions.
Pure, but for `unmet`, which looks at files and the environment.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from hostwright.keeper.machine import State
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Conditions

USABLE = frozenset({State.READY, State.UNHEALTHY, State.HIBERNATED, State.HIBERNATING})
COMING = frozenset({State.STARTING, State.RESTARTING})


class Level(IntEnum):
    """How long it may take until a server is no longer blocked."""

    SOON = 0  # what it needs is being started
    FAILING = 1  # … has failed and is tried again
    DOWN = 2  # … does not run, and will not without the owner


class Block(NamedTuple):
    """Why a server may not start now."""

    level: Level
    reason: str


class Fault(NamedTuple):
    """What is wrong with the wishes of one manifest."""

    name: str
    key: str
    message: str
    fix: str


def block_of(
    manifest: Manifest,
    manifests: Mapping[str, Manifest],
    states: Mapping[str, State],
    above: frozenset[str] = frozenset(),
) -> Block | None:
    """The gravest reason why it may not start; None when nothing holds it."""
    found: list[Block] = []
    above = above | {manifest.name}
    for name in manifest.requires:
        level = _level(name, manifests, states, above, missing=Level.DOWN)
        if level is not None:
            state = states.get(name)
            is_so = "is not known" if state is None else f"is {state}"
            found.append(Block(level, f"needs {name}, which {is_so}"))
    for name in manifest.after:
        # Order only: whatever becomes of it, the one that comes after is started then.
        level = _level(name, manifests, states, above, missing=None)
        if level is Level.SOON:
            found.append(Block(level, f"comes after {name}, which is {states[name]}"))
    return max(found, key=lambda block: block.level, default=None)


def _level(
    name: str,
    manifests: Mapping[str, Manifest],
    states: Mapping[str, State],
    above: frozenset[str],
    *,
    missing: Level | None,
) -> Level | None:
    state = states.get(name)
    if state is None or name in above:
        return missing
    if state in USABLE:
        return None
    if state in COMING:
        return Level.SOON
    if state in (State.FAILING, State.BACKING_OFF):
        return Level.FAILING
    if state is State.WAITING:
        block = block_of(manifests[name], manifests, states, above)
        return block.level if block else Level.SOON
    return Level.DOWN


def faults(manifests: Mapping[str, Manifest]) -> list[Fault]:
    """Every unknown name and every circle."""
    found: list[Fault] = []
    known = ", ".join(sorted(manifests))
    for manifest in manifests.values():
        for key, names in (("requires", manifest.requires), ("after", manifest.after)):
            found += [
                Fault(
                    manifest.name,
                    key,
                    f"There is no server {name!r}.",
                    f"Known here: {known}. Correct the name, or take it out of {key}.",
                )
                for name in names
                if name not in manifests
            ]
    told: set[frozenset[str]] = set()
    for name in sorted(manifests):
        circle = _circle(name, manifests)
        if circle and frozenset(circle) not in told:
            told.add(frozenset(circle))
            manifest = manifests[name]
            key = "requires" if circle[1] in manifest.requires else "after"
            path = " → ".join(circle)
            message = f"These servers wait for one another: {path}."
            found.append(Fault(name, key, message, "Take one of them out of requires or after."))
    return found


def _circle(start: str, manifests: Mapping[str, Manifest]) -> list[str]:
    """The shortest way from a server back to itself; empty when there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        for name in _wishes(manifests[way[-1]]):
            if name == start:
                return [*way, name]
            if name in manifests and name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def layers(manifests: Mapping[str, Manifest]) -> list[list[str]]:
    """Start order: each layer needs only those before it. Servers in a circle come last."""
    left = dict(manifests)
    found: list[list[str]] = []
    while left:
        layer = [n for n, one in left.items() if not any(w in left for w in _wishes(one))]
        layer = layer or list(left)
        found.append(layer)
        for name in layer:
            del left[name]
    return found


def closure(names: Iterable[str], next_ones: Callable[[str], Collection[str]]) -> set[str]:
    """Everything that is reached from `names`, without these themselves."""
    start = set(names)
    found: set[str] = set()
    queue = list(start)
    while queue:
        for name in next_ones(queue.pop()):
            if name not in found and name not in start:
                found.add(name)
                queue.append(name)
    return found


def _wishes(manifest: Manifest) -> Sequence[str]:
    return (*manifest.requires, *manifest.after)


def unmet(when: Conditions, environ: Mapping[str, str]) -> list[str]:
    """The conditions that do not hold on this machine now. Blocking: looks at files."""
    here = {"linux": "linux", "darwin": "macos"}.get(sys.platform, sys.platform)
    found: list[str] = []
    if when.os and here not in when.os:
        found.append(f"the system is {here}, not {' or '.join(when.os)}")
    found += [f"{path} does not exist" for path in when.path_exists if not _exists(path)]
    found += [f"the variable {name} is not set" for name in when.env_set if not environ.get(name)]
    found += [
        f"the program {program} is not installed"
        for program in when.command_exists
        if shutil.which(program, path=environ.get("PATH")) is None
    ]
    return found


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # no access, no such user, a NUL character
        return False
