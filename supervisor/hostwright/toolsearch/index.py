"""BM25 over what tools say of themselves, by SQLite's FTS5 in memory.

Identifiers are split at underscores and changes of case (`listOpenPorts` → list open ports),
accents are folded, words stemmed (Porter). A few everyday words stand for those that tools use.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

# Columns: name, title, description, parameters, their descriptions, server.
WEIGHTS = (10.0, 6.0, 3.0, 2.0, 1.0, 1.5)
MAX_TEXT_CHARS = 4_000
MAX_QUERY_WORDS = 40
MAX_DEPTH = 4
MAX_REMEMBERED = 20_000

_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
# Scripts without spaces between words: each sign is a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f])")
_STOP_WORDS = """
    a an and are as at be by can could do does for from get give has have how i if in into is it
    its me my of on or our please show so some tell than that the their them then there these
    they this to us use using want was what when where which who will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
# What people say → what tools are called. Only everyday words with one obvious meaning.
_ALSO: Mapping[str, tuple[str, ...]] = {
    "command": ("shell", "exec"),
    "copy": ("duplicate",),
    "cpu": ("processor", "load"),
    "daemon": ("service",),
    "delete": ("remove", "trash"),
    "directory": ("folder",),
    "disk": ("filesystem", "storage"),
    "execute": ("run", "exec"),
    "find": ("search",),
    "finished": ("state", "status", "ended"),
    "folder": ("directory",),
    "grep": ("search", "ripgrep"),
    "history": ("log",),
    "hot": ("temperature",),
    "kill": ("end", "stop", "terminate", "signal"),
    "log": ("journal",),
    "memory": ("ram",),
    "processor": ("cpu",),
    "program": ("process", "command"),
    "ram": ("memory",),
    "rename": ("move",),
    "remove": ("delete", "trash"),
    "restore": ("undo",),
    "run": ("exec", "execute"),
    "search": ("find",),
    "running": ("state", "status"),
    "stop": ("end", "cancel"),
    "terminal": ("shell",),
    "terminate": ("end", "stop", "kill"),
    "undo": ("restore", "revert"),
}


class Document(NamedTuple):
    """One tool as the index sees it."""

    shown: str
    server: str
    name: str
    title: str
    description: str
    parameters: str
    details: str
    about: str

    @classmethod
    def of(cls, shown: str, server: str, entry: Mapping[str, Any], about: str) -> Document:
        """From a tool's listing; of whatever shape, it is a stranger's."""
        annotations = entry.get("annotations")
        hints = cast("Mapping[str, Any]", annotations) if isinstance(annotations, Mapping) else {}
        found = list(_parameters(entry.get("inputSchema"), MAX_DEPTH))
        return cls(
            shown=shown,
            server=server,
            name=words(shown),
            title=words(f"{_text(entry.get('title'))} {_text(hints.get('title'))}"),
            description=words(_text(entry.get("description"))),
            parameters=words(" ".join(name for name, _ in found)),
            details=words(" ".join(text for _, text in found)[:MAX_TEXT_CHARS]),
            about=words(f"{server} {about}"),
        )


class ToolIndex:
    """A search over a fixed set of tools."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._db.execute(
            "CREATE VIRTUAL TABLE tools USING fts5(shown UNINDEXED, server UNINDEXED, name, title, "
            "description, parameters, details, about, "
            "tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO tools VALUES (?, ?, ?, ?, ?, ?, ?, ?)", documents)
        self._db.execute("COMMIT")

    def search(self, query: str, limit: int, server: str | None = None) -> list[str]:
        """The shown names that fit best, best first."""
        terms = _query(query)
        if not terms:
            return []
        weights = ", ".join(str(weight) for weight in (0.0, 0.0, *WEIGHTS))
        only = "AND server = ?" if server is not None else ""
        rows = self._db.execute(
            f"SELECT shown FROM tools WHERE tools MATCH ? {only} "  # noqa: S608 - our own words
            f"ORDER BY bm25(tools, {weights}), shown LIMIT ?",
            (terms, *([server] if server is not None else []), limit),
        ).fetchall()
        return [str(row[0]) for row in rows]


@lru_cache(maxsize=MAX_REMEMBERED)
def words(text: str) -> str:
    """Text as words that can be found: identifiers taken apart, accents folded.

    Remembered, because after a change of one tool all others are indexed again as they were.
    """
    spaced = _CASE.sub(" ", text[:MAX_TEXT_CHARS])
    if spaced.isascii():
        return spaced.replace("_", " ").lower()
    plain = unicodedata.normalize("NFKD", _UNSPACED.sub(r" \1 ", spaced)).casefold()
    unmarked = "".join(char for char in plain if not unicodedata.combining(char))
    return " ".join(_WORD.findall(unmarked))


def _query(text: str) -> str:
    """An FTS5 query: any of the words, or a word that begins with one of the longer ones."""
    given = _WORD.findall(words(text))
    wanted = [word for word in given if word not in _STOP] or given
    terms: list[str] = []
    for word in dict.fromkeys(wanted[:MAX_QUERY_WORDS]):
        terms.append(f'"{word}"')
        if len(word) >= 4:
            terms.append(f'"{word}" *')
        also = _ALSO.get(word) or _ALSO.get(word.removesuffix("s")) or ()
        terms += [f'"{other}"' for other in also]
    return " OR ".join(dict.fromkeys(terms))


def _parameters(schema: object, depth: int) -> Iterator[tuple[str, str]]:
    """Names and descriptions, those inside of objects and lists too."""
    if depth == 0 or not isinstance(schema, Mapping):
        return
    fields = cast("Mapping[str, Any]", schema)
    properties = fields.get("properties")
    named = cast("Mapping[str, Any]", properties) if isinstance(properties, Mapping) else {}
    for name, inner in named.items():
        details = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {}
        choices = details.get("enum")
        listed = cast("list[Any]", choices) if isinstance(choices, list) else []
        texts = (_text(details.get("description")), *(_text(one) for one in listed))
        yield str(name), " ".join(texts)
        yield from _parameters(details, depth - 1)
        yield from _parameters(details.get("items"), depth - 1)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
