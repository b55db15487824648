"""What was there before a repair, and how far the repair came: on disk before anything is changed.

`<state_dir>/rescue/<UTC time>-<word>/` (or a folder that the owner names):

    repair.json     {"version": 1, "id", "repair", "title", "at", "state", "files", "done"}
    files/0, 1, …   the copies

    begun ──(copies are complete)──▶ ready ──▶ done
                                       └─────▶ failed        `undone` when it was put back

A repair acts only in `ready`. Whatever is found in `begun` has changed nothing; what is found in
`ready` was cut off (a kill, a power cut) and can be put back, as can one that failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from hostwright_kit.errors import HostError

FOLDER = "rescue"
RECORD = "repair.json"
KEPT = 20
SPARE_BYTES = 1024 * 1024
"""What must stay free beside a snapshot."""

State = Literal["begun", "ready", "done", "failed", "undone"]
OPEN: tuple[State, ...] = ("ready", "failed")
"""States from which it can be put back."""


@dataclass
class Snapshot:
    """One repair's."""

    folder: Path
    id: str
    repair: str
    title: str
    at: str
    state: State
    files: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    done: list[str] = field(default_factory=list[str])

    def mark(self, state: State, done: Sequence[str] = ()) -> None:
        """It is in this state now, durably."""
        self.state = state
        self.done = [*self.done, *done]
        self._save()

    def put_back(self) -> list[str]:
        """Make every file what it was. Raises `OSError`, or `HostError` when a copy is damaged."""
        from hostwright_kit.atomic import write_private

        for entry in self.files:
            if entry["kind"] == "file":
                self._content(entry)  # all of them are sound before any is put back
        told: list[str] = []
        for entry in self.files:
            path = Path(entry["path"])
            if entry["kind"] == "absent":
                if path.is_file() or path.is_symlink():
                    path.unlink()
                    told.append(f"removed {path}, which was not there")
            elif entry["kind"] == "file":
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(path, self._content(entry), mode=entry["mode"])
                told.append(f"restored {path}")
            if entry["kind"] != "absent" and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    path.chmod(entry["mode"])
        return told

    def _content(self, entry: dict[str, Any]) -> bytes:
        content = (self.folder / entry["copy"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise HostError(
                f"The copy of {entry['path']} in {self.folder} is damaged.",
                fix="Put it back by hand, if it is still of use.",
                code="copy_damaged",
            )
        return content

    def _save(self) -> None:
        from hostwright_kit.atomic import write_private

        content = {
            "version": 1,
            "id": self.id,
            "repair": self.repair,
            "title": self.title,
            "at": self.at,
            "state": self.state,
            "files": self.files,
            "done": self.done,
        }
        write_private(self.folder / RECORD, json.dumps(content, indent=1).encode())


def take(top: Path, repair: str, title: str, files: Sequence[Path]) -> Snapshot:
    """Copy these, durably; ready to act. Nothing is left of one that cannot be completed."""
    _need_room(top, files)
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    word = re.sub(r"[^a-z0-9]+", "-", repair.lower()).strip("-")[:40]
    name = f"{at}-{word}-{secrets.token_hex(2)}"
    folder = top / name
    (folder / "files").mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    snapshot = Snapshot(folder, name, repair, title, at, "begun")
    try:
        snapshot.mark("begun")
        for number, path in enumerate(files):
            snapshot.files.append(_copy(path, folder, number))
        _sync(folder / "files")
        snapshot.mark("ready")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return snapshot


def all_in(top: Path) -> list[Snapshot]:
    """The snapshots there, oldest first."""
    return sorted(_read(top), key=lambda one: one.id)


def find(top: Path, snapshot_id: str) -> Snapshot | None:
    """One by its id."""
    return next((one for one in _read(top) if one.id == snapshot_id), None)


def prune(top: Path) -> None:
    """Keep the newest; one that may still be put back stays in any case."""
    closed = [one for one in all_in(top) if one.state not in OPEN]
    for old in closed[: max(0, len(closed) - KEPT)]:
        shutil.rmtree(old.folder, ignore_errors=True)


def _read(top: Path) -> Iterator[Snapshot]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for folder in top.iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads((folder / RECORD).read_bytes())
                yield Snapshot(
                    folder,
                    str(found["id"]),
                    str(found["repair"]),
                    str(found["title"]),
                    str(found["at"]),
                    cast("State", found["state"]),
                    list(found["files"]),
                    [str(one) for one in found["done"]],
                )


def _copy(path: Path, folder: Path, number: int) -> dict[str, Any]:
    """One file's entry; of a folder only its mode is kept."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return {"path": str(path), "kind": "absent"}
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISREG(info.st_mode):
        return {"path": str(path), "kind": "mode", "mode": mode}
    name = f"files/{number}"
    digest = hashlib.sha256()
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as copy, path.open("rb") as source:
        while block := source.read(1024 * 1024):
            digest.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    return {
        "path": str(path),
        "kind": "file",
        "mode": mode,
        "copy": name,
        "sha256": digest.hexdigest(),
    }


def _need_room(top: Path, files: Sequence[Path]) -> None:
    wanted = sum(path.stat().st_size for path in files if path.is_file())
    there = top
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < wanted + SPARE_BYTES:
        raise HostError(
            f"There is no room for the snapshot: {wanted} bytes are wanted in {there}, {free} are "
            "free. Nothing was changed.",
            fix="Free some space, or name a folder on another disk: --snapshots FOLDER.",
            code="no_room",
        )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
