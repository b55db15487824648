"""What `Roots` hands out: names in open folders, and files and folders that are open."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A name inside an open folder: what operations work on. The name need not exist."""

    folder_fd: int
    folder: str
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)  # noqa: PTH118 (a str, also for odd bytes)

    def stat(self) -> os.stat_result | None:
        """What the name is now (a link is a link), or None when there is nothing."""
        try:
            return os.stat(self.name, dir_fd=self.folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file, open for reading and vetted."""

    fd: int
    path: str
    info: os.stat_result

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder, open for listing and vetted."""

    fd: int
    path: str
    info: os.stat_result


def kind_of(info: os.stat_result) -> str:
    """file, directory, symlink, fifo, socket, device or unknown."""
    return _KINDS.get(stat.S_IFMT(info.st_mode), "unknown")


def sync_folder(folder_fd: int) -> None:
    """Make the names in a folder durable; `folder_fd` may be an O_PATH descriptor."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    except PermissionError:
        return  # a folder that we may write to but not read: the file system keeps its own order
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
