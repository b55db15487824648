"""`file_move` and `file_delete`.

Both work on the name itself: a link is moved or deleted, never what it points to. A folder goes as
a whole, after a look through it: one that holds a closed file (see `deny`), a root or the suite's
own state stays.

Blocking; writes in the roots and in the state folder.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import cast

from hostwright_kit.errors import HostError
from hostwright_system.files.deny import folded
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import Deleted, EntryKind, Moved
from hostwright_system.files.openat2 import rename_noreplace
from hostwright_system.files.places import OpenFile, Place, kind_of, sync_folder
from hostwright_system.files.roots import Roots
from hostwright_system.files.space import FileSpace
from hostwright_system.files.trash import require_movable
from hostwright_system.files.trees import MAX_DEPTH, Node, copy_tree, open_child, remove_tree, walk

MAX_ENTRIES = 500_000


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a move or a deletion takes along."""

    entries: int
    size_bytes: int


def file_move(
    space: FileSpace,
    source: str,
    destination: str,
    *,
    overwrite: bool = False,
    create_parents: bool = False,
) -> Moved:
    """Give `source` the path `destination` (its full new path, not a folder to put it into).

    `overwrite` replaces a file there, after a backup of it; a folder is never replaced.
    """
    with (
        refusing(source, "move"),
        space.roots.place(source, follow=False) as old,
        space.roots.place(destination, follow=False, create_parents=create_parents) as new,
    ):
        info = _existing(old)
        survey(space.roots, old, info)
        target = new.stat()
        if target is None:
            return _move_to_free(space, old, new, info)
        if os.path.samestat(target, info):
            return _respell(old, new, info)
        if not overwrite:
            raise _taken(new, "exists already", "Choose another name, or pass overwrite=true.")
        if stat.S_ISDIR(info.st_mode) or not stat.S_ISREG(target.st_mode):
            raise _taken(
                new,
                f"is a {kind_of(target)}; only a file can be replaced, and only by a file",
                "Delete it first: file_delete keeps it in the trash.",
            )
        return _move_over(space, old, new, info)


def file_delete(space: FileSpace, path: str, *, recursive: bool = False) -> Deleted:
    """Move `path` to the trash. A folder with anything in it needs `recursive`."""
    with refusing(path, "delete"), space.roots.place(path, follow=False) as place:
        info = _existing(place)
        extent = survey(space.roots, place, info)
        if stat.S_ISDIR(info.st_mode) and extent.entries > 1 and not recursive:
            raise HostError(
                f"{shown(place.path)} is a folder with {extent.entries - 1} entries in it.",
                fix="Pass recursive=true if all of it may go to the trash.",
                code="not_empty",
            )
        trash_id, pruned = space.trash.put(place, info, extent.entries, extent.size_bytes)
    return Deleted(
        path=shown(place.path),
        trash_id=trash_id,
        kind=cast("EntryKind", kind_of(info)),
        entries=extent.entries,
        size_bytes=extent.size_bytes,
        pruned_trash_ids=pruned,
    )


def survey(roots: Roots, place: Place, info: os.stat_result) -> Extent:
    """What lies at and below `place`; `HostError` when something of it has to stay."""
    require_movable(info, place.path)
    if not stat.S_ISDIR(info.st_mode):
        if stat.S_ISREG(info.st_mode):
            _vet_link(roots, place, info)
        return Extent(1, info.st_size if stat.S_ISREG(info.st_mode) else 0)
    roots.refuse_path(place.path, folder=True)
    roots.refuse_uprooting(place.path)
    closed = roots.rules.inodes()
    entries, size = 1, 0

    def enter(node: Node) -> bool:
        if node.depth >= MAX_DEPTH:
            raise _stays(place, node, f"lies more than {MAX_DEPTH} folders deep")
        return True

    def failed(path: str, error: OSError) -> None:
        raise error

    fd = open_child(place.folder_fd, place.name, info)
    try:
        for node in walk(fd, enter=enter, failed=failed):
            entries += 1
            if entries > MAX_ENTRIES:
                raise HostError(
                    f"{shown(place.path)} holds more than {MAX_ENTRIES} entries.",
                    fix="Move or delete its parts.",
                    code="too_large",
                )
            if (node.info.st_dev, node.info.st_ino) in closed:
                raise _stays(place, node, "is closed to the file tools")
            denial = roots.rules.why(f"{place.path}/{node.path}", folder=node.is_folder)
            # A key by name stays closed wherever its folder goes; a closed place would not.
            if denial is not None and denial.kind != "key_file":
                raise _stays(place, node, f"is closed to the file tools ({denial.rule})")
            require_movable(node.info, f"{place.path}/{node.path}")
            size += node.info.st_size if stat.S_ISREG(node.info.st_mode) else 0
    finally:
        os.close(fd)
    return Extent(entries, size)


