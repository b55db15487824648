"""`file_restore`, and the lists of what can be restored.

A backup brings back bytes, mode and owner; a trash item comes back as it was. Both return to where
they were, through the same checks as any write: what the rules close today is not restored.

Blocking; writes in the roots and in the state folder.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace

from hostwright_kit.errors import HostError
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import BackupPage, Restored, TrashPage
from hostwright_system.files.moving import survey
from hostwright_system.files.places import Place
from hostwright_system.files.replacing import Owner
from hostwright_system.files.space import FileSpace
from hostwright_system.files.writing import Change, apply

MAX_PAGE = 500


def file_restore(space: FileSpace, restore_id: str, *, overwrite: bool = False) -> Restored:
    """Bring back a backup (bk_…) or a trash item (tr_…) to its path.

    `overwrite` replaces what is there now and keeps it: a backup restores over a file after a
    backup of that, a trash item sends what is there to the trash.
    """
    if restore_id.startswith("bk_"):
        return _from_backup(space, restore_id, overwrite)
    if restore_id.startswith("tr_"):
        return _from_trash(space, restore_id, overwrite)
    raise HostError(
        f"{restore_id[:40]!r} is neither a backup_id nor a trash_id.",
        fix="They begin with bk_ and tr_; see backup_list and trash_list.",
        code="bad_id",
    )


def backup_list(
    space: FileSpace, path: str | None = None, *, limit: int = 50, cursor: str | None = None
) -> BackupPage:
    """Backups, newest first; of one path if given."""
    _check_limit(limit)
    if path is None:
        return space.backups.page(None, limit, cursor)
    with space.roots.place(path) as place:
        return space.backups.page(place.path, limit, cursor)


def trash_list(space: FileSpace, *, limit: int = 50, cursor: str | None = None) -> TrashPage:
    """What lies in the trash, newest first."""
    _check_limit(limit)
    return space.trash.page(limit, cursor)


def _from_backup(space: FileSpace, backup_id: str, overwrite: bool) -> Restored:
    backup = space.backups.find(backup_id)
    path = space.backups.original_path(backup_id)
    change = Change(
        data=space.backups.content(backup),
        reason="restore",
        must_be_new=not overwrite,
        mode=int(backup.mode, 8),
        owner=Owner(backup.uid, backup.gid),
    )
    owner_kept = os.geteuid() == 0 or (backup.uid, backup.gid) == (os.geteuid(), os.getegid())
    with (
        refusing(path, "restore"),
        space.roots.place(path, follow=False, create_parents=True) as place,
        space.alone_with(place.path),
    ):
        now = place.stat()
        if now is not None and not stat.S_ISREG(now.st_mode):
            raise _taken(place)
        if now is not None and (now.st_uid, now.st_gid) == (backup.uid, backup.gid):
            owner_kept = True
        written = apply(space, place, change if owner_kept else replace(change, owner=None))
    return Restored(
        path=written.path,
        restored_from="backup",
        kind="file",
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        replaced_backup_id=written.backup_id,
        replaced_trash_id=None,
        owner_kept=owner_kept,
    )


def _from_trash(space: FileSpace, trash_id: str, overwrite: bool) -> Restored:
    item = space.trash.find(trash_id)
    path = space.trash.original_path(trash_id)
    replaced_id = None
    with (
        refusing(path, "restore"),
        space.roots.place(path, follow=False, create_parents=True) as place,
        space.alone_with(place.path),
        space.inflight.temporary(place) as temporary,
    ):
        now = place.stat()
        if now is not None:
            if not overwrite:
                raise _taken(place)
            # To the trash in every case: then the name is free, and a rename cannot lose anything.
            extent = survey(space.roots, place, now)
            replaced_id, _ = space.trash.put(place, now, extent.entries, extent.size_bytes)
        space.trash.give_back(trash_id, place, temporary)
    return Restored(
        path=shown(place.path),
        restored_from="trash",
        kind=item.kind,
        size_bytes=item.size_bytes,
        sha256=None,
        replaced_backup_id=None,
        replaced_trash_id=replaced_id,
        owner_kept=True,
    )


def _taken(place: Place) -> HostError:
    return HostError(
        f"{shown(place.path)} exists now.",
        fix="Pass overwrite=true; what is there is kept in a backup or in the trash.",
        code="exists",
    )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise HostError(
            f"limit={limit} is out of range.", fix=f"Use 1 to {MAX_PAGE}.", code="bad_limit"
        )
