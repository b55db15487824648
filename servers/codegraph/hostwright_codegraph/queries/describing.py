"""One definition with its source and its neighbours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hostwright_codegraph.queries.budget import Budget
from hostwright_codegraph.queries.calling import CALLING, unresolved_in
from hostwright_codegraph.queries.finding import Found
from hostwright_codegraph.queries.models import Definition
from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.queries.searching import definition
from hostwright_codegraph.store.kinds import Edge, Kind

MAX_SIGNATURE_LINES = 12
MAX_SIGNATURE = 600
MAX_READ = 2 * 1024 * 1024
_BODY = re.compile(r"[:{]\s*(#.*|//.*)?$")


def source_lines(root: Path, symbol: Symbol) -> list[str]:
    """The lines of a definition, as they are now; none when the file is gone."""
    path = root / symbol.path
    try:
        # Where a link was put since the scan, nothing is read through it.
        if path.resolve() != path or not path.is_file():
            return []
        with path.open("rb") as file:
            text = file.read(MAX_READ).decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[symbol.line - 1 : symbol.last]


def signature(lines: list[str]) -> str:
    """The head of a definition, on one line."""
    head: list[str] = []
    depth = 0
    for line in lines[:MAX_SIGNATURE_LINES]:
        head.append(line.strip())
        depth += sum(map(line.count, "([")) - sum(map(line.count, ")]"))
        if depth <= 0 and _BODY.search(line):
            break
    return re.sub(r"\(\s+", "(", " ".join(head))[:MAX_SIGNATURE]


def describe(index: Index, found: Found, budget: Budget, *, source: bool) -> dict[str, Any]:
    """The fields of a `Node`; what does not fit is named in `left_out`."""
    symbol, ids = found
    lines = source_lines(index.root, symbol)
    answer: dict[str, Any] = {
        "symbol": definition(symbol),
        "signature": "" if symbol.kind == Kind.MODULE else signature(lines),
    }
    budget.take(answer["symbol"])
    budget.take(answer["signature"])
    answer["callers"] = len({row["src"] for row in index.edges_in(ids, CALLING)})
    answer["callees"] = len({row["dst"] for row in index.edges_out(ids, CALLING)})
    answer["unresolved"] = unresolved_in(index, found)[0]
    left_out: list[str] = []
    relations = {
        "bases": [row["dst"] for row in index.edges_out(ids, (Edge.INHERITS,))],
        "derived": [row["src"] for row in index.edges_in(ids, (Edge.INHERITS,))],
        "overrides": [row["dst"] for row in index.edges_out(ids, (Edge.OVERRIDES,))],
        "overridden_by": [row["src"] for row in index.edges_in(ids, (Edge.OVERRIDES,))],
    }
    for name, others in relations.items():
        known = index.by_id(others)
        shown = [f"{one.shown} {one.at}" for one in known.values()]
        answer[name] = [one for one in shown if budget.take(one)]
        if len(answer[name]) < len(shown):
            left_out.append(f"{name}: {len(shown) - len(answer[name])} of {len(shown)}")
    inner = members(index, ids)
    answer["members"] = [one for one in inner if budget.take(one)]
    if len(answer["members"]) < len(inner):
        left_out.append(f"members: {len(inner) - len(answer['members'])} of {len(inner)}")
    if source and symbol.kind != Kind.MODULE:
        text, complete = budget.cut("\n".join(lines))
        answer["source"], answer["source_complete"] = text, complete
        if not complete:
            left_out.append(f"source: from line {symbol.line + text.count(chr(10)) + bool(text)}")
    answer["left_out"] = left_out
    return answer


def members(index: Index, ids: tuple[int, ...]) -> list[Definition]:
    """What stands directly inside a module or class."""
    marks = ",".join("?" * len(ids))
    inside = index.symbols(f"symbol.parent IN ({marks}) ORDER BY symbol.line", *ids)
    return [definition(one, with_doc=False) for one in inside]
