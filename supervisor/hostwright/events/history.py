"""Durable events as the ledger has them.

Every process of the installation appends to the ledger, so reading it is also how the daemon
learns of approvals. `PRAGMA data_version` says in microseconds whether anybody has written since
the last look; old entries are looked for in the ledger's archives. Blocking; one thread at a time
uses the connection.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hostwright.events.kinds import ENTRY_TYPES, Scalar, keep
from hostwright_kit.archives import Archive, Sources, archives_of
from hostwright_kit.ledger_reading import open_readonly
from hostwright_kit.store import naming_the_cause

PAGE = 500
_MARKS = ", ".join("?" * len(ENTRY_TYPES))
# By type first: between two durable events there may be a million calls.
_FROM = f"FROM entries INDEXED BY entries_type WHERE type IN ({_MARKS})"
Result = TypeVar("Result")


class Recorded(NamedTuple):
    """One durable event."""

    ledger: int
    at: float
    kind: str
    fields: dict[str, Scalar]
    size: int


class History:
    """Reads one ledger. Opened by the first question, closed by `close`, and opened again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._version = -1

    def head(self) -> int:
        """The number of the newest entry of any type."""
        return self._ask(lambda db: db.execute("SELECT max(seq) FROM entries").fetchone()[0] or 0)

    def back(self, count: int) -> int:
        """The ledger number after which there are `count` durable events, or fewer."""
        query = f"SELECT seq {_FROM} AND seq > ? ORDER BY seq DESC LIMIT ?"
        left, found = count + 1, 0
        with Sources.of(self._path) as sources:
            for source in sources.newest_first():
                if isinstance(source, Archive):
                    # What is before it cannot be told either.
                    return source.last
                db, above = source
                seqs = [seq for (seq,) in db.execute(query, (*ENTRY_TYPES, above, left))]
                left -= len(seqs)
                if left == 0:
                    found = int(seqs[-1])
                    break
        return found

    def between(self, above: int, upto: int) -> Sequence[Recorded]:
        """A page of durable events above one number, up to and including the other."""
        query = f"SELECT * {_FROM} AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"

        def look(db: sqlite3.Connection) -> Sequence[Recorded] | None:
            if (archives := archives_of(self._path, db)) and archives[-1].last > above:
                return None
            rows = db.execute(query, (*ENTRY_TYPES, above, upto, PAGE))
            return [_recorded(row) for row in rows]

        found = self._ask(look)
        return self._between_archived(query, above, upto) if found is None else found

    def _between_archived(self, query: str, above: int, upto: int) -> Sequence[Recorded]:
        found: list[Recorded] = []
        with Sources.of(self._path) as sources:
            for db, start in sources.oldest_first(above):
                values = (*ENTRY_TYPES, start, upto, PAGE - len(found))
                found += [_recorded(row) for row in db.execute(query, values)]
                if len(found) == PAGE:
                    break
        return found

    def new(self, above: int) -> Sequence[Recorded]:
        """A page of durable events above this number; cheap when nobody has written."""

        def changed(db: sqlite3.Connection) -> bool:
            version = db.execute("PRAGMA data_version").fetchone()[0]
            same, self._version = version == self._version, version
            return not same

        if not self._ask(changed):
            return ()
        found = self.between(above, 2**62)
        if len(found) == PAGE:
            self._version = -1  # there is more
        return found

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db, self._version = None, -1

    def _ask(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._lock, naming_the_cause(self._path):
            if self._db is None:
                self._db = open_readonly(self._path)
            return look(self._db)


def _recorded(row: sqlite3.Row) -> Recorded:
    kind = ENTRY_TYPES[row["type"]]
    body: dict[str, Any] = json.loads(row["body"])
    columns = {name: row[name] for name in ("caller", "server", "tool")}
    fields, size = keep(kind, {**body.get("detail", {}), **columns})
    at = datetime.fromisoformat(row["time"]).timestamp()
    return Recorded(row["seq"], at, kind, fields, size)
