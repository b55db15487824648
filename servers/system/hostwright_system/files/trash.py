"""What was deleted, until it is restored or pushed out by newer deletions.

An item is renamed into the state folder, or copied there when that lies on another file system. The
row is written first, marked as not arrived: a crash in between is repaired at the next start by
looking whether the item is there. Whatever happens, an item is in its old place or in the trash.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

from hostwright_kit.errors import HostError
from hostwright_kit.store import transaction
from hostwright_system.files import cursors
from hostwright_system.files.failures import shown
from hostwright_system.files.history import History, Limits, new_id, stored_path
from hostwright_system.files.models import EntryKind, TrashItem, TrashPage
from hostwright_system.files.openat2 import rename_noreplace
from hostwright_system.files.places import Place, kind_of, sync_folder
from hostwright_system.files.trees import copy_tree, remove_tree

_ITEM, _PARTIAL = "item", "partial"


class TrashStore:
    """The trash in one `History`."""

    def __init__(self, history: History, limits: Limits) -> None:
        self._history, self._limits = history, limits

    def require_room(self, path: str, size_bytes: int) -> None:
        """`HostError` when something is larger than the whole trash."""
        if size_bytes > self._limits.trash_bytes:
            raise HostError(
                f"{shown(path)} has {size_bytes} bytes;"
                f" the trash takes {self._limits.trash_bytes}.",
                fix="Delete parts of it, or let the owner raise the limit of the trash.",
                code="too_large",
            )

    def put(
        self, place: Place, info: os.stat_result, entries: int, size_bytes: int
    ) -> tuple[str, tuple[str, ...]]:
        """Move what is at `place` here; (its id, the ids that were dropped for it)."""
        self.require_room(place.path, size_bytes)
        trash_id = new_id("tr")
        with self._history.locked():
            db = self._history.db
            (self._history.trash / trash_id).mkdir(mode=0o700)
            db.execute(
                "INSERT INTO trash (id, path, kind, entries, size_bytes, deleted_at, arrived)"
                " VALUES (?, ?, ?, ?, ?, ?, 0)",
                (
                    trash_id,
                    stored_path(place.path),
                    kind_of(info),
                    entries,
                    size_bytes,
                    time.time(),
                ),
            )
            try:
                with self._folder(trash_id) as folder_fd:
                    self._take(place, folder_fd)
                db.execute("UPDATE trash SET arrived = 1 WHERE id = ?", (trash_id,))
            except BaseException:
                self.recover()
                raise
            return trash_id, self._prune(keep=trash_id)

    def find(self, trash_id: str) -> TrashItem:
        """The item with this id; `HostError` when there is none."""
        with self._history.locked():
            row = self._history.db.execute(
                "SELECT * FROM trash WHERE id = ? AND arrived", (trash_id,)
            ).fetchone()
        if row is None:
            raise HostError(
                f"There is nothing with the id {trash_id[:40]!r} in the trash.",
                fix="List it with trash_list; old items are dropped to make room.",
                code="not_found",
            )
        return _model(row)

    def original_path(self, trash_id: str) -> str:
        """Where the item was, with any odd bytes in its name."""
        self.find(trash_id)
        with self._history.locked():
            row = self._history.db.execute(
                "SELECT path FROM trash WHERE id = ?", (trash_id,)
            ).fetchone()
        return os.fsdecode(row[0])

    def give_back(self, trash_id: str, place: Place, temporary: str) -> None:
        """Move the item to `place`, where nothing may be. `temporary`: a free name beside it."""
        with self._history.locked(), self._folder(trash_id) as folder_fd:
            try:
                rename_noreplace(folder_fd, _ITEM, place.folder_fd, place.name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy_tree(folder_fd, _ITEM, place.folder_fd, temporary)
                rename_noreplace(place.folder_fd, temporary, place.folder_fd, place.name)
            sync_folder(place.folder_fd)
            self._forget(trash_id)

    def page(self, limit: int, cursor: str | None) -> TrashPage:
        """Items, newest first."""
        query = cursors.digest("trash")
        before = cursors.unpack(query, cursor)
        with self._history.locked():
            total, size = self._history.db.execute(
                "SELECT count(*), coalesce(sum(size_bytes), 0) FROM trash WHERE arrived"
            ).fetchone()
            rows = self._history.db.execute(
                "SELECT * FROM trash WHERE arrived AND seq < ? ORDER BY seq DESC LIMIT ?",
                (2**62 if before is None else before, limit + 1),
            ).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        return TrashPage(
            items=tuple(_model(row) for row in rows),
            total=total,
            total_size_bytes=size,
            next_cursor=cursors.pack(query, rows[-1]["seq"]) if more else None,
        )

    def recover(self) -> None:
        """Bring rows and folders together after a crash or a failed move."""
        with self._history.locked():
            db = self._history.db
            for row in db.execute("SELECT id FROM trash WHERE NOT arrived").fetchall():
                if os.path.lexists(self._history.trash / row["id"] / _ITEM):
                    db.execute("UPDATE trash SET arrived = 1 WHERE id = ?", (row["id"],))
                else:
                    self._forget(row["id"])
            known = {row[0] for row in db.execute("SELECT id FROM trash")}
            for folder in self._history.trash.iterdir():
                # Forgotten items whose removal was cut short, and items that were given back.
                if folder.name not in known:
                    self._remove(folder.name)
                elif not os.path.lexists(folder / _ITEM):
                    self._forget(folder.name)

    def _take(self, place: Place, folder_fd: int) -> None:
        try:
            os.rename(place.name, _ITEM, src_dir_fd=place.folder_fd, dst_dir_fd=folder_fd)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copied, _ = copy_tree(place.folder_fd, place.name, folder_fd, _PARTIAL)
            os.rename(_PARTIAL, _ITEM, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            sync_folder(folder_fd)
            remove_tree(place.folder_fd, place.name, only=copied)
        sync_folder(place.folder_fd)
        sync_folder(folder_fd)

    def _prune(self, *, keep: str) -> tuple[str, ...]:
        db, limits = self._history.db, self._limits
        count, size = db.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM trash WHERE arrived"
        ).fetchone()
        gone: list[str] = []
        for row in db.execute("SELECT id, size_bytes FROM trash WHERE arrived ORDER BY seq"):
            if count <= limits.trash_items and size <= limits.trash_bytes:
                break
            if row["id"] != keep:
                gone.append(row["id"])
                count, size = count - 1, size - row["size_bytes"]
        for trash_id in gone:
            self._forget(trash_id)
        return tuple(gone)

    def _forget(self, trash_id: str) -> None:
        with transaction(self._history.db):
            self._history.db.execute("DELETE FROM trash WHERE id = ?", (trash_id,))
        self._remove(trash_id)

    def _remove(self, trash_id: str) -> None:
        with self._folder(None) as trash_fd:
            remove_tree(trash_fd, trash_id, missing_ok=True)

    @contextmanager
    def _folder(self, trash_id: str | None) -> Generator[int]:
        path = self._history.trash / trash_id if trash_id else self._history.trash
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def require_movable(info: os.stat_result, path: str) -> None:
    """`HostError` for what is no file, link or folder."""
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode)):
        raise HostError(
            f"{shown(path)} is a {kind_of(info)}.",
            fix="The file tools move and delete files, links and folders; use shell_exec if you"
            " mean this one.",
            code="not_a_regular_file",
        )


def _model(row: sqlite3.Row) -> TrashItem:
    return TrashItem(
        trash_id=row["id"],
        path=shown(os.fsdecode(row["path"])),
        kind=cast("EntryKind", row["kind"]),
        entries=row["entries"],
        size_bytes=row["size_bytes"],
        deleted_at=datetime.fromtimestamp(row["deleted_at"], UTC),
    )
