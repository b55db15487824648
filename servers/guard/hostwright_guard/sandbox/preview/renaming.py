"""rename(2) that loses nothing: into a name that is free, or in exchange with what is there.

Standard: renameat2(2), for which Python has no function. A file system that cannot exchange gets
the same in two steps.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Any

_NOREPLACE = 1
_EXCHANGE = 2
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _renameat2(source: int, old: str, target: int, new: str, flags: int) -> None:
    names = (os.fsencode(old), os.fsencode(new))
    if _libc().renameat2(source, names[0], target, names[1], flags) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def into_nothing(source: int, old: str, target: int, new: str) -> None:
    """Move; raises `FileExistsError` where something is."""
    try:
        _renameat2(source, old, target, new, _NOREPLACE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        try:
            os.stat(new, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None


def exchange(source: int, old: str, target: int, new: str) -> None:
    """Each takes the other's place."""
    try:
        _renameat2(source, old, target, new, _EXCHANGE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        aside = f"{old}-old"
        os.rename(new, aside, src_dir_fd=target, dst_dir_fd=source)
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
        os.rename(aside, old, src_dir_fd=source, dst_dir_fd=source)
