"""Applying a preview: exactly its changes, all of them or none.

Every step goes through an open folder, one name at a time, and follows no link. A new file is
written beside the old one, flushed, and put in its place in one step; whatever was there is moved
into a folder of its own first (`.hostwright-ID`, beside everything) and looked at *there*, where
nobody else writes to it: if it is not what the preview was made of, all goes back. A step that
fails takes back those before it. After a loss of power the same changes can be applied again, which
finds what was done already. Blocking.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence

from hostwright_guard.sandbox.preview import renaming, tree
from hostwright_guard.sandbox.preview.attributes import copy_attributes
from hostwright_guard.sandbox.preview.changes import Change
from hostwright_kit.errors import HostError

Expected = Mapping[str, os.stat_result]


class InPartError(Exception):
    """It failed, and not everything could be taken back; `left` says what is still applied."""

    def __init__(self, cause: BaseException, left: Sequence[str], folder: str) -> None:
        super().__init__(str(cause))
        self.left = tuple(left)
        self.folder = folder


class Applying:
    """One application to an open folder. `expected`: what stands there, None after a cut."""

    def __init__(self, root: int, upper: int, name: str, expected: Expected | None) -> None:
        self._root = root
        self._upper = upper
        self._aside_name = f".hostwright-{name}"
        self._expected = expected
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self._modes: list[Change] = []
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._aside_name, 0o700, dir_fd=root)
        self._aside = tree.open_folder(root, self._aside_name)

    def run(self, changes: Sequence[Change]) -> None:
        """Apply them. Raises what stopped it, everything taken back; or `InPartError`."""
        try:
            touched = self._all(changes)
            for folder in sorted(touched):
                # What was removed needs no flushing of its own: its parent is among these.
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    handle = tree.open_folder(self._root, folder)
                    os.fsync(handle)
                    os.close(handle)
        except BaseException as cause:
            self._take_back(cause)
            raise
        finally:
            os.close(self._aside)
        # From here on it is done: what was replaced is not needed any more.
        shutil.rmtree(self._aside_name, dir_fd=self._root, ignore_errors=True)

    def _all(self, changes: Sequence[Change]) -> set[str]:
        touched: set[str] = {""}
        for one in sorted(changes, key=lambda one: one.path, reverse=True):
            if one.action == "deleted" or one.replaces is not None:
                self._remove(one)
                touched.add(tree.split(one.path)[0])
        for one in sorted(changes, key=lambda one: one.path):
            if one.action == "deleted":
                continue
            folder, name = tree.split(one.path)
            handle = tree.open_folder(self._root, folder)
            try:
                if one.kind == "folder":
                    self._folder(handle, name, one)
                elif one.action == "mode":
                    self._set_mode(handle, name, one)
                elif one.kind == "link":
                    self._link(handle, name, one)
                else:
                    self._file(handle, name, one)
            finally:
                os.close(handle)
            touched.add(folder)
        # A folder that becomes read-only is so after it was filled: from the inside out.
        for one in reversed(self._modes):
            folder, name = tree.split(one.path)
            handle = tree.open_folder(self._root, folder)
            try:
                self._set_mode(handle, name, one)
            finally:
                os.close(handle)
        return touched

    # -- one step each ---------------------------------------------------------------------------

    def _remove(self, one: Change) -> None:
        folder, name = tree.split(one.path)
        try:
            handle = tree.open_folder(self._root, folder)
        except (FileNotFoundError, NotADirectoryError):
            return self._gone(one)
        try:
            info = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return self._gone(one)
        finally:
            os.close(handle)
        kind = one.replaces if one.replaces is not None else one.kind
        if tree.kind(info) != kind:
            # Applied again, what stands there may be the new one already.
            return self._gone(one)
        held = self._hold(one.path)
        self._undo.append((one.path, lambda: self._bring_back(held, one.path)))
        self._compare(one, held)
        return None

    def _folder(self, handle: int, name: str, one: Change) -> None:
        if one.action == "created":
            try:
                os.mkdir(name, 0o700, dir_fd=handle)
            except FileExistsError:
                self._gone(one)
            else:
                self._undo.append((one.path, lambda: self._drop(one.path)))
            self._modes.append(one)
        elif int(one.mode or "0", 8) & 0o300 == 0o300:
            self._set_mode(handle, name, one)
        else:
            self._modes.append(one)

    def _set_mode(self, handle: int, name: str, one: Change) -> None:
        # By its descriptor: what may not be opened can still be given a mode by its owner.
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        try:
            info = os.fstat(opened)
            if tree.kind(info) != one.kind:
                raise changed_meanwhile(one.path)
            place = f"/proc/self/fd/{opened}"
            os.chmod(place, int(one.mode or "0", 8) & 0o1777)  # noqa: PTH101
        finally:
            os.close(opened)
        if one.action == "mode":
            before = stat.S_IMODE(info.st_mode)
            self._undo.append((one.path, lambda: self._back_to_mode(one.path, before)))

    def _link(self, handle: int, name: str, one: Change) -> None:
        made = _new_name()
        os.symlink(one.target or "", made, dir_fd=self._aside)
        self._put(handle, name, one, made)

    def _file(self, handle: int, name: str, one: Change) -> None:
        if self._expected is None and self._is_applied(one):
            return
        made = _new_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        opened = os.open(made, flags, 0o600, dir_fd=self._aside)
        written = hashlib.sha256()
        with os.fdopen(opened, "wb") as file:
            for part in tree.parts(self._upper, one.path):
                file.write(part)
                written.update(part)
            file.flush()
            if written.hexdigest() != one.sha256:
                raise changed_meanwhile("The preview itself")
            _keep_owner(handle, name, file.fileno())
            copy_attributes(self._upper, one.path, file.fileno())
            os.fchmod(file.fileno(), int(one.mode or "0644", 8) & 0o1777)
            os.fsync(file.fileno())
        self._put(handle, name, one, made)

    def _put(self, handle: int, name: str, one: Change, made: str) -> None:
        """What was made becomes what stands there, in one step."""
        if one.action == "created":
            try:
                renaming.into_nothing(self._aside, made, handle, name)
            except FileExistsError:
                self._gone(one)
                os.unlink(made, dir_fd=self._aside)
            else:
                self._undo.append((one.path, lambda: self._drop(one.path)))
            return
        try:
            renaming.exchange(self._aside, made, handle, name)
        except FileNotFoundError:
            raise changed_meanwhile(one.path) from None
        self._undo.append((one.path, lambda: self._exchange_back(made, one.path)))
        self._compare(one, made)

    # -- is it what the preview was made of? -----------------------------------------------------

    def _compare(self, one: Change, held: str) -> None:
        """What was moved aside must be what the preview was made of."""
        info = os.stat(held, dir_fd=self._aside, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            opened = tree.open_folder(self._aside, held)
            try:
                # Its entries were removed before; a new one is somebody's.
                same = not os.listdir(opened)  # noqa: PTH208 - of an open folder
            finally:
                os.close(opened)
        elif one.old_sha256 is not None:
            same = stat.S_ISREG(info.st_mode) and tree.hash_file(self._aside, held) in (
                one.old_sha256, one.sha256,
            )  # fmt: skip
        else:
            same = True
        if self._expected is not None:
            before = self._expected.get(one.path)
            same = same and before is not None and _identity(before) == _identity(info)
        if not same:
            raise changed_meanwhile(one.path)

    def _gone(self, one: Change) -> None:
        """It is not as it was. After a cut that may be our own doing."""
        if self._expected is not None:
            raise changed_meanwhile(one.path)

    def _is_applied(self, one: Change) -> bool:
        try:
            return tree.hash_file(self._root, one.path) == one.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    # -- taking back -----------------------------------------------------------------------------

    def _take_back(self, cause: BaseException) -> None:
        left: list[str] = []
        for path, undo in reversed(self._undo):
            try:
                undo()
            except OSError:
                left.append(path)
        if left or self._expected is None:
            applied = left or [path for path, _ in self._undo]
            raise InPartError(cause, applied, self._aside_name) from cause
        shutil.rmtree(self._aside_name, dir_fd=self._root, ignore_errors=True)

    def _hold(self, path: str) -> str:
        """Move an entry aside; under which name."""
        held = _new_name()
        folder, name = tree.split(path)
        handle = tree.open_folder(self._root, folder)
        try:
            os.rename(name, held, src_dir_fd=handle, dst_dir_fd=self._aside)
        finally:
            os.close(handle)
        return held

    def _bring_back(self, held: str, path: str) -> None:
        folder, name = tree.split(path)
        handle = tree.open_folder(self._root, folder)
        try:
            renaming.into_nothing(self._aside, held, handle, name)
        finally:
            os.close(handle)

    def _exchange_back(self, held: str, path: str) -> None:
        folder, name = tree.split(path)
        handle = tree.open_folder(self._root, folder)
        try:
            renaming.exchange(self._aside, held, handle, name)
        finally:
            os.close(handle)

    def _drop(self, path: str) -> None:
        """Something that was made here. Moved, not deleted: somebody may have filled it."""
        held = self._hold(path)
        opened = os.stat(held, dir_fd=self._aside, follow_symlinks=False)
        if stat.S_ISDIR(opened.st_mode):
            try:
                os.rmdir(held, dir_fd=self._aside)
            except OSError:
                self._bring_back(held, path)
                raise

    def _back_to_mode(self, path: str, mode: int) -> None:
        folder, name = tree.split(path)
        handle = tree.open_folder(self._root, folder)
        try:
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        finally:
            os.close(handle)
        os.chmod(f"/proc/self/fd/{opened}", mode)  # noqa: PTH101
        os.close(opened)


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


def _keep_owner(handle: int, name: str, file: int) -> None:
    """A file that was there keeps its owner; only root can give one away."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        old = os.stat(name, dir_fd=handle, follow_symlinks=False)
        os.fchown(file, old.st_uid, old.st_gid)


def _identity(info: os.stat_result) -> tuple[int, ...]:
    """What moving a file does not change; its time of change does."""
    folder = stat.S_ISDIR(info.st_mode)
    times = () if folder else (info.st_size, info.st_mtime_ns)
    return (info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_gid, *times)


def _new_name() -> str:
    return secrets.token_hex(8)
