"""The system calls behind the roots that Python does not wrap.

* `open_folder_beneath`: openat2(2) with `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
  RESOLVE_NO_SYMLINKS` where the kernel has it (Linux 5.6), else a walk that opens each component
  with `O_NOFOLLOW` relative to the one before. Both say the same: no component was a link.
* `rename_noreplace`: renameat2(2) `RENAME_NOREPLACE`, renameatx_np(2) `RENAME_EXCL` on macOS, else
  link + unlink (files) and mkdir + rename (folders), which also never overwrite.
* `path_of`: where an open descriptor really is (/proc/self/fd, or `F_GETPATH` on macOS).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Sequence
from functools import cache

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_OPENAT2 = 437  # the same number on every Linux architecture but alpha
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_RENAME_NOREPLACE, _RENAME_EXCL = 1, 4
_RETRIES = 64

# A folder that is only passed through needs no read permission where O_PATH exists.
_PASS = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_LIST = os.O_DIRECTORY | os.O_CLOEXEC | os.O_RDONLY | os.O_NONBLOCK


class _OpenHow(ctypes.Structure):
    """struct open_how, openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_folder_beneath(folder_fd: int, parts: Sequence[str], *, listing: bool = False) -> int:
    """Open the folder `parts` below `folder_fd`; no component may be a link or lead outside.

    `listing` gives a descriptor that can be listed and fsynced; without it only names below it can
    be opened. Raises `OSError`: ELOOP or ENOTDIR for a link, EXDEV for an escape.
    """
    flags = _LIST if listing else _PASS
    if has_openat2():
        return _openat2(folder_fd, "/".join(parts) or ".", flags)
    return _walk(folder_fd, parts, flags)


def open_slash() -> int:
    """The top of the file system, to open roots beneath."""
    return os.open("/", _PASS)


def _openat2(folder_fd: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS)
    raw = os.fsencode(path)
    left = _RETRIES
    while True:
        fd = _LIBC.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(folder_fd),
            ctypes.c_char_p(raw),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        # EAGAIN: the kernel saw a rename during the walk and could not vouch for the result.
        left -= 1
        if number not in (errno.EINTR, errno.EAGAIN) or not left:
            raise OSError(number, os.strerror(number), path)


def _walk(folder_fd: int, parts: Sequence[str], flags: int) -> int:
    if any(part in ("", ".", "..") or "/" in part for part in parts):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "/".join(parts))
    current = os.open(".", _PASS if parts else flags, dir_fd=folder_fd)
    try:
        for index, part in enumerate(parts):
            how = flags if index == len(parts) - 1 else _PASS
            deeper = os.open(part, how | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = deeper
    except BaseException:
        os.close(current)
        raise
    return current


@cache
def has_openat2() -> bool:
    """Whether openat2 works here: old kernels lack it and some container filters refuse it."""
    if sys.platform != "linux":
        return False
    try:
        slash = open_slash()
    except OSError:
        return False
    try:
        os.close(_openat2(slash, ".", _PASS))
    except OSError:
        return False
    finally:
        os.close(slash)
    return True


def path_of(fd: int) -> str | None:
    """The absolute path of what `fd` has open, or None where the system cannot tell."""
    if sys.platform == "darwin":
        raw = fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024))
        return os.fsdecode(raw.rstrip(b"\0")) or None
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 (a Path would drop a trailing part)
    except OSError:
        return None  # no /proc: the caller walked without links and knows the path by itself
    return path if path.startswith("/") else None


def rename_noreplace(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Rename, but never over something that is already there (FileExistsError)."""
    call = _exclusive_rename()
    if call is not None:
        function, flag = call
        if function(source_fd, os.fsencode(source), target_fd, os.fsencode(target), flag) == 0:
            return
        number = ctypes.get_errno()
        # EINVAL: this file system does not know the flag.
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(number, os.strerror(number), target)
    _emulated_noreplace(source_fd, source, target_fd, target)


def _emulated_noreplace(source_fd: int, source: str, target_fd: int, target: str) -> None:
    info = os.stat(source, dir_fd=source_fd, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        os.unlink(source, dir_fd=source_fd)
        return
    # rename(2) replaces an empty folder only, and this one is ours: mkdir refused any other.
    os.mkdir(target, 0o700, dir_fd=target_fd)
    try:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    except OSError:
        os.rmdir(target, dir_fd=target_fd)
        raise


@cache
def _exclusive_rename() -> tuple[ctypes._NamedFuncPointer, int] | None:
    name, flag = (
        ("renameatx_np", _RENAME_EXCL)
        if sys.platform == "darwin"
        else ("renameat2", _RENAME_NOREPLACE)
    )
    function = getattr(_LIBC, name, None)
    if function is None:
        return None
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
    function.restype = ctypes.c_int
    return function, flag
