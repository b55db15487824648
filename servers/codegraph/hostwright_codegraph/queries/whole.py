"""Questions about a whole project: what nobody uses, which modules need each other, what is hot."""

from __future__ import annotations

from collections import Counter

from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.store.kinds import Edge, Kind
from hostwright_codegraph.store.schema import GENERATED, TEST, VENDORED

MOST = 2_000


def dead(index: Index, path: str | None) -> list[Symbol]:
    """Definitions that nothing leads to, and whose name no unresolved call has."""
    used = (Edge.CALLS, Edge.INSTANTIATES, Edge.REFERENCES, Edge.IMPORTS, Edge.INHERITS)
    kinds = ",".join(str(int(kind)) for kind in (*used, Edge.RAISES, Edge.TYPES, Edge.DECORATES))
    out = f"{int(Edge.OVERRIDES)},{int(Edge.DECORATES)}"
    unseen = (
        f"symbol.kind IN ({Kind.CLASS:d},{Kind.FUNCTION:d},{Kind.METHOD:d}) "  # noqa: S608 - numbers of ours
        f"AND NOT file.flags & {TEST | GENERATED | VENDORED} "
        "AND symbol.name NOT LIKE '\\_\\_%' ESCAPE '\\' AND symbol.name NOT LIKE 'test%' "
        f"AND NOT EXISTS(SELECT 1 FROM edge WHERE dst=symbol.id AND kind IN ({kinds}) "
        "AND src!=symbol.id) "
        # What overrides may be called through its base, what is decorated is registered somewhere.
        f"AND NOT EXISTS(SELECT 1 FROM edge WHERE src=symbol.id AND kind IN ({out})) "
        "AND NOT EXISTS(SELECT 1 FROM unresolved WHERE unresolved.name=symbol.name) "
        "AND (? IS NULL OR file.path GLOB ?) ORDER BY file.path, symbol.line"
    )
    return index.symbols(
        unseen,
        *(path, f"{path}*" if path else None),
        limit=MOST,
    )


def cycles(index: Index) -> list[list[str]]:
    """Files that import each other in a ring, the smallest rings first."""
    after: dict[str, set[str]] = {}
    for source, target in index.rows(
        "SELECT DISTINCT f.path, g.path FROM edge "
        "JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file "
        "JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file WHERE edge.kind=? AND f.id!=g.id",
        Edge.IMPORTS,
    ):
        after.setdefault(source, set()).add(target)
    rings = [sorted(one) for one in _components(after) if len(one) > 1]
    return sorted(rings, key=lambda one: (len(one), one))


def _components(after: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan), without recursion."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for start in sorted(after):
        if start in number:
            continue
        work = [(start, iter(sorted(after.get(start, ()))))]
        number[start] = low[start] = len(number)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(after.get(other, ())))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], number[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    ring: list[str] = []
                    while not ring or ring[-1] != node:
                        ring.append(stack.pop())
                        on_stack.discard(ring[-1])
                    found.append(ring)
    return found


def hotspots(index: Index, changes: Counter[str]) -> list[tuple[str, int, int, int]]:
    """Files that change often and that much leans on: path, commits, fan-in, lines."""
    rows = index.rows(
        "SELECT g.path, g.lines, count(DISTINCT s.file) FROM edge "
        "JOIN symbol s ON s.id=src JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file "
        "WHERE s.file!=t.file AND NOT g.flags & ? GROUP BY g.id",
        TEST | GENERATED | VENDORED,
    )
    hot = [(row[0], changes[row[0]], row[2], row[1]) for row in rows if changes[row[0]]]
    return sorted(hot, key=lambda one: (-one[1] * one[2], one[0]))
