"""The folders and the files that carry authority: whose they are, who else gets at them, room.

Repairs: `mode:PLACE` (the mode that it must have; nothing is given away), `disk:state` (rotated
logs and old snapshots moved to another disk).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from hostwright.rescue import good, snapshots
from hostwright.rescue.findings import Finding, Repair, Severity
from hostwright.rescue.ground import Ground
from hostwright_kit.errors import HostError

AREA = "files"
FREE_ERROR_BYTES = 64 * 1024 * 1024
FREE_WARNING_BYTES = 1024 * 1024 * 1024
FREE_INODES = 1_000
TRIED_BYTES = 256 * 1024
KEYS = ("host.key", "operator.json", "vault.key", "vault.db")
"""Who reads one of these can act as the host or the owner."""


def check_folders(ground: Ground) -> Iterator[Finding]:
    """The three folders, and the files in them that nobody else may read or write."""
    for word, folder in _folders(ground):
        yield from _folder(ground, word, folder)
    yield from _private_files(ground)
    yield from _authority(ground)


def check_disk(ground: Ground) -> Iterator[Finding]:
    """Room and inodes, and whether something can really be written."""
    for word, folder in _folders(ground):
        if folder.is_dir():
            yield _room(ground, word, folder)


def _folders(ground: Ground) -> tuple[tuple[str, Path], ...]:
    return (("config", ground.config), ("state", ground.state), ("runtime", ground.runtime))


def _folder(ground: Ground, word: str, folder: Path) -> Iterator[Finding]:
    name = f"mode:{word}"
    try:
        info = folder.stat()
    except FileNotFoundError:
        yield Finding(name, AREA, "ok", f"{folder} is not there yet; it is made when needed.")
        return
    if not stat.S_ISDIR(info.st_mode):
        yield Finding(
            name, AREA, "error", f"{folder} is not a folder.", fix=f"mv {folder} {folder}.moved"
        )
        return
    if info.st_uid != os.geteuid():
        yield Finding(
            name,
            AREA,
            "error",
            f"{folder} belongs to uid {info.st_uid}; this is uid {os.geteuid()}.",
            fix="Run as that user, or give it to this one if you know why: "
            f"chown -R {os.geteuid()} {folder}",
        )
        return
    closed = stat.S_IMODE(info.st_mode) & 0o700 != 0o700
    if closed or info.st_mode & 0o077:
        what = "cannot be used by its owner" if closed else "is open to others"
        yield Finding(
            name,
            AREA,
            "error" if closed or word != "runtime" else "warning",
            f"{folder} {what} (mode {stat.S_IMODE(info.st_mode):04o}).",
            repair=_mode(name, folder, 0o700, pin=not (closed and word == "state")),
        )
    else:
        yield Finding(name, AREA, "ok", f"{folder}: ours, closed to others.")


def _private_files(ground: Ground) -> Iterator[Finding]:
    """What lies at the top of the state folder is nobody else's."""
    try:
        entries = sorted(ground.state.iterdir())
    except OSError:
        return  # told by its folder
    for path in entries:
        with contextlib.suppress(FileNotFoundError):
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode) and path.name in KEYS:
                yield Finding(
                    f"mode:state/{path.name}",
                    AREA,
                    "error",
                    f"{path} is a link to {path.readlink()}.",
                    fix="Put the file itself there.",
                )
            elif stat.S_ISREG(info.st_mode) and path.suffix != ".pub":
                yield from _private_file(ground, path, info)


def _private_file(ground: Ground, path: Path, info: os.stat_result) -> Iterator[Finding]:
    name, mode = f"mode:{ground.named(path)}", stat.S_IMODE(info.st_mode)
    if info.st_uid != os.geteuid():
        yield Finding(
            name,
            AREA,
            "error",
            f"{path} belongs to uid {info.st_uid}; this is uid {os.geteuid()}.",
            fix=f"chown {os.geteuid()} {path}, if you know how that came about.",
        )
    elif mode & 0o077:
        severity: Severity = "error" if path.name in KEYS else "warning"
        message = f"{path} may be read by others (mode {mode:04o})."
        fix = ""
        if path.name in KEYS:
            fix = "Whoever has read it meanwhile still knows it: change what it holds."
        yield Finding(name, AREA, severity, message, fix=fix, repair=_mode(name, path, 0o600))
    elif mode & 0o600 != 0o600:
        message = f"{path} cannot be read and written by its owner (mode {mode:04o})."
        yield Finding(name, AREA, "error", message, repair=_mode(name, path, 0o600))


