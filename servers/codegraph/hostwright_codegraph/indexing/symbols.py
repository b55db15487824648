"""A file's definitions as rows, with ids that last while the definition does."""

from __future__ import annotations

import re
import sqlite3
from typing import NamedTuple

from hostwright_codegraph.flow.project import class_of
from hostwright_codegraph.languages.facts import CLASS, FUNCTION, Scope
from hostwright_codegraph.store.kinds import Kind

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Symbol(NamedTuple):
    """One definition."""

    scope: int
    parent: int
    """Index of the scope around it, -1 for the file itself."""
    kind: int
    name: str
    qual: str
    line: int
    last: int
    doc: str


def symbols_of(scopes: list[Scope], path: str, module: str) -> list[Symbol]:
    """The file itself, its classes, functions and methods, and its variables."""
    found: list[Symbol] = []
    for scope in scopes:
        if scope.kind == FUNCTION:
            kind = Kind.METHOD if class_of(scope) is not None else Kind.FUNCTION
        else:
            kind = Kind.CLASS if scope.kind == CLASS else Kind.MODULE
        name = scope.name or module.rpartition(".")[2] or path
        found.append(
            Symbol(
                scope.index,
                scope.parent,
                kind,
                name,
                scope.qual,
                scope.line,
                scope.end,
                scope.doc,
            )
        )
        for variable, line in scope.variables:
            qual = f"{scope.qual}.{variable}" if scope.qual else variable
            found.append(Symbol(-1, scope.index, Kind.VARIABLE, variable, qual, line, line, ""))
    return found


def split_words(text: str) -> str:
    """`getUser_name` as `get user name`: what somebody who asks in words would write."""
    return " ".join(word.lower() for word in _WORD.findall(text))


def words_of(name: str, qual: str, path: str, doc: str) -> str:
    """What full-text search knows of a symbol."""
    return f"{name.lower()} {split_words(qual)} {split_words(path)} {doc.lower()}"


def write_symbols(
    db: sqlite3.Connection, file: int, path: str, symbols: list[Symbol]
) -> dict[int, int]:
    """Bring the rows of a file up to date; the ids by index of the scope."""
    old: dict[tuple[str, int], list[sqlite3.Row]] = {}
    for row in db.execute("SELECT * FROM symbol WHERE file=? ORDER BY id", (file,)):
        old.setdefault((row["qual"], row["kind"]), []).append(row)
    if not old:
        return _write_new(db, file, path, symbols)
    ids: dict[int, int] = {}
    for symbol in symbols:
        known = old.get((symbol.qual, symbol.kind))
        row = known.pop(0) if known else None
        parent = ids.get(symbol.parent)
        values = (symbol.scope, parent, symbol.line, symbol.last, symbol.doc)
        if row is None:
            cursor = db.execute(
                "INSERT INTO symbol(file, scope, parent, kind, name, qual, line, last, doc) "
                "VALUES(?,?,?,?,?,?,?,?,?)",
                (
                    *(file, symbol.scope, parent, symbol.kind, symbol.name, symbol.qual),
                    *(symbol.line, symbol.last, symbol.doc),
                ),
            )
            number = cursor.lastrowid or 0
            _index_words(db, number, words_of(symbol.name, symbol.qual, path, symbol.doc))
        else:
            number = row["id"]
            db.execute(
                "UPDATE symbol SET name=?, scope=?, parent=?, line=?, last=?, doc=? WHERE id=?",
                (symbol.name, *values, number),
            )
            if (row["name"], row["doc"]) != (symbol.name, symbol.doc):
                _forget_words(db, row, path)
                _index_words(db, number, words_of(symbol.name, symbol.qual, path, symbol.doc))
        if symbol.scope >= 0:
            ids[symbol.scope] = number
    for rows in old.values():
        for row in rows:
            _delete(db, row, path)
    return ids


def _write_new(
    db: sqlite3.Connection, file: int, path: str, symbols: list[Symbol]
) -> dict[int, int]:
    """The rows of a file that has none yet, in one go."""
    last = db.execute("SELECT coalesce(max(id), 0) FROM symbol").fetchone()[0]
    ids: dict[int, int] = {}
    rows: list[tuple[object, ...]] = []
    words: list[tuple[int, str]] = []
    for number, one in enumerate(symbols, last + 1):
        rows.append(
            (
                *(number, file, one.scope, ids.get(one.parent), one.kind, one.name, one.qual),
                *(one.line, one.last, one.doc),
            )
        )
        words.append((number, words_of(one.name, one.qual, path, one.doc)))
        if one.scope >= 0:
            ids[one.scope] = number
    db.executemany("INSERT INTO symbol VALUES(?,?,?,?,?,?,?,?,?,?)", rows)
    db.executemany("INSERT INTO words(rowid, text) VALUES(?,?)", words)
    return ids


def delete_symbols(db: sqlite3.Connection, file: int, path: str) -> None:
    """Take a file's definitions out, with every edge from and to them."""
    for row in db.execute("SELECT * FROM symbol WHERE file=?", (file,)).fetchall():
        _delete(db, row, path)


def _delete(db: sqlite3.Connection, row: sqlite3.Row, path: str) -> None:
    number = row["id"]
    db.execute("DELETE FROM edge WHERE src=?", (number,))
    db.execute("DELETE FROM edge WHERE dst=?", (number,))
    db.execute("DELETE FROM unresolved WHERE src=?", (number,))
    _forget_words(db, row, path)
    db.execute("DELETE FROM symbol WHERE id=?", (number,))


def _index_words(db: sqlite3.Connection, number: int, words: str) -> None:
    db.execute("INSERT INTO words(rowid, text) VALUES(?,?)", (number, words))


def _forget_words(db: sqlite3.Connection, row: sqlite3.Row, path: str) -> None:
    # An index without content is told what it was told before.
    words = words_of(row["name"], row["qual"], path, row["doc"])
    db.execute("INSERT INTO words(words, rowid, text) VALUES('delete',?,?)", (row["id"], words))
