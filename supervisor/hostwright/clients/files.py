"""Read a configuration file that belongs to somebody else, and replace it without a moment in
which it is gone or half written.

It may follow a symbolic link to the real file, keeps mode and owner, leaves a backup beside the
real file and never writes over a change that came in between. Blocking; knows nothing of clients.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from hostwright_kit.errors import HostError

MAX_BYTES = 64 * 1024 * 1024
BACKUPS_KEPT = 5
_BACKUP = ".hostwright-backup-"


def changed_meanwhile(path: Path) -> HostError:
    return HostError(
        f"{path} changed since the change was planned; nothing was written.",
        fix="Run the command again; close the client first if it keeps writing the file.",
        code="conflict",
    )


def real_path(path: Path) -> Path:
    """Where the file really is: a dotfile is often a link into a repository."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise HostError(
            f"{path} cannot be followed: {error}.", fix="Correct the link.", code="invalid_file"
        ) from error


def read(path: Path) -> tuple[str, int] | None:
    """The text and the mode of a file, or None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}.",
            fix="Run as the user that the file belongs to.",
            code="denied",
        ) from error
    try:
        data, mode = _contents(descriptor, path)
    finally:
        os.close(descriptor)
    try:
        return data.decode("utf-8"), mode
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise HostError(
            f"{path}, line {line}, column {column}: not UTF-8 text.",
            fix="Save the file as UTF-8; nothing was changed.",
            code="invalid_file",
        ) from error


def _contents(descriptor: int, path: Path) -> tuple[bytes, int]:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise HostError(
            f"{path} is not a regular file.", fix="Move it out of the way.", code="invalid_file"
        )
    if status.st_size > MAX_BYTES:
        raise HostError(
            f"{path} has {status.st_size} bytes; more than {MAX_BYTES} are not edited.",
            fix="Make the file smaller.",
            code="too_large",
        )
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks), stat.S_IMODE(status.st_mode)


def replace(
    path: Path, before: str | None, after: str, *, mode: int, private_folder: bool
) -> Path | None:
    """Put `after` in the place of `before` in the (real) file `path`; returns the backup.

    `before` None means that there must be no file yet. `private_folder` makes missing folders
    0700.
    """
    folder_mode = 0o700 if private_folder else 0o777
    with _failing_as(path):
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(folder_mode, exist_ok=True)
        if before is None:
            _create(path, after, mode)
            return None
        with _locked(path, before) as status:
            if not status.st_mode & 0o222:
                raise HostError(
                    f"{path} is read-only; nothing was written.",
                    fix=f"Make it writable (chmod u+w {path}), or edit what it is generated from.",
                    code="denied",
                )
            backup = _back_up(path, before, status)
            temporary = _write_beside(path, after, mode, status)
            temporary.replace(path)
            _sync_folder(path.parent)
        _forget_old_backups(path)
        return backup


def tighten(path: Path, mode: int) -> None:
    """Set the mode of a file whose text is right already."""
    with _failing_as(path):
        path.chmod(mode)


@contextlib.contextmanager
def _failing_as(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror or error}.",
            fix="Check the owner, the mode and the free space of its folder.",
            code="denied",
        ) from error


@contextlib.contextmanager
def _locked(path: Path, before: str) -> Generator[os.stat_result]:
    """Holds the file against a second run of ours and makes sure that it is still as planned.

    The lock is on the file itself: once it is replaced, a second run holds the old one, sees
    another file at the path and gives up.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise changed_meanwhile(path) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise changed_meanwhile(path) from None
        data, _ = _contents(descriptor, path)
        status = os.fstat(descriptor)
        now = path.stat()
        if data != before.encode() or (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
            raise changed_meanwhile(path)
        yield status
    finally:
        os.close(descriptor)


def _create(path: Path, text: str, mode: int) -> None:
    temporary = _write_beside(path, text, mode, None)
    try:
        # Unlike a rename, a link fails when somebody made the file in the meantime.
        os.link(temporary, path)
    except FileExistsError:
        raise changed_meanwhile(path) from None
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def _write_beside(path: Path, text: str, mode: int, like: os.stat_result | None) -> Path:
    temporary = path.with_name(f".{path.name}.hostwright-{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), _keep_owner(file.fileno(), like, mode))
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _keep_owner(descriptor: int, like: os.stat_result | None, mode: int) -> int:
    """Give the new file the owner of the old one; returns the mode that is then right."""
    status = os.fstat(descriptor)
    if like is None or (like.st_uid, like.st_gid) == (status.st_uid, status.st_gid):
        return mode
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except PermissionError:
        if like.st_uid != status.st_uid:
            raise
        # The old file's group is not ours to give; another group must not get its rights.
        return mode & ~0o070
    return mode


def _back_up(path: Path, text: str, status: os.stat_result) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup = path.with_name(f"{path.name}{_BACKUP}{stamp}")
    # Never more readable than the owner needs: such files hold keys.
    temporary = _write_beside(backup, text, 0o600, status)
    try:
        os.link(temporary, backup)
    finally:
        temporary.unlink()
    return backup


def _forget_old_backups(path: Path) -> None:
    prefix = path.name + _BACKUP
    backups = sorted(item for item in path.parent.iterdir() if item.name.startswith(prefix))
    for old in backups[:-BACKUPS_KEPT]:
        old.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
