"""Precision and recall of an index's call edges against what was traced.

An edge is *right* when the trace has a call of its target (or of what overrides it, or of what a
decorator put in its place) from the same line of the same function; it is *wrong* when the trace
contradicts it: from that line something else of the same name was called, or it is the only edge of
that line and only something else was called. Lines that never ran say nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from hostwright_codegraph.store.kinds import Edge

Place = tuple[str, str]
CONSTRUCTORS = ("__init__", "__new__", "__post_init__", "__call__")


@dataclass
class Measured:
    """What a comparison gave."""

    right: int = 0
    wrong: list[str] = field(default_factory=list[str])
    found: int = 0
    missed: list[str] = field(default_factory=list[str])

    @property
    def precision(self) -> float:
        return self.right / max(self.right + len(self.wrong), 1)

    @property
    def recall(self) -> float:
        return self.found / max(self.found + len(self.missed), 1)


def named(qualname: str) -> str:
    """A code object's name as a definition's: a lambda or comprehension is where it stands."""
    parts = [one for one in qualname.split(".") if one != "<locals>"]
    while parts and parts[-1].startswith("<"):
        parts.pop()
    return ".".join(parts)


def compare(database: Path, traced: Path) -> Measured:
    """Every traced call and every edge whose line ran."""
    graph = _Graph(database)
    ran: dict[tuple[str, str, int], set[Place]] = defaultdict(set)
    for source, by, line, target, called, _ in json.loads(traced.read_text()):
        if "<" not in called.rpartition(".")[2]:
            ran[source, named(by), line].add((target, named(called)))
    found = Measured()
    for site, happened in ran.items():
        said = graph.calls.get(site, {})
        allowed = {target: graph.stands_for(target) for target in said}
        for target in happened:
            if target not in graph.known:
                continue
            if any(target in those for those in allowed.values()):
                found.found += 1
            else:
                found.missed.append(f"{site[0]}:{site[2]} {site[1]} -> {target[0]}::{target[1]}")
        for target, those in allowed.items():
            if those & happened:
                found.right += 1
            elif _contradicted(target, happened, alone=len(said) == 1):
                found.wrong.append(f"{site[0]}:{site[2]} {site[1]} -> {target[0]}::{target[1]}")
    return found


def _contradicted(target: Place, happened: set[Place], *, alone: bool) -> bool:
    name = target[1].rpartition(".")[2]
    names = {one[1].rpartition(".")[2] for one in happened}
    return name in names or (alone and len(happened) == 1 and not names & set(CONSTRUCTORS))


class _Graph:
    """The index as it is compared."""

    def __init__(self, database: Path) -> None:
        db = sqlite3.connect(database)
        ends = (
            "FROM edge JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file "
            "JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file WHERE edge.kind"
        )
        self.calls: dict[tuple[str, str, int], dict[Place, int]] = defaultdict(dict)
        for path, qual, line, at, target, kind in db.execute(
            f"SELECT f.path, s.qual, edge.line, g.path, t.qual, edge.kind {ends} IN (1, 2)"
        ):
            self.calls[path, qual, line][at, target] = kind
        self._pairs: dict[Edge, dict[Place, set[Place]]] = {}
        for kind in (Edge.OVERRIDES, Edge.INHERITS, Edge.DECORATES):
            pairs = self._pairs[kind] = defaultdict(set)
            for path, qual, at, target in db.execute(
                f"SELECT f.path, s.qual, g.path, t.qual {ends}=?", (kind,)
            ):
                pairs[path, qual].add((at, target))
        self._below: dict[Place, set[Place]] = defaultdict(set)
        for below, above in self._pairs[Edge.OVERRIDES].items():
            for one in above:
                self._below[one].add(below)
        self.known = set(db.execute("SELECT path, qual FROM symbol JOIN file ON file.id=file"))
        self._classes = set(
            db.execute("SELECT path, qual FROM symbol JOIN file ON file.id=file WHERE kind=1")
        )
        db.close()

    def stands_for(self, target: Place) -> set[Place]:
        """What may run when this is called."""
        found: set[Place] = set()
        pending = [target]
        while pending:
            one = pending.pop()
            if one in found:
                continue
            found.add(one)
            pending += self._below[one]
            if one in self._classes:
                found |= {(one[0], f"{one[1]}.{name}") for name in CONSTRUCTORS}
                pending += self._pairs[Edge.INHERITS].get(one, ())
            for decorator in self._pairs[Edge.DECORATES].get(one, ()):
                inside = f"{decorator[1]}."
                found |= {
                    place
                    for place in self.known
                    if place[0] == decorator[0] and place[1].startswith(inside)
                }
        return found
