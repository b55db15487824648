"""Applying a preview: exactly its changes, each file whole or not at all, in an order that can be
taken up again.

Every step goes through an open folder, one name at a time, and follows no link; a new file is
written beside the old one, flushed, and renamed over it. Blocking.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence

from hostwright_guard.sandbox.preview import tree
from hostwright_guard.sandbox.preview.changes import Change
from hostwright_kit.errors import HostError


def apply(root: int, upper: int, changes: Sequence[Change]) -> None:
    """Bring the folder to what the preview showed. May be repeated after it was cut off."""
    touched: set[str] = set()
    for one in sorted(changes, key=lambda one: one.path, reverse=True):
        if one.action == "deleted" or one.replaces is not None:
            _remove(root, one)
            touched.add(tree.split(one.path)[0])
    for one in sorted(changes, key=lambda one: one.path):
        if one.action == "deleted":
            continue
        folder, name = tree.split(one.path)
        handle = tree.open_folder(root, folder)
        try:
            if one.kind == "folder":
                _folder(handle, name, one)
            elif one.action == "mode":
                _set_mode(handle, name, one)
            elif one.kind == "link":
                _link(handle, name, one)
            else:
                _file(handle, name, one, upper)
        finally:
            os.close(handle)
        touched.add(folder)
    for folder in sorted(touched):
        # What was removed needs no flushing of its own: its parent is among these.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            handle = tree.open_folder(root, folder)
            os.fsync(handle)
            os.close(handle)


def refuse_what_was_changed(root: int, changes: Sequence[Change]) -> None:
    """After an interruption: each entry must be as it was before, or as it is to be."""
    for one in changes:
        if one.kind != "file" or one.action == "deleted":
            continue
        try:
            digest = tree.hash_file(root, one.path)
        except (FileNotFoundError, NotADirectoryError):
            digest = None
        if digest not in (one.old_sha256, one.sha256):
            raise changed_meanwhile(one.path)


def changed_meanwhile(what: str) -> HostError:
    return HostError(
        f"{what} was changed since the preview was made; nothing is applied.",
        fix="Make a new preview with sandbox_preview.",
        code="conflict",
    )


def _remove(root: int, one: Change) -> None:
    folder, name = tree.split(one.path)
    try:
        handle = tree.open_folder(root, folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        info = os.stat(name, dir_fd=handle, follow_symlinks=False)
        # Applied again, what stands there may be the new one already, of the kind it is to be.
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=handle)
        elif one.action == "deleted" or one.replaces == "folder":
            os.rmdir(name, dir_fd=handle)
    except FileNotFoundError:
        return
    finally:
        os.close(handle)


def _folder(handle: int, name: str, one: Change) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=handle)
    _set_mode(handle, name, one)


def _set_mode(handle: int, name: str, one: Change) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.open(name, flags, dir_fd=handle)
    try:
        os.fchmod(opened, int(one.mode or "0", 8) & 0o1777)
    finally:
        os.close(opened)


def _link(handle: int, name: str, one: Change) -> None:
    aside = _aside()
    os.symlink(one.target or "", aside, dir_fd=handle)
    _put(handle, aside, name)


def _file(handle: int, name: str, one: Change, upper: int) -> None:
    aside = _aside()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(aside, flags, 0o600, dir_fd=handle)
    try:
        with os.fdopen(opened, "wb") as file:
            for part in tree.parts(upper, one.path):
                file.write(part)
            file.flush()
            _keep_owner(handle, name, file.fileno())
            os.fchmod(file.fileno(), int(one.mode or "0644", 8) & 0o1777)
            os.fsync(file.fileno())
        _put(handle, aside, name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=handle)
        raise


def _keep_owner(handle: int, name: str, file: int) -> None:
    """A file that was there keeps its owner; only root can give one away."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        old = os.stat(name, dir_fd=handle, follow_symlinks=False)
        os.fchown(file, old.st_uid, old.st_gid)


def _put(handle: int, aside: str, name: str) -> None:
    os.rename(aside, name, src_dir_fd=handle, dst_dir_fd=handle)


def _aside() -> str:
    return f".hostwright-{secrets.token_hex(8)}"
