"""From `errno` to an error with its remedy, in one place for all file tools."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

from hostwright_kit.errors import HostError

# What a path gives that changes under our hands; worth another look, never a guess.
MOVING = frozenset({errno.ELOOP, errno.EXDEV, errno.EAGAIN, errno.ENOTDIR, errno.ESTALE})

_REMEDIES: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("not_found", "Check the spelling with directory_list, or create it first."),
    errno.EEXIST: ("exists", "Choose another name, or pass overwrite=true."),
    errno.ENOTEMPTY: ("not_empty", "Choose another name, or empty the folder first."),
    errno.EACCES: ("permission", "Run the server as a user who may, or change the permissions."),
    errno.EPERM: ("permission", "Run the server as a user who may, or change the permissions."),
    errno.EROFS: ("read_only", "The file system is mounted read-only; use another folder."),
    errno.ENOSPC: ("no_space", "Free space on that file system, then repeat; nothing was changed."),
    errno.EDQUOT: ("no_space", "The quota is used up; free space, then repeat."),
    errno.ENOTDIR: ("not_a_folder", "A part of the path is not a folder; look at its parent."),
    errno.EISDIR: ("is_a_folder", "Name a file, not a folder."),
    errno.ENAMETOOLONG: ("bad_path", "Use a shorter name."),
    errno.ELOOP: ("moving_target", "A part of the path turned into a symbolic link; try again."),
    errno.EXDEV: ("moving_target", "The path left its root while it was opened; try again."),
    errno.EAGAIN: ("moving_target", "The path changed while it was opened; try again."),
    errno.EMFILE: ("busy", "Too many open files; try again in a moment."),
    errno.ENFILE: ("busy", "Too many open files; try again in a moment."),
}


def failed(path: str, doing: str, error: OSError) -> HostError:
    """The `HostError` for `error` while `doing` (“read”, “write”, …) `path`."""
    code, fix = _REMEDIES.get(error.errno or 0, ("io_error", "Look at the disk and its mount."))
    reason = os.strerror(error.errno) if error.errno else str(error)
    return HostError(f"Cannot {doing} {shown(path)}: {reason}.", fix=fix, code=code)


@contextmanager
def refusing(path: str, doing: str) -> Generator[None]:
    """Turn every `OSError` inside into a `HostError` about `path`."""
    try:
        yield
    except OSError as error:
        raise failed(path, doing, error) from error


def shown(name: str) -> str:
    """`name` as valid Unicode: names on disk are bytes, and results must be JSON."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name
