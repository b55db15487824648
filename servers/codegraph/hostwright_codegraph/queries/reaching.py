"""What a change reaches, with callers, overrides and tests; and how one symbol reaches another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hostwright_codegraph.gitting import changed_lines
from hostwright_codegraph.queries.finding import find
from hostwright_codegraph.queries.reader import Index, Symbol, chunks
from hostwright_codegraph.store.kinds import EDGE_WORDS, Edge, Kind
from hostwright_kit.errors import HostError

REACHING = (
    Edge.CALLS,
    Edge.INSTANTIATES,
    Edge.REFERENCES,
    Edge.DECORATES,
    Edge.INHERITS,
    Edge.OVERRIDES,
)
FORWARD = (Edge.CALLS, Edge.INSTANTIATES, Edge.REFERENCES)
MOST_REACHED = 20_000


class Reached(NamedTuple):
    """A symbol, how far it is, and through which edge it was reached first."""

    symbol: Symbol
    depth: int
    via: int
    kind: int


def subjects(
    index: Index, symbols: list[str], files: list[str], against: str | None
) -> list[Symbol]:
    """The definitions that are meant: by name, by file, or by what differs from a commit."""
    found: dict[int, Symbol] = {}
    for asked in symbols:
        some = find(index, asked)
        found |= index.by_id(some.ids)
    for path in files:
        inside = index.symbols("path=? AND kind!=?", path, Kind.VARIABLE)
        if not inside:
            raise HostError(
                f"There is no {path!r} in the index of {index.root.name}.",
                fix="Name a file as codegraph_files does, from the project's top.",
                code="no_such_file",
            )
        found |= {one.id: one for one in inside}
    if against is not None:
        for path, spans in changed_lines(index.root, against).items():
            found |= {one.id: one for one in _touched(index, path, spans)}
    elif not symbols and not files:
        raise HostError(
            "What is to change was not said.",
            fix="Pass symbols, files, or diff with a commit to compare with, such as HEAD.",
            code="no_subject",
        )
    return list(found.values())


def _touched(index: Index, path: str, spans: list[tuple[int, int]]) -> Iterable[Symbol]:
    """The innermost definitions on changed lines."""
    inside = index.symbols("path=? AND kind!=? ORDER BY line", path, Kind.VARIABLE)
    found: dict[int, Symbol] = {}
    for first, last in spans:
        hit = [one for one in inside if one.line <= last and one.last >= first]
        parents = {one.parent for one in hit}
        for one in hit:
            if one.id not in parents:
                found[one.id] = one
    return found.values()


def reached_by(index: Index, start: Iterable[Symbol], depth: int) -> list[Reached]:
    """Everything that may behave differently when these change, nearest first."""
    origin = {one.id for one in start}
    seen: dict[int, tuple[int, int, int]] = {}
    edge = set(origin)
    for far in range(1, depth + 1):
        around = edge | _constructed(index, edge)
        rows = index.edges_in(around, REACHING)
        edge = set()
        for row in sorted(rows, key=lambda one: (one["kind"], one["src"])):
            other = row["src"]
            if other not in seen and other not in origin:
                seen[other] = (far, row["dst"], row["kind"])
                edge.add(other)
        # A call of what is overridden may run what overrides it.
        above = {row["dst"] for row in index.edges_out(around, (Edge.OVERRIDES,))}
        for number in above - seen.keys() - origin:
            seen[number] = (far, number, Edge.OVERRIDES)
            edge.add(number)
        if not edge or len(seen) > MOST_REACHED:
            break
    known = index.by_id(seen)
    reached = [Reached(known[number], *how) for number, how in seen.items() if number in known]
    reached.sort(key=lambda one: (one.depth, one.symbol.is_test, one.symbol.path, one.symbol.line))
    return reached


def _constructed(index: Index, ids: set[int]) -> set[int]:
    """Calling a class runs its constructor."""
    found: set[int] = set()
    for chunk in chunks(sorted(ids)):
        marks = ",".join("?" * len(chunk))
        inside = f"id IN ({marks}) AND name IN ('__init__', '__new__') AND kind={Kind.METHOD:d}"
        sql = f"SELECT parent FROM symbol WHERE {inside}"  # noqa: S608 - marks and numbers
        found |= {row[0] for row in index.rows(sql, *chunk)}
    return found


def is_test_case(symbol: Symbol) -> bool:
    """Whether a test runner would run it."""
    return symbol.is_test and symbol.name.startswith("test") and symbol.kind != Kind.MODULE


def way(index: Index, source: Symbol, targets: set[int], depth: int) -> list[str] | None:
    """The shortest chain of calls from one symbol to another, in words; None: there is none."""
    before: dict[int, tuple[int, int, int]] = {}
    edge = {source.id}
    seen = {source.id}
    for _ in range(depth):
        rows = index.edges_out(edge, FORWARD)
        # A call of a method may run what overrides it.
        called = {row["dst"] for row in rows}
        below = index.edges_in(called, (Edge.OVERRIDES,))
        steps = [(row["src"], row["dst"], row["line"], row["kind"]) for row in rows]
        steps += [(row["dst"], row["src"], 0, row["kind"]) for row in below]
        edge = set()
        for first, then, line, kind in sorted(steps, key=lambda one: one[3] == Edge.OVERRIDES):
            if then not in seen:
                seen.add(then)
                before[then] = (first, line, kind)
                edge.add(then)
        hit = edge & targets
        if hit:
            return _told(index, source.id, min(hit), before)
        if not edge or len(seen) > MOST_REACHED:
            break
    return None


def _told(
    index: Index, source: int, target: int, before: dict[int, tuple[int, int, int]]
) -> list[str]:
    chain: list[tuple[int, int, int]] = []
    at = target
    while at != source:
        first, line, kind = before[at]
        chain.append((at, line, kind))
        at = first
    known = index.by_id([source, *(one[0] for one in chain)])
    told = [f"{known[source].shown} {known[source].at}"]
    for number, line, kind in reversed(chain):
        symbol = known[number]
        how = f"{EDGE_WORDS[kind]} in line {line}" if line else "is overridden by"
        told.append(f"{how}: {symbol.shown} {symbol.at}")
    return told
