"""Reading connections to the ledger's file, which never create or change it."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from hostwright_kit.errors import HostError
from hostwright_kit.store import naming_the_cause


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Read for a while; SQLite's errors come as `HostError`s with their remedy."""
    with naming_the_cause(path), closing(open_readonly(path)) as db:
        yield db


def open_readonly(path: Path) -> sqlite3.Connection:
    """A reading connection; it never creates or changes the file."""
    if not path.exists():
        raise _missing(path)
    query = "SELECT 1 FROM sqlite_master WHERE name = 'entries'"
    db = _connect_readonly(path, "mode=ro")
    try:
        found = db.execute(query).fetchone()
    except sqlite3.DatabaseError as error:
        db.close()
        wal = path.with_name(f"{path.name}-wal")
        unread = wal.exists() and wal.stat().st_size
        if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or unread:
            raise
        # A copy on a disk that is read-only: nobody can be writing, and all of it is in the file.
        db = _connect_readonly(path, "mode=ro&immutable=1")
        found = db.execute(query).fetchone()
    if found is None:
        # A server is making it in this moment.
        db.close()
        raise _missing(path)
    return db


def _missing(path: Path) -> HostError:
    return HostError(
        f"There is no ledger at {path} yet.", fix="Make a first call.", code="not_found"
    )


def _connect_readonly(path: Path, options: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10, check_same_thread=False
    )
    db.row_factory = sqlite3.Row
    return db
