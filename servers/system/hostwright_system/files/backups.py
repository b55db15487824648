"""Earlier contents of files, kept before they are replaced.

A content-addressed store: equal contents are kept once, under their SHA-256, and checked against it
when they come back. Bounded per path and in all; the oldest go first, and who makes the backup that
pushes them out is told their ids. The blob is durable before its row, the row before the write that
it guards: a crash leaves at most a blob without a row, which the next start removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostwright_kit.errors import HostError
from hostwright_kit.store import transaction
from hostwright_system.files import cursors
from hostwright_system.files.failures import shown
from hostwright_system.files.history import History, Limits, new_id, stored_path
from hostwright_system.files.models import Backup, BackupPage
from hostwright_system.files.places import OpenFile, sync_folder
from hostwright_system.files.reading import hash_of
from hostwright_system.files.trees import write_all

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup just made, and what had to go for it."""

    backup_id: str
    sha256: str
    pruned: tuple[str, ...] = ()


class BackupStore:
    """Backups in one `History`."""

    def __init__(self, history: History, limits: Limits) -> None:
        self._history, self._limits = history, limits

    def require_room(self, file: OpenFile) -> None:
        """`HostError` when a file is too large to be kept."""
        if file.info.st_size > self._limits.backup_file_bytes:
            raise HostError(
                f"{shown(file.path)} has {file.info.st_size} bytes; backups take files up to"
                f" {self._limits.backup_file_bytes}.",
                fix="Pass without_backup=true if its present content may be lost.",
                code="too_large",
            )

    def keep(self, file: OpenFile, reason: str) -> Kept:
        """Keep what `file` holds now."""
        self.require_room(file)
        backup_id = new_id("bk")
        with self._history.locked():
            sha256, size = self._store(file.fd)
            with transaction(self._history.db):
                self._history.db.execute(
                    "INSERT INTO backups (id, path, sha256, size_bytes, mode, uid, gid, reason,"
                    " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        backup_id,
                        stored_path(file.path),
                        sha256,
                        size,
                        file.info.st_mode & 0o7777,
                        file.info.st_uid,
                        file.info.st_gid,
                        reason,
                        time.time(),
                    ),
                )
                pruned = self._prune(stored_path(file.path), keep=backup_id)
            self._drop_blobs({blob for _, blob in pruned})
        return Kept(backup_id, sha256, tuple(each for each, _ in pruned))

    def find(self, backup_id: str) -> Backup:
        """The backup with this id; `HostError` when there is none."""
        with self._history.locked():
            row = self._history.db.execute(
                "SELECT * FROM backups WHERE id = ?", (backup_id,)
            ).fetchone()
        if row is None:
            raise HostError(
                f"There is no backup {backup_id[:40]!r}.",
                fix="List them with backup_list; old ones are dropped to make room.",
                code="not_found",
            )
        return _model(row)

    def original_path(self, backup_id: str) -> str:
        """The path of the backup, with any odd bytes in its name."""
        self.find(backup_id)
        with self._history.locked():
            row = self._history.db.execute(
                "SELECT path FROM backups WHERE id = ?", (backup_id,)
            ).fetchone()
        return os.fsdecode(row[0])

    def content(self, backup: Backup) -> bytes:
        """The bytes that were kept, checked against their hash."""
        try:
            data = self._blob(backup.sha256).read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != backup.sha256:
            raise HostError(
                f"The content of backup {backup.backup_id} is missing or damaged on disk.",
                fix="Choose another backup of the file; look at the disk for errors.",
                code="damaged",
            )
        return data

    def page(self, path: str | None, limit: int, cursor: str | None) -> BackupPage:
        """Backups of the real path `path` (None: of all), newest first."""
        query = cursors.digest("backups", path)
        before = cursors.unpack(query, cursor)
        which, values = ("path = ?", [stored_path(path)]) if path is not None else ("1", [])
        with self._history.locked():
            total: int = self._history.db.execute(
                f"SELECT count(*) FROM backups WHERE {which}",  # noqa: S608 (a constant)
                values,
            ).fetchone()[0]
            rows = self._history.db.execute(
                f"SELECT * FROM backups WHERE {which} AND seq < ? ORDER BY seq DESC LIMIT ?",  # noqa: S608
                [*values, 2**62 if before is None else before, limit + 1],
            ).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        return BackupPage(
            backups=tuple(_model(row) for row in rows),
            total=total,
            next_cursor=cursors.pack(query, rows[-1]["seq"]) if more else None,
        )

    def sweep(self) -> None:
        """Remove blobs that no backup refers to (left by a crash)."""
        with self._history.locked():
            known = {row[0] for row in self._history.db.execute("SELECT sha256 FROM backups")}
            for blob in self._history.blobs.glob("*/*"):
                if blob.name not in known:
                    blob.unlink(missing_ok=True)

    def _store(self, fd: int) -> tuple[str, int]:
        """Put the bytes of `fd` under their hash; (hash, size)."""
        sha256 = hash_of(fd)
        blob = self._blob(sha256)
        with contextlib.suppress(FileNotFoundError):
            return sha256, blob.stat().st_size
        blob.parent.mkdir(mode=0o700, exist_ok=True)
        partial = blob.with_name(f"{sha256}.partial")
        digest, size = hashlib.sha256(), 0
        try:
            target = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                while chunk := os.pread(fd, _CHUNK, size):
                    digest.update(chunk)
                    size += len(chunk)
                    write_all(target, chunk)
                os.fsync(target)
            finally:
                os.close(target)
            # A file that grew between the two passes is stored under what it is now.
            sha256 = digest.hexdigest()
            blob = self._blob(sha256)
            blob.parent.mkdir(mode=0o700, exist_ok=True)
            partial.rename(blob)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        for folder in (blob.parent, self._history.blobs):
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sync_folder(folder_fd)
            finally:
                os.close(folder_fd)
        return sha256, size

    def _prune(self, path: bytes, *, keep: str) -> list[tuple[str, str]]:
        limits = self._limits
        gone = [
            *self._excess(
                "path = ?", [path], limits.backups_per_path, limits.backup_bytes_per_path
            ),
            *self._excess("1", [], limits.backups, limits.backup_bytes),
        ]
        gone = [each for each in dict.fromkeys(gone) if each[0] != keep]
        self._history.db.executemany(
            "DELETE FROM backups WHERE id = ?", [(each,) for each, _ in gone]
        )
        return gone

    def _excess(
        self, which: str, values: list[bytes], count: int, size: int
    ) -> Iterator[tuple[str, str]]:
        db = self._history.db
        totals = db.execute(
            f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM backups WHERE {which}",  # noqa: S608
            values,
        ).fetchone()
        over_count, over_size = totals[0] - count, totals[1] - size
        if over_count <= 0 and over_size <= 0:
            return
        for row in db.execute(
            f"SELECT id, sha256, size_bytes FROM backups WHERE {which} ORDER BY seq",  # noqa: S608
            values,
        ):
            if over_count <= 0 and over_size <= 0:
                return
            over_count, over_size = over_count - 1, over_size - row["size_bytes"]
            yield row["id"], row["sha256"]

    def _drop_blobs(self, blobs: set[str]) -> None:
        for blob in blobs:
            used = self._history.db.execute(
                "SELECT 1 FROM backups WHERE sha256 = ? LIMIT 1", (blob,)
            ).fetchone()
            if used is None:
                self._blob(blob).unlink(missing_ok=True)

    def _blob(self, sha256: str) -> Path:
        return self._history.blobs / sha256[:2] / sha256


def _model(row: sqlite3.Row) -> Backup:
    return Backup(
        backup_id=row["id"],
        path=shown(os.fsdecode(row["path"])),
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        mode=f"{row['mode']:04o}",
        uid=row["uid"],
        gid=row["gid"],
        reason=row["reason"],
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
    )