def _authority(ground: Ground) -> Iterator[Finding]:
    """Whoever can write a configuration decides what is started and what is allowed."""
    manifests = ground.config / "manifests"
    places = [manifests, *(ground.config / name for name in _names(ground.config))]
    for path in places:
        try:
            info = path.stat()
        except OSError:
            continue
        name = f"mode:{ground.named(path)}"
        if info.st_uid not in (os.geteuid(), 0):
            yield Finding(
                name,
                AREA,
                "error",
                f"{path} belongs to uid {info.st_uid}, who so decides what is allowed.",
                fix=f"chown {os.geteuid()} {path}, after reading what stands in it.",
            )
        elif info.st_mode & 0o022:
            mode = stat.S_IMODE(info.st_mode)
            yield Finding(
                name,
                AREA,
                "error",
                f"{path} may be written by others (mode {mode:04o}), who so decide what is "
                "allowed.",
                fix="Read what stands in it.",
                repair=_mode(name, path, mode & ~0o022),
            )


def _names(config_dir: Path) -> list[str]:
    try:
        return good.names_in(config_dir)
    except OSError:
        return []


def _mode(name: str, path: Path, mode: int, *, pin: bool = True) -> Repair:
    def act() -> list[str]:
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        return [f"mode of {path}: {before:04o} → {mode:04o}"]

    return Repair(
        name,
        f"chmod {mode:04o} {path}",
        act,
        # A folder that cannot be written takes no snapshot; its mode goes into the record.
        files=(path,) if pin else (),
        makes_room=not pin,
        pin=pin,
    )


# -- room ----------------------------------------------------------------------------------------


def _room(ground: Ground, word: str, folder: Path) -> Finding:
    name = f"disk:{word}"
    free, room = shutil.disk_usage(folder).free, os.statvfs(folder)
    severity: Severity = "ok"
    message = f"{free / 1e6:.0f} MB free for {folder}."
    if free < FREE_ERROR_BYTES:
        severity = "error"
    elif free < FREE_WARNING_BYTES:
        severity = "warning"
    # Some file systems (btrfs) have no fixed number of them and say 0 of 0.
    if room.f_files and room.f_favail < FREE_INODES:
        severity, message = "error", f"{room.f_favail} inodes are left for {folder}."
    if refused := _try_to_write(folder):
        severity, message = "error", f"Nothing can be written in {folder}: {refused}."
    if severity in ("ok", "note"):
        return Finding(name, AREA, severity, message)
    fix = "Free some space: while the ledger cannot be written, every act is refused."
    repair = _clearing(ground, name) if word == "state" and severity == "error" else None
    return Finding(name, AREA, severity, message, fix=fix, repair=repair)


def _try_to_write(folder: Path) -> str:
    """What a quota, a limit or a read-only mount says, which the figures do not show."""
    file = folder / f".hostwright-{secrets.token_hex(6)}.tmp"
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(bytes(TRIED_BYTES))
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        finally:
            os.close(handle)
            file.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def removable(ground: Ground) -> list[Path]:
    """What nothing needs any more: rotated logs, closed snapshots, all but the newest copies."""
    found = [
        path
        for path in sorted((ground.state / "logs").glob("*.jsonl.*"))
        if path.is_file() and not path.is_symlink()
    ]
    found += [
        one.folder
        for one in snapshots.all_in(ground.state / snapshots.FOLDER)
        if one.state not in snapshots.OPEN
    ]
    found += [copy.folder for copy in good.copies(ground.state)[2:]]
    return found


def _clearing(ground: Ground, name: str) -> Repair | None:
    """Offered where there is something to move, and another disk to move it to."""
    paths = removable(ground)
    size = sum(_size(path) for path in paths)
    target = ground.runtime
    if not paths or not target.is_dir() or target.stat().st_dev == ground.state.stat().st_dev:
        return None
    if shutil.disk_usage(target).free < size + FREE_ERROR_BYTES:
        return None

    def act() -> list[str]:
        place = target / f"moved-{secrets.token_hex(4)}"
        place.mkdir(mode=0o700)
        for path in paths:
            aside = place / path.relative_to(ground.state)
            aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Copied whole before it is removed.
            if path.is_dir():
                shutil.copytree(path, aside)
                shutil.rmtree(path)
            else:
                shutil.copy2(path, aside)
                path.unlink()
        if refused := _try_to_write(ground.state):
            raise HostError(
                f"{size} bytes were moved to {place}, and still nothing can be written: {refused}.",
                fix="Free more space.",
                code="still_full",
            )
        return [f"moved {len(paths)} rotated logs and old copies ({size} bytes) to {place}"]

    title = f"move {len(paths)} rotated logs and old copies ({size} bytes) to {target}"
    return Repair(name, title, act, makes_room=True)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size
