"""Opening SQLite the one way that keeps its promises.

WAL with `synchronous=FULL`: a commit that returned survives power loss. Migrations are a list of
SQL scripts; `PRAGMA user_version` counts the ones applied, each in its own transaction. A database
that is damaged or newer than this program is refused and left untouched.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hostwright_kit.errors import HostError

BUSY_TIMEOUT_MS = 10_000


def open_store(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open (or create, mode 0600) the database at `path` and bring it to the newest schema.

    A migration may hold several statements, each beginning on a line of its own.
    The connection is in autocommit mode; group writes with `transaction`. It may be handed from
    thread to thread, but only one may use it at a time: the callers hold a lock.
    """
    _create_private(path)
    with naming_the_cause(path):
        db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            db.row_factory = sqlite3.Row
            # Before anything that writes: switching the journal changes the file.
            _refuse_newer(path, _version(db), len(migrations))
            _switch_to_wal(db)
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            _migrate(db, path, migrations)
        except BaseException:
            db.close()
            raise
    return db


@contextmanager
def naming_the_cause(path: Path) -> Generator[None]:
    """SQLite's errors about the database at `path` as `HostError`s with their remedy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _refused(path, error) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """One write transaction. IMMEDIATE, so that a reader never fails when it turns writer."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite either has rolled back by itself or, when COMMIT failed, has left
        # the transaction open, and the next BEGIN would fail for ever.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HostError(
            f"The database {path} cannot be opened: {error.strerror}.",
            fix="Give this user the file and its folder (chown, chmod 0700), or free disk space.",
            code="store_unavailable",
        ) from error


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Several processes may open a new database at once, and for this SQLite does not wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    if _version(db) == len(migrations):
        return
    with transaction(db):
        # Read again under the lock: another process may have migrated meanwhile.
        version = _version(db)
        _refuse_newer(path, version, len(migrations))
        for script in migrations[version:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(migrations)}")


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _refuse_newer(path: Path, version: int, known: int) -> None:
    if version > known:
        raise HostError(
            f"The database {path} has schema {version}, this program knows {known}.",
            fix="Upgrade hostwright; the file was left as it is.",
            code="store_newer",
        )


def _statements(script: str) -> Iterator[str]:
    """`executescript` would commit our transaction first, so statements run one by one."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise ValueError(f"A migration ends inside a statement: {pending.strip()[:80]!r}")


def _refused(path: Path, error: sqlite3.DatabaseError) -> HostError:
    # The low byte is the primary code. Python's own errors (a closed connection) carry none.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return HostError(
            f"The database {path} is damaged: {error}.",
            fix=f"It was left untouched. Move it away (mv {path} {path}.damaged) to start a new "
            "one, or restore a backup.",
            code="store_corrupt",
        )
    return HostError(
        f"The database {path} cannot be used: {error}.",
        fix="Check free disk space, the file's permissions and whether another program "
        "holds a lock on it, then try again.",
        code="store_unavailable",
    )
