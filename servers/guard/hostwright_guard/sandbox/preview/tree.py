"""A folder as it is: one line per entry, walked without following a link.

What a preview was made of is compared with what is there when it is to be applied; so every entry
counts, its kind, mode, size, inode and time of change. Reads only. Blocking.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from hostwright_kit.errors import HostError

MAX_ENTRIES = 200_000
CHUNK = 1024 * 1024

Kind = Literal["file", "folder", "link", "other"]


class Entry(NamedTuple):
    """One entry; `path` is relative to the folder."""

    path: str
    info: os.stat_result


def walk(folder: int, *, limit: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Everything beneath an open folder, parents first, in one order."""
    count = 0
    waiting = [""]
    while waiting:
        at = waiting.pop()
        handle = open_folder(folder, at)
        try:
            names = sorted(os.listdir(handle))  # noqa: PTH208 - of an open folder
            for name in names:
                count += 1
                if count > limit:
                    raise HostError(
                        f"The folder has more than {limit} entries, too many for a dry run.",
                        fix="Preview a smaller folder.",
                        code="too_large",
                    )
                path = f"{at}/{name}" if at else name
                info = os.stat(name, dir_fd=handle, follow_symlinks=False)
                yield Entry(path, info)
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(path)
        finally:
            os.close(handle)


def open_folder(root: int, path: str) -> int:
    """Open a folder beneath an open one, one name at a time: no link is followed anywhere."""
    handle = os.dup(root)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
            )
        finally:
            os.close(handle)
        handle = inner
    return handle


def split(path: str) -> tuple[str, str]:
    """The folder and the name of a relative path."""
    folder, _, name = path.rpartition("/")
    return folder, name


def kind(info: os.stat_result) -> Kind:
    """What an entry is."""
    mode = info.st_mode
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def fingerprint(folder: int, seen: dict[str, os.stat_result] | None = None) -> str:
    """A digest that changes with anything in the folder that a file system shows.

    `seen` is filled with the entries that it was made of.
    """
    digest = hashlib.sha256()
    for path, info in walk(folder):
        if seen is not None:
            seen[path] = info
        line = (
            *(info.st_mode, info.st_ino, info.st_uid, info.st_gid),
            *(info.st_size, info.st_mtime_ns, info.st_ctime_ns),
        )
        # A folder's size and times change with its entries, which are counted themselves.
        shown = line[:4] if stat.S_ISDIR(info.st_mode) else line
        digest.update(f"{path}\0{shown}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def opened_file(root: int, path: str) -> Generator[int]:
    """A regular file, open for reading."""
    handle = _open_file(root, path)
    try:
        yield handle
    finally:
        os.close(handle)


def read_file(root: int, path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file."""
    with os.fdopen(_open_file(root, path), "rb") as opened:
        return opened.read(limit)


def parts(root: int, path: str) -> Iterator[bytes]:
    """A regular file's content, in parts."""
    with os.fdopen(_open_file(root, path), "rb") as opened:
        while data := opened.read(CHUNK):
            yield data


def hash_file(root: int, path: str) -> str:
    digest = hashlib.sha256()
    for part in parts(root, path):
        digest.update(part)
    return digest.hexdigest()


def _open_file(root: int, path: str) -> int:
    folder, name = split(path)
    handle = open_folder(root, folder)
    try:
        return os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle
        )
    finally:
        os.close(handle)
