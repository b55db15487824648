"""Finding definitions: exactly, by beginning, by words, by pattern, and what was nearly written."""

from __future__ import annotations

import re
from typing import Literal

from hostwright_codegraph.indexing.symbols import split_words
from hostwright_codegraph.queries.finding import similar
from hostwright_codegraph.queries.models import Definition
from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.store.kinds import Kind
from hostwright_codegraph.store.schema import GENERATED, TEST, VENDORED
from hostwright_kit.errors import HostError

MOST = 1000
How = Literal["auto", "exact", "words", "regex"]


def search(
    index: Index,
    query: str,
    how: How = "auto",
    kind: str | None = None,
    path: str | None = None,
    language: str | None = None,
    *,
    tests: bool = True,
) -> tuple[list[Definition], list[str]]:
    """What matches, best first; and what was perhaps meant when nothing does."""
    limits, values = _limits(kind, path, language, tests=tests)
    finders = {
        "exact": [_exact],
        "words": [_words],
        "regex": [_regex],
        "auto": [_exact, _beginning, _words],
    }[how]
    found: dict[int, Symbol] = {}
    for finder in finders:
        for one in finder(index, query.strip(), limits, values):
            found.setdefault(one.id, one)
        if len(found) >= MOST:
            break
    results = [definition(one) for one in list(found.values())[:MOST]]
    return results, [] if results else similar(index, query)


def definition(symbol: Symbol, *, with_doc: bool = True) -> Definition:
    """A symbol in one line."""
    doc = symbol.doc if with_doc and symbol.doc else None
    return Definition(name=symbol.shown, kind=symbol.word, at=symbol.at, doc=doc)


def _limits(
    kind: str | None, path: str | None, language: str | None, *, tests: bool
) -> tuple[str, list[object]]:
    parts: list[str] = []
    values: list[object] = []
    if kind is not None:
        parts.append("symbol.kind=?")
        values.append(int(Kind[kind.upper()]))
    if path is not None:
        parts.append("file.path GLOB ?")
        values.append(path if any(one in path for one in "*?[") else f"{path.rstrip('/')}*")
    if language is not None:
        parts.append("file.language=?")
        values.append(language)
    if not tests:
        parts.append(f"NOT file.flags & {TEST}")
    return "".join(f" AND {part}" for part in parts), values


_ORDER = (
    f"ORDER BY file.flags & {TEST | GENERATED | VENDORED}, "
    f"symbol.kind={int(Kind.VARIABLE)}, length(symbol.qual), file.path, symbol.line"
)


def _exact(index: Index, query: str, limits: str, values: list[object]) -> list[Symbol]:
    name = query.rpartition(".")[2]
    found = index.symbols(
        f"symbol.name=? COLLATE NOCASE{limits} {_ORDER}", name, *values, limit=MOST
    )
    if "." in query:
        low = query.lower()
        found = [one for one in found if f".{one.full}".lower().endswith(f".{low}")]
    return sorted(found, key=lambda one: one.name != name)


def _beginning(index: Index, query: str, limits: str, values: list[object]) -> list[Symbol]:
    if len(query) < 2:
        return []
    escaped = re.sub(r"([\\%_])", r"\\\1", query.rpartition(".")[2])
    sql = f"symbol.name LIKE ? ESCAPE '\\'{limits} {_ORDER}"
    found = index.symbols(sql, f"{escaped}%", *values, limit=MOST)
    if "." in query:
        low = query.lower()
        found = [one for one in found if f".{low}" in f".{one.full}".lower()]
    return found


def _words(index: Index, query: str, limits: str, values: list[object]) -> list[Symbol]:
    terms = split_words(query).split()
    if not terms:
        return []
    match = " AND ".join(f'"{term}"*' for term in terms[:12])
    inside = "symbol.id IN (SELECT rowid FROM words WHERE words MATCH ?)"
    return index.symbols(
        f"{inside}{limits} {_ORDER}",
        *(match, *values),
        limit=MOST,
    )


def _regex(index: Index, query: str, limits: str, values: list[object]) -> list[Symbol]:
    import re2  # noqa: PLC0415 - linear in time, and rarely wanted

    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(query, options)
    except re2.error as error:
        raise HostError(
            f"{query!r} is no regular expression: {error}.",
            fix="Write it in RE2 syntax, or search with how=words.",
            code="bad_pattern",
        ) from error
    found: list[Symbol] = []
    for one in index.symbols(f"1{limits} {_ORDER}", *values):
        if pattern.search(one.name) or pattern.search(one.qual):
            found.append(one)
            if len(found) >= MOST:
                break
    return found
