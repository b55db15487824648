"""Walking, copying and removing folders by descriptor.

Nothing here resolves a path: each step opens one name relative to an open folder with `O_NOFOLLOW`
and checks that it is still what was listed. A link is an entry, never a way.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass

MAX_DEPTH = 200  # one open descriptor per level
_CHUNK = 1024 * 1024
# Set by the kernel when a file changes hands; they would grant rights to a copy.
_NEVER_COPIED = frozenset({"security.capability", "security.ima", "security.evm"})

Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Node:
    """One name met on a walk. `folder_fd` is open until the walk goes on."""

    folder_fd: int
    name: str
    path: str
    depth: int
    info: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)


def walk(
    folder_fd: int,
    *,
    enter: Callable[[Node], bool],
    failed: Callable[[str, OSError], None],
    path: str = "",
    depth: int = 0,
) -> Generator[Node]:
    """Every entry below `folder_fd` in the order of path components, folders before their content.

    `enter` decides whether a folder is gone into; `failed` hears of folders that cannot be opened.
    """
    try:
        with os.scandir(folder_fd) as listing:
            names = sorted(entry.name for entry in listing)
    except OSError as error:
        failed(path, error)
        return
    for name in names:
        try:
            info = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # vanished between listing and looking
        except OSError as error:
            failed(f"{path}{name}", error)
            continue
        node = Node(folder_fd, name, f"{path}{name}", depth, info)
        yield node
        if node.is_folder and enter(node):
            try:
                child = open_child(folder_fd, name, info)
            except OSError as error:
                failed(node.path, error)
                continue
            try:
                yield from walk(
                    child, enter=enter, failed=failed, path=f"{node.path}/", depth=depth + 1
                )
            finally:
                os.close(child)


def open_child(folder_fd: int, name: str, info: os.stat_result) -> int:
    """Open the folder `name` for listing if it is still the one that `info` describes."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder_fd)
    if not os.path.samestat(os.fstat(fd), info):
        os.close(fd)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)
    return fd


def remove_tree(
    folder_fd: int,
    name: str,
    *,
    missing_ok: bool = False,
    only: dict[str, Identity] | None = None,
) -> None:
    """Remove `name` and what is below it. With `only`, a file that is not in it as listed stays.

    What stays makes the removal of its folder fail with ENOTEMPTY, after all else is gone.
    """
    try:
        info = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        if missing_ok:
            return
        raise
    _remove(folder_fd, name, info, "", only)


def _remove(
    folder_fd: int, name: str, info: os.stat_result, path: str, only: dict[str, Identity] | None
) -> None:
    if not stat.S_ISDIR(info.st_mode):
        if only is None or only.get(path) == identity(info):
            os.unlink(name, dir_fd=folder_fd)
        return
    child = open_child(folder_fd, name, info)
    try:
        with os.scandir(child) as listing:
            names = [entry.name for entry in listing]
        for each in names:
            below = os.stat(each, dir_fd=child, follow_symlinks=False)
            _remove(child, each, below, f"{path}/{each}", only)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=folder_fd)


def identity(info: os.stat_result) -> Identity:
    """Enough to see that a file is the one that was copied, unchanged."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def copy_tree(
    source_fd: int, source: str, target_fd: int, target: str
) -> tuple[dict[str, Identity], list[str]]:
    """Copy a file, link or folder to a new name and sync it.

    Keeps bytes, mode, owner, times and extended attributes; hard links between the files become
    files of their own. Returns what was copied (for `remove_tree(only=…)`) and the attributes that
    could not be kept. Raises `OSError` for an entry that is no file, link or folder.
    """
    copied: dict[str, Identity] = {}
    lost: list[str] = []
    info = os.stat(source, dir_fd=source_fd, follow_symlinks=False)
    _copy(source_fd, source, target_fd, target, info, "", copied, lost)
    return copied, lost


def _copy(
    source_fd: int,
    source: str,
    target_fd: int,
    target: str,
    info: os.stat_result,
    path: str,
    copied: dict[str, Identity],
    lost: list[str],
) -> None:
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source, dir_fd=source_fd), target, dir_fd=target_fd)
        os.chown(target, info.st_uid, info.st_gid, dir_fd=target_fd, follow_symlinks=False)
        copied[path] = identity(info)
    elif stat.S_ISREG(info.st_mode):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        from_fd = os.open(source, flags, dir_fd=source_fd)
        try:
            to_fd = create_file(target_fd, target)
            try:
                copy_bytes(from_fd, to_fd)
                copied[path] = identity(os.fstat(from_fd))
                lost += copy_attributes(from_fd, to_fd, info)
                os.fsync(to_fd)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)
    elif stat.S_ISDIR(info.st_mode):
        from_fd = open_child(source_fd, source, info)
        try:
            os.mkdir(target, 0o700, dir_fd=target_fd)
            made = os.stat(target, dir_fd=target_fd, follow_symlinks=False)
            to_fd = open_child(target_fd, target, made)
            try:
                with os.scandir(from_fd) as listing:
                    names = [entry.name for entry in listing]
                for name in names:
                    below = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
                    _copy(from_fd, name, to_fd, name, below, f"{path}/{name}", copied, lost)
                lost += copy_attributes(from_fd, to_fd, info)
                os.fsync(to_fd)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)
    else:
        raise OSError(errno.ENOTSUP, "neither file, link nor folder", source)


def create_file(folder_fd: int, name: str, mode: int = 0o600) -> int:
    """A new file, open for writing; never one that is there already."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=folder_fd)


def copy_bytes(from_fd: int, to_fd: int) -> None:
    """All bytes of one open file to another."""
    at = 0
    while chunk := os.pread(from_fd, _CHUNK, at):
        write_all(to_fd, chunk)
        at += len(chunk)


def write_all(fd: int, data: bytes) -> None:
    """write(2) may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def copy_attributes(from_fd: int, to_fd: int, info: os.stat_result) -> list[str]:
    """Owner, mode, times and extended attributes; the names of attributes that were refused."""
    os.fchown(to_fd, info.st_uid, info.st_gid)
    lost = copy_xattrs(from_fd, to_fd)
    os.fchmod(to_fd, stat.S_IMODE(info.st_mode))  # last: setting an access list changes the mode
    os.utime(to_fd, ns=(info.st_atime_ns, info.st_mtime_ns))
    return lost


def copy_xattrs(from_fd: int, to_fd: int) -> list[str]:
    """Extended attributes (ACLs are such on Linux); the names of those that were refused."""
    if sys.platform != "linux":
        return []  # macOS: the standard library has no call for them
    lost: list[str] = []
    try:
        names = os.listxattr(from_fd)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
    for name in names:
        if name in _NEVER_COPIED:
            continue
        try:
            os.setxattr(to_fd, name, os.getxattr(from_fd, name))
        except OSError:
            lost.append(name)  # reported: the target file system or our rights do not allow it
    return lost
