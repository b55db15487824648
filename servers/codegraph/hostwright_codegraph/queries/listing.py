"""The project's tree with counts, and how the index as a whole is."""

from __future__ import annotations

import json
from typing import Any

from hostwright_codegraph.queries.models import FileLine
from hostwright_codegraph.queries.reader import Index
from hostwright_codegraph.store.kinds import CALL_KINDS, EDGE_WORDS
from hostwright_codegraph.store.schema import GENERATED, TEST, VENDORED

MOST_PROBLEMS = 20
_NOTES = ((TEST, "test"), (GENERATED, "generated"), (VENDORED, "vendored"))


def tree(index: Index, path: str | None, depth: int, language: str | None) -> list[FileLine]:
    """Files and folders below a path, folders summed up where `depth` ends."""
    prefix = f"{path.strip('/')}/" if path and path.strip("/.") else ""
    rows = index.rows(
        "SELECT path, language, lines, flags, problem, "
        "(SELECT count(*) FROM symbol WHERE symbol.file=file.id AND kind>0) AS symbols FROM file "
        "WHERE substr(path, 1, ?)=? AND (? IS NULL OR language=?) ORDER BY path",
        *(len(prefix), prefix, language, language),
    )
    folders: dict[str, list[int]] = {}
    found: dict[str, FileLine | None] = {}
    for row in rows:
        parts = row["path"][len(prefix) :].split("/")
        if len(parts) > depth:
            name = prefix + "/".join(parts[:depth]) + "/"
            sums = folders.setdefault(name, [0, 0, 0])
            for number, more in enumerate((1, row["lines"], row["symbols"])):
                sums[number] += more
            found.setdefault(name, None)
            continue
        notes = [word for bit, word in _NOTES if row["flags"] & bit]
        if row["problem"]:
            notes.append(row["problem"])
        found[row["path"]] = FileLine(
            path=row["path"],
            language=row["language"],
            lines=row["lines"],
            symbols=row["symbols"],
            note=", ".join(notes) or None,
        )
    return [
        line
        or FileLine(
            path=name, files=folders[name][0], lines=folders[name][1], symbols=folders[name][2]
        )
        for name, line in found.items()
    ]


def counts(index: Index) -> dict[str, Any]:
    """The figures of a `ProjectState`."""
    edges = {
        EDGE_WORDS[row[0]]: row[1]
        for row in index.rows("SELECT kind, count(*) FROM edge GROUP BY kind ORDER BY kind")
    }
    resolved = sum(edges.get(EDGE_WORDS[kind], 0) for kind in CALL_KINDS)
    unresolved = _number(index, "SELECT count(*) FROM unresolved")
    problems = [
        f"{row[0]}: {row[1]}"
        for row in index.rows("SELECT path, problem FROM file WHERE problem IS NOT NULL ORDER BY 1")
    ]
    problems += (index.meta("unseen") or "").splitlines()
    return {
        "files": _number(index, "SELECT count(*) FROM file"),
        "symbols": _number(index, "SELECT count(*) FROM symbol"),
        "edges": edges,
        "languages": {
            row[0]: row[1]
            for row in index.rows(
                "SELECT language, count(*) FROM file GROUP BY language ORDER BY 2 DESC"
            )
        },
        "languages_not_read": json.loads(index.meta("unread") or "{}"),
        "calls_resolved": resolved,
        "calls_unresolved": unresolved,
        "calls_outside": _number(index, "SELECT coalesce(sum(outside), 0) FROM file"),
        "unresolved_share": round(unresolved / (resolved + unresolved), 4)
        if resolved + unresolved
        else None,
        "problems": problems[:MOST_PROBLEMS],
        "problems_total": len(problems),
    }


def _number(index: Index, sql: str) -> int:
    row = index.one(sql)
    return row[0] if row else 0
