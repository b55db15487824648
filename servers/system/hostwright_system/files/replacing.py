"""Replacing or creating one file so that every reader sees the old bytes or the new, never a mix.

The new content is written to a temporary name in the same open folder (`O_EXCL | O_NOFOLLOW`),
gets the mode, owner and extended attributes of what it replaces, is synced, renamed over the name,
and the folder is synced. A file that changed since it was looked at is left alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from hostwright_kit.errors import HostError
from hostwright_system.files.failures import shown
from hostwright_system.files.inflight import Inflight
from hostwright_system.files.openat2 import rename_noreplace
from hostwright_system.files.places import OpenFile, Place, sync_folder
from hostwright_system.files.trees import copy_xattrs, create_file


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a file belongs to."""

    uid: int
    gid: int


def replace_file(
    inflight: Inflight,
    place: Place,
    fill: Callable[[int], None],
    *,
    before: OpenFile | None,
    mode: int | None = None,
    owner: Owner | None = None,
) -> tuple[os.stat_result, list[str]]:
    """Put what `fill` writes to a descriptor at `place`.

    `before` is what is there now, or None when nothing may be there. `mode` and `owner` default to
    those of `before`. Returns the new file's stat and the extended attributes that were lost.
    """
    if before is not None:
        _require_writable(place, before)
    with inflight.temporary(place) as temporary:
        # A new file gets what the umask leaves, as from any program; an old one starts private.
        private = before is not None or mode is not None
        fd = create_file(place.folder_fd, temporary, 0o600 if private else 0o666)
        try:
            fill(fd)
            lost = _dress(fd, place, before, mode, owner)
            os.fsync(fd)
            info = os.fstat(fd)
        finally:
            os.close(fd)
        if before is None:
            try:
                rename_noreplace(place.folder_fd, temporary, place.folder_fd, place.name)
            except FileExistsError:
                raise changed(place) from None
        else:
            _require_unchanged(place, before)
            os.rename(temporary, place.name, src_dir_fd=place.folder_fd, dst_dir_fd=place.folder_fd)
    sync_folder(place.folder_fd)
    return info, lost


def changed(place: Place) -> HostError:
    """Somebody else wrote the file while we were about to."""
    return HostError(
        f"{shown(place.path)} was changed by another program meanwhile; nothing was written.",
        fix="Read it again and repeat the change on what is there now.",
        code="changed",
    )


def _dress(
    fd: int, place: Place, before: OpenFile | None, mode: int | None, owner: Owner | None
) -> list[str]:
    info = os.fstat(fd)
    if owner is None and before is not None:
        owner = Owner(before.info.st_uid, before.info.st_gid)
    if owner is not None and (owner.uid, owner.gid) != (info.st_uid, info.st_gid):
        try:
            os.fchown(fd, owner.uid, owner.gid)
        except PermissionError:
            raise HostError(
                f"{shown(place.path)} belongs to {owner.uid}:{owner.gid}, and this user may not"
                " give the new file to that owner.",
                fix="Run the server as that user or as root, or write to another file.",
                code="permission",
            ) from None
    if mode is None and before is not None:
        # write(2) clears setuid and setgid as well: new content must not inherit those rights.
        mode = before.info.st_mode & ~(stat.S_ISUID | stat.S_ISGID)
    lost = [] if before is None else copy_xattrs(before.fd, fd)
    if mode is not None:
        os.fchmod(fd, stat.S_IMODE(mode))  # last: setting an access list changes the mode
    return lost


def _require_writable(place: Place, before: OpenFile) -> None:
    """A rename needs no permission on the file that it replaces; writing to it would."""
    if os.geteuid() == 0:
        return
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        os.close(os.open(place.name, flags, dir_fd=place.folder_fd))
    except PermissionError:
        raise HostError(
            f"{shown(place.path)} is not writable for this user"
            f" (mode {before.info.st_mode & 0o7777:04o}, owner {before.info.st_uid}).",
            fix="Change its permissions first, or run the server as its owner.",
            code="permission",
        ) from None
    except OSError as error:
        if error.errno != errno.ETXTBSY:  # a running program can be replaced, not written
            raise


def _require_unchanged(place: Place, before: OpenFile) -> None:
    now = place.stat()
    if now is None or not os.path.samestat(now, before.info):
        raise changed(place)
    if (now.st_size, now.st_mtime_ns) != (before.info.st_size, before.info.st_mtime_ns):
        raise changed(place)
