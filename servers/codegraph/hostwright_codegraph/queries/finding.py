"""From what somebody wrote to the one definition that is meant, or a refusal that helps."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from hostwright_codegraph.indexing.symbols import split_words
from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.store.kinds import Kind
from hostwright_kit.errors import HostError

MOST_CHOICES = 10
MOST_GUESSES = 5
_LINE = re.compile(r"^(?P<path>.+):(?P<line>\d{1,9})$")


class Found(NamedTuple):
    """The definition; with all that share its name in one file (overloads, alternatives)."""

    symbol: Symbol
    ids: tuple[int, ...]


def find(index: Index, asked: str) -> Found:
    """The definition that `asked` names: a name, a qualified name, path::name or path:line."""
    candidates = _candidates(index, asked.strip())
    places = {(one.path, one.qual): one for one in reversed(candidates)}
    if len(places) == 1:
        return Found(candidates[0], tuple(one.id for one in candidates))
    if places:
        listed = "; ".join(
            f"{one.path}::{one.shown} (line {one.line})"
            for one in list(reversed(places.values()))[:MOST_CHOICES]
        )
        more = len(places) - MOST_CHOICES
        raise HostError(
            f"{asked!r} names {len(places)} definitions: {listed}"
            + (f" and {more} more." if more > 0 else "."),
            fix="Ask for one of them as path::name.",
            code="ambiguous",
        )
    guesses = similar(index, asked)
    raise HostError(
        f"There is no {asked!r} in {index.root.name}."
        + (f" Did you mean {', '.join(guesses)}?" if guesses else ""),
        fix="Use a name that codegraph_search finds; an answer for another symbol would be wrong.",
        code="no_such_symbol",
    )


def _candidates(index: Index, asked: str) -> list[Symbol]:
    if "::" in asked:
        path, _, qual = asked.partition("::")
        return index.symbols("path=? AND qual=?", path, qual)
    at = _LINE.match(asked)
    if at is not None:
        inside = index.symbols(
            "path=? AND line<=? AND last>=? AND kind!=? ORDER BY line DESC",
            *(at["path"], int(at["line"]), int(at["line"]), Kind.VARIABLE),
        )
        if inside:
            return inside[:1]
    files = index.symbols("path=? AND kind=?", asked, Kind.MODULE)
    if files:
        return files
    name = asked.rpartition(".")[2]
    exact = index.symbols("name=? COLLATE NOCASE AND name=? ORDER BY path, line", name, name)
    whole = [
        one for one in exact if asked in (one.full, one.qual) and (one.qual or one.module == asked)
    ]
    found = whole or [one for one in exact if one.full.endswith(f".{asked}")]
    # A module that is called as its class is not what a bare name means.
    return [one for one in found if one.kind != Kind.MODULE] or found


def similar(index: Index, asked: str) -> list[str]:
    """Names that look like it."""
    name = asked.rpartition(".")[2].rpartition(":")[2]
    words = split_words(name).split()
    near: dict[str, str] = {}
    patterns = [f"{name[:3]}%", f"%{name[-4:]}"] if len(name) > 3 else [f"{name}%"]
    rows: list[str] = []
    for pattern in patterns:
        rows += [
            row[0]
            for row in index.rows(
                "SELECT DISTINCT name FROM symbol WHERE name LIKE ? LIMIT 2000", pattern
            )
        ]
    if words:
        query = " OR ".join(f'"{word}"' for word in words)
        rows += [
            row[0]
            for row in index.rows(
                "SELECT DISTINCT name FROM symbol WHERE id IN "
                "(SELECT rowid FROM words WHERE words MATCH ? LIMIT 500)",
                query,
            )
        ]
    for row in rows:
        near.setdefault(row.lower(), row)
    close = difflib.get_close_matches(name.lower(), near, n=MOST_GUESSES, cutoff=0.6)
    return [near[one] for one in close]
