"""Who calls a symbol and what it calls, some steps far."""

from __future__ import annotations

from typing import NamedTuple

from hostwright_codegraph.queries.finding import Found
from hostwright_codegraph.queries.models import Call
from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.store.kinds import CONFIDENCE, EDGE_WORDS, Edge, Kind

MOST_NODES = 5_000
CALLING = (Edge.CALLS, Edge.INSTANTIATES)
CONSTRUCTORS = ("__init__", "__new__", "__post_init__", "constructor")
SURE = 0.95


class Step(NamedTuple):
    """A symbol that was reached."""

    id: int
    depth: int
    lines: tuple[int, ...]
    kind: int
    rule: int


def callers(
    index: Index, found: Found, depth: int, *, overrides: bool, tests: bool, references: bool
) -> list[Call]:
    """Everything that calls it, nearest first."""
    kinds = (*CALLING, Edge.REFERENCES, Edge.DECORATES) if references else CALLING
    steps = _walk(index, found, depth, "in", kinds, overrides=overrides)
    return _as_calls(index, steps, tests=tests)


def callees(
    index: Index, found: Found, depth: int, *, overrides: bool, tests: bool, references: bool
) -> list[Call]:
    """Everything that it calls, nearest first."""
    kinds = (*CALLING, Edge.REFERENCES) if references else CALLING
    steps = _walk(index, found, depth, "out", kinds, overrides=overrides)
    return _as_calls(index, steps, tests=tests)


def _walk(
    index: Index,
    found: Found,
    depth: int,
    way: str,
    kinds: tuple[Edge, ...],
    *,
    overrides: bool,
) -> list[Step]:
    reached: dict[int, Step] = {}
    edge = set(found.ids)
    seen = set(edge)
    for far in range(1, depth + 1):
        around = edge | _same_call(index, edge, way, overrides=overrides)
        rows = index.edges_in(around, kinds) if way == "in" else index.edges_out(around, kinds)
        edge = set()
        lines: dict[int, list[int]] = {}
        for row in rows:
            other = row["src"] if way == "in" else row["dst"]
            lines.setdefault(other, []).append(row["line"])
            if other in seen and other not in edge:
                continue
            known = reached.get(other)
            if known is None or row["rule"] < known.rule:
                reached[other] = Step(other, far, (), row["kind"], row["rule"])
            seen.add(other)
            edge.add(other)
        for other in edge:
            reached[other] = reached[other]._replace(lines=tuple(sorted(set(lines[other]))))
        if way == "out" and overrides:
            for number in _overriding(index, edge) - seen:
                reached[number] = Step(number, far, (), Edge.OVERRIDES, 1)
                seen.add(number)
                edge.add(number)
        if not edge or len(reached) > MOST_NODES:
            break
    return sorted(reached.values(), key=lambda one: one.depth)


def _same_call(index: Index, ids: set[int], way: str, *, overrides: bool) -> set[int]:
    """What else a call of these is written as: of a method, those it overrides; of a constructor,
    its class."""
    if way == "out":
        return set()
    more: set[int] = set()
    for symbol in index.by_id(ids).values():
        if symbol.kind == Kind.METHOD and symbol.name in CONSTRUCTORS and symbol.parent:
            more.add(symbol.parent)
    if overrides:
        pending = set(ids)
        while pending:
            above = {row["dst"] for row in index.edges_out(pending, (Edge.OVERRIDES,))}
            pending = above - more - ids
            more |= pending
    return more


def _overriding(index: Index, ids: set[int]) -> set[int]:
    found: set[int] = set()
    pending = set(ids)
    while pending:
        below = {row["src"] for row in index.edges_in(pending, (Edge.OVERRIDES,))}
        pending = below - found
        found |= pending
    return found


def _as_calls(index: Index, steps: list[Step], *, tests: bool) -> list[Call]:
    symbols = index.by_id(step.id for step in steps)
    pairs = [(step, symbols[step.id]) for step in steps if step.id in symbols]
    kept = [(step, one) for step, one in pairs if tests or not one.is_test]
    kept.sort(key=lambda pair: (pair[0].depth, pair[1].is_test, pair[1].path, pair[1].line))
    return [_call(step, one) for step, one in kept]


def _call(step: Step, symbol: Symbol) -> Call:
    confidence = CONFIDENCE[step.rule]
    return Call(
        name=symbol.shown,
        kind=symbol.word,
        at=symbol.at,
        lines=list(step.lines[:20]),
        depth=step.depth,
        how=EDGE_WORDS[step.kind],
        confidence=confidence if confidence < SURE else None,
        test=symbol.is_test or None,
    )


def unresolved_named(index: Index, found: Found) -> tuple[int, list[str]]:
    """Calls of a symbol's name that lead nowhere: they may be calls of it."""
    symbol = found.symbol
    name = symbol.name
    if symbol.name in CONSTRUCTORS and symbol.parent is not None:
        name = index.by_id([symbol.parent])[symbol.parent].name
    return _unresolved(index, "unresolved.name=?", name)


def unresolved_in(index: Index, found: Found) -> tuple[int, list[str]]:
    """Calls in a symbol that lead nowhere."""
    total, places = 0, list[str]()
    for number in found.ids:
        count, some = _unresolved(index, "unresolved.src=?", number)
        total += count
        places += some
    return total, places


def _unresolved(index: Index, where: str, value: object) -> tuple[int, list[str]]:
    row = index.one(f"SELECT count(*) FROM unresolved WHERE {where}", value)  # noqa: S608
    rows = index.rows(
        "SELECT file.path, unresolved.line, text FROM unresolved "  # noqa: S608
        "JOIN symbol ON symbol.id=unresolved.src JOIN file ON file.id=symbol.file "
        f"WHERE {where} ORDER BY file.path, unresolved.line LIMIT 5",
        value,
    )
    return (row[0] if row else 0), [f"{one[0]}:{one[1]} {one[2]}" for one in rows]
