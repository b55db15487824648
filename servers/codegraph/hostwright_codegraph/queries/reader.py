"""An index, open for reading."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hostwright_codegraph.store.kinds import KIND_WORDS, Kind
from hostwright_codegraph.store.schema import PROJECT, TEST
from hostwright_kit.errors import HostError
from hostwright_kit.store import naming_the_cause, open_store

_FIELDS = (
    "symbol.id, symbol.kind, symbol.name, symbol.qual, symbol.line, symbol.last, symbol.doc, "
    "symbol.parent, file.path, file.module, file.flags"
)
_CHUNK = 500


class Symbol(NamedTuple):
    """A definition, with where it stands."""

    id: int
    kind: int
    name: str
    qual: str
    line: int
    last: int
    doc: str
    parent: int | None
    path: str
    module: str
    flags: int

    @property
    def at(self) -> str:
        """`path:line`."""
        return f"{self.path}:{self.line}"

    @property
    def word(self) -> str:
        """What kind it is."""
        return KIND_WORDS[self.kind]

    @property
    def full(self) -> str:
        """The dotted name from the import root."""
        if self.kind == Kind.MODULE:
            return self.module
        return f"{self.module}.{self.qual}" if self.path.endswith((".py", ".pyi")) else self.qual

    @property
    def shown(self) -> str:
        """The name that people use within the project."""
        return self.qual or self.module

    @property
    def is_test(self) -> bool:
        return bool(self.flags & TEST)


class Index:
    """One project's index; see `reading`."""

    def __init__(self, db: sqlite3.Connection, root: Path) -> None:
        self.db = db
        self.root = root

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """The rows of a query."""
        return self.db.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query."""
        return self.db.execute(sql, values).fetchone()

    def symbols(self, where: str, *values: object, limit: int = -1) -> list[Symbol]:
        """The definitions that a condition names."""
        sql = f"SELECT {_FIELDS} FROM symbol JOIN file ON file.id = symbol.file WHERE {where}"  # noqa: S608
        return [Symbol(*row) for row in self.db.execute(f"{sql} LIMIT {limit}", values)]

    def by_id(self, ids: Iterable[int]) -> dict[int, Symbol]:
        """Definitions by their ids."""
        found: dict[int, Symbol] = {}
        for chunk in chunks(sorted(set(ids))):
            marks = ",".join("?" * len(chunk))
            found |= {one.id: one for one in self.symbols(f"symbol.id IN ({marks})", *chunk)}
        return found

    def edges_in(self, ids: Iterable[int], kinds: Sequence[int]) -> list[sqlite3.Row]:
        """Edges that end at these."""
        return self._edges("dst", ids, kinds)

    def edges_out(self, ids: Iterable[int], kinds: Sequence[int]) -> list[sqlite3.Row]:
        """Edges that begin at these."""
        return self._edges("src", ids, kinds)

    def _edges(self, end: str, ids: Iterable[int], kinds: Sequence[int]) -> list[sqlite3.Row]:
        found: list[sqlite3.Row] = []
        which = ",".join(str(int(kind)) for kind in kinds)
        for chunk in chunks(sorted(set(ids))):
            marks = ",".join("?" * len(chunk))
            found += self.rows(
                f"SELECT src, kind, dst, line, rule FROM edge "  # noqa: S608 - numbers and marks
                f"WHERE {end} IN ({marks}) AND kind IN ({which})",
                *chunk,
            )
        return found

    def meta(self, key: str) -> str | None:
        """A fact about the index itself."""
        row = self.one("SELECT value FROM meta WHERE key=?", key)
        return row[0] if row else None


def chunks(values: Sequence[int]) -> Iterable[Sequence[int]]:
    """In pieces that SQLite takes as parameters."""
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


@contextmanager
def reading(database: Path, root: Path) -> Generator[Index]:
    """The index of a project, for one question: all of it is seen as of one moment."""
    if not database.exists():
        raise HostError(
            f"The project {root} is not indexed yet.",
            fix="Wait for its first run: codegraph_status shows how far it is.",
            code="not_indexed",
        )
    db = open_store(database, PROJECT)
    try:
        with naming_the_cause(database):
            db.execute("PRAGMA query_only=ON")
            db.execute("BEGIN")
            yield Index(db, root)
    finally:
        db.close()