def _vet_link(roots: Roots, place: Place, info: os.stat_result) -> None:
    """A further name of a closed file is as closed as the first."""
    if info.st_nlink > 1:
        file = roots.open_file(place)
        file.close()


def _respell(old: Place, new: Place, info: os.stat_result) -> Moved:
    """The destination is the source: one name in two spellings, where case does not count."""
    one_name = info.st_nlink == 1 or stat.S_ISDIR(info.st_mode)
    if old.path == new.path or not one_name or folded(old.path) != folded(new.path):
        raise _taken(new, "is the same file or folder already", "Delete one of the names.")
    os.rename(old.name, new.name, src_dir_fd=old.folder_fd, dst_dir_fd=new.folder_fd)
    _sync(old, new)
    return _moved(old, new, info, across=False, lost=[])


def _move_to_free(space: FileSpace, old: Place, new: Place, info: os.stat_result) -> Moved:
    lost: list[str] = []
    across = False
    try:
        rename_noreplace(old.folder_fd, old.name, new.folder_fd, new.name)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _taken(new, "lies inside the folder to be moved", "Choose another.") from error
        if error.errno != errno.EXDEV:
            raise
        across = True
        with space.inflight.temporary(new) as temporary:
            copied, lost = copy_tree(old.folder_fd, old.name, new.folder_fd, temporary)
            rename_noreplace(new.folder_fd, temporary, new.folder_fd, new.name)
        sync_folder(new.folder_fd)
        remove_tree(old.folder_fd, old.name, only=copied)
    _sync(old, new)
    return _moved(old, new, info, across=across, lost=lost)


def _move_over(space: FileSpace, old: Place, new: Place, info: os.stat_result) -> Moved:
    with space.alone_with(new.path):
        before: OpenFile = space.roots.open_file(new)
        try:
            kept = space.backups.keep(before, "move")
        finally:
            before.close()
        lost: list[str] = []
        across = False
        try:
            os.rename(old.name, new.name, src_dir_fd=old.folder_fd, dst_dir_fd=new.folder_fd)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            across = True
            with space.inflight.temporary(new) as temporary:
                copied, lost = copy_tree(old.folder_fd, old.name, new.folder_fd, temporary)
                os.rename(temporary, new.name, src_dir_fd=new.folder_fd, dst_dir_fd=new.folder_fd)
            sync_folder(new.folder_fd)
            remove_tree(old.folder_fd, old.name, only=copied)
        _sync(old, new)
    return _moved(
        old, new, info, across=across, lost=lost, backup=kept.backup_id, pruned=kept.pruned
    )


def _moved(
    old: Place,
    new: Place,
    info: os.stat_result,
    *,
    across: bool,
    lost: list[str],
    backup: str | None = None,
    pruned: tuple[str, ...] = (),
) -> Moved:
    return Moved(
        source=shown(old.path),
        destination=shown(new.path),
        kind=cast("EntryKind", kind_of(info)),
        across_file_systems=across,
        replaced_backup_id=backup,
        pruned_backup_ids=pruned,
        attributes_lost=tuple(sorted(set(lost))),
    )


def _sync(old: Place, new: Place) -> None:
    sync_folder(new.folder_fd)
    sync_folder(old.folder_fd)


def _existing(place: Place) -> os.stat_result:
    info = place.stat()
    if info is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.name)
    return info


def _taken(place: Place, why: str, fix: str) -> HostError:
    return HostError(f"The destination {shown(place.path)} {why}.", fix=fix, code="exists")


def _stays(place: Place, node: Node, why: str) -> HostError:
    return HostError(
        f"{shown(place.path)} cannot go as a whole: {shown(node.path)} in it {why}.",
        fix="Move or delete its other entries one by one.",
        code="denied",
    )
