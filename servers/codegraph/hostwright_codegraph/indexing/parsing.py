"""From a file's bytes to its facts, kept by the hash of the bytes."""

from __future__ import annotations

import functools
import hashlib
import importlib
import marshal
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hostwright_codegraph.languages import LANGUAGES
from hostwright_codegraph.languages.facts import VERSION, Scope, unpack

if TYPE_CHECKING:
    from tree_sitter import Parser, Tree

MAX_BYTES = 2 * 1024 * 1024
FORMAT = f"{VERSION}:{sys.version_info.major}.{sys.version_info.minor}"
"""Facts are in Python's own binary form, which another Python may not read."""


class GrammarMissingError(Exception):
    """A language's grammar is not installed."""


def digest(source: bytes) -> bytes:
    """The name of a content."""
    return hashlib.blake2b(source, digest_size=16).digest()


@functools.cache
def _tools(language: str) -> tuple[Parser, Callable[[Tree, bytes], list[Scope]]]:
    from tree_sitter import Language, Parser  # noqa: PLC0415 - only where something is parsed

    known = LANGUAGES[language]
    try:
        grammar = importlib.import_module(known.grammar)
    except ImportError as error:
        raise GrammarMissingError(
            f"no grammar for {language}: pip install {known.grammar.replace('_', '-')}"
        ) from error
    extractor = importlib.import_module(known.extractor)
    capsule: object = getattr(grammar, known.symbol)()
    return Parser(Language(capsule)), extractor.extract


def parse(language: str, source: bytes) -> list[Scope]:
    """The facts of a source text. Any bytes are taken; what is no code says nothing."""
    parser, extract = _tools(language)
    return extract(parser.parse(source), source)


class FactStore:
    """Facts by content, in the database that all projects share."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def has(self, content: bytes, language: str) -> bool:
        """Whether these facts are there, and of today's form."""
        row = self._db.execute(
            "SELECT 1 FROM facts WHERE hash=? AND language=? AND version=?",
            (content, language, FORMAT),
        ).fetchone()
        return row is not None

    def put(self, content: bytes, language: str, scopes: list[Scope]) -> None:
        """Keep facts. The calls lie apart: only the file's own edges need them."""
        calls = [(scope.calls, scope.raises) for scope in scopes]
        for scope in scopes:
            scope.calls, scope.raises = [], []
        core = [scope.pack() for scope in scopes]
        self._db.execute(
            "INSERT OR REPLACE INTO facts VALUES(?,?,?,?,?,?)",
            (content, language, FORMAT, int(time.time()), _packed(core), _packed(calls)),
        )

    def scopes(self, content: bytes, language: str, path: str) -> list[Scope] | None:
        """The facts of a file without its calls."""
        row = self._db.execute(
            "SELECT core FROM facts WHERE hash=? AND language=? AND version=?",
            (content, language, FORMAT),
        ).fetchone()
        return unpack(_unpacked(row[0]), path) if row else None

    def calls(self, content: bytes, language: str) -> list[tuple[list[Any], list[Any]]]:
        """The calls and exceptions of each scope of a file."""
        row = self._db.execute(
            "SELECT calls FROM facts WHERE hash=? AND language=? AND version=?",
            (content, language, FORMAT),
        ).fetchone()
        return _unpacked(row[0]) if row else []

    def trim(self, most_bytes: int) -> None:
        """Drop what was not used for the longest time, beyond a bound."""
        held = self._db.execute(
            "SELECT hash, language, length(core) + length(calls) FROM facts ORDER BY seen DESC"
        )
        total = 0
        dropped: list[tuple[bytes, str]] = []
        for content, language, size in held:
            total += size
            if total > most_bytes:
                dropped.append((content, language))
        self._db.executemany("DELETE FROM facts WHERE hash=? AND language=?", dropped)


def _packed(value: Any) -> bytes:
    return zlib.compress(marshal.dumps(value), 1)


def _unpacked(value: bytes) -> Any:
    # Only what this program wrote itself into a folder that nobody else can write.
    return marshal.loads(zlib.decompress(value))  # noqa: S302
