"""The state of the file tools on disk: one SQLite database and the folders beside it.

    STATE/history.db     which backups and trash items there are
    STATE/blobs/ab/…     contents of backups, named by their SHA-256
    STATE/trash/ID/item  what was deleted
    STATE/inflight/…     writes under way, see `inflight`

Several servers may share the folder: whoever changes it holds `STATE/lock` (flock) and, within the
process, a mutex.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostwright_kit.paths import ensure_private
from hostwright_kit.store import open_store

_MIGRATIONS = (
    """
    CREATE TABLE backups (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        path BLOB NOT NULL,
        sha256 TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL,
        reason TEXT NOT NULL,
        created_at REAL NOT NULL
    );
    CREATE INDEX backups_by_path ON backups (path, seq);
    CREATE INDEX backups_by_sha256 ON backups (sha256);
    CREATE TABLE trash (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        path BLOB NOT NULL,
        kind TEXT NOT NULL,
        entries INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        deleted_at REAL NOT NULL,
        arrived INTEGER NOT NULL
    );
    """,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept, and what is refused because it could not be kept."""

    backup_file_bytes: int = 64 * 1024 * 1024
    backups_per_path: int = 20
    backup_bytes_per_path: int = 256 * 1024 * 1024
    backups: int = 5_000
    backup_bytes: int = 2 * 1024 * 1024 * 1024
    trash_items: int = 1_000
    trash_bytes: int = 10 * 1024 * 1024 * 1024


class History:
    """The opened state folder; shared by the backup and the trash store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs, self.trash, self.inflight = (
            folder / name for name in ("blobs", "trash", "inflight")
        )
        for each in (folder, self.blobs, self.trash, self.inflight):
            ensure_private(each)
        self._mutex = threading.RLock()
        self._lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._depth = 0
        self.db = open_store(folder / "history.db", _MIGRATIONS)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Alone with the state folder, among all threads and processes. May be nested."""
        with self._mutex:
            if not self._depth:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        with self._mutex:
            self.db.close()
            os.close(self._lock_fd)


def new_id(prefix: str) -> str:
    """A fresh identifier, such as `bk_0f3c…`."""
    return f"{prefix}_{secrets.token_hex(8)}"


def stored_path(path: str) -> bytes:
    """Paths are bytes on disk and in the database: any name comes back as it was."""
    return os.fsencode(path)
