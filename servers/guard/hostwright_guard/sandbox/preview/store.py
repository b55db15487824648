"""Previews on disk: `STATE/previews/ID/` holds `record.json` and the layers of the overlay.

    ready ──commit──▶ committing ──▶ committed
      ▲                   │
      └── all taken back ─┘   (a step failed, the folder was changed)

`committing` is on disk before the first change is made, so that a commit that was cut off is taken
up again by the next one, and nothing else. Blocking.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from hostwright_guard.sandbox.preview.changes import Change
from hostwright_kit.atomic import write_private
from hostwright_kit.canonical import digest
from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.paths import ensure_private

ID = re.compile(r"[0-9a-f]{16}")
KEPT_SECONDS = 86_400.0
KEPT_IN_PART_SECONDS = 30 * 86_400.0
MAX_KEPT = 50


class Record(BaseModel):
    """One preview."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    bound: str
    folder: str
    device: int
    inode: int
    fingerprint: str
    changes: tuple[Change, ...] = ()
    state: Literal["ready", "committing", "committed"] = "ready"
    created: str

    @property
    def digest(self) -> str:
        """What a commit names: this folder, as it was, and these changes."""
        return digest(
            {
                "folder": self.folder,
                "fingerprint": self.fingerprint,
                "changes": [one.model_dump(exclude={"diff"}) for one in self.changes],
            }
        )


class Layers(NamedTuple):
    """The folders of one preview: what is written, overlayfs' own, and where it is mounted."""

    preview_id: str
    upper: Path
    work: Path
    shown: Path
    lock: int
    """Held while somebody works on it; close it then."""


class Previews:
    """The previews of one installation."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "previews"
        ensure_private(self._folder)

    def begin(self, like: os.stat_result) -> Layers:
        """A new id, and empty layers for a folder like this one."""
        self._prune()
        preview_id = secrets.token_hex(8)
        home = self._folder / preview_id
        upper, work, shown = home / "upper", home / "work", home / "shown"
        for folder in (home, upper, work, shown):
            folder.mkdir(mode=0o700)
        # An overlay shows the upper layer's mode and owner for the folder itself.
        if os.geteuid() == 0:
            os.chown(upper, like.st_uid, like.st_gid)
        upper.chmod(like.st_mode & 0o777)
        return Layers(preview_id, upper, work, shown, _locked(home))

    def keep(self, record: Record) -> None:
        """Write it down, whole."""
        write_private(self._folder / record.id / "record.json", record.model_dump_json().encode())

    def find(self, preview_id: str, bound: str) -> Record:
        """The caller's own preview; raises `HostError`."""
        try:
            if not ID.fullmatch(preview_id):
                raise FileNotFoundError
            text = (self._folder / preview_id / "record.json").read_bytes()
            record = Record.model_validate_json(text)
        except (OSError, ValidationError):
            record = None
        if record is None or record.bound != bound:
            raise HostError(
                f"There is no preview {preview_id[:40]!r} of yours.",
                fix="Make one with sandbox_preview; it is kept for a day.",
                code="not_found",
            )
        return record

    @contextmanager
    def lock(self, preview_id: str) -> Generator[None]:
        """Nobody else commits or removes it meanwhile; raises `HostError` if somebody does."""
        try:
            handle = _locked(self._folder / preview_id)
        except BlockingIOError:
            raise HostError(
                f"The preview {preview_id} is being applied right now.",
                fix="Wait for that call's answer.",
                code="busy",
            ) from None
        try:
            yield
        finally:
            os.close(handle)

    def upper(self, preview_id: str) -> Path:
        return self._folder / preview_id / "upper"

    def forget(self, preview_id: str) -> None:
        """Remove the layers, and the record with them."""
        remove_layers(self._folder / preview_id)

    def _prune(self) -> None:
        homes = sorted(self._folder.iterdir(), key=lambda home: home.stat().st_mtime)
        old = time.time() - KEPT_SECONDS
        for place, home in enumerate(homes):
            if home.stat().st_mtime < old or place < len(homes) - MAX_KEPT:
                self._remove(home)

    def _remove(self, home: Path) -> None:
        """Unless somebody works on it, or it was applied in part and can be gone on with."""
        try:
            handle = _locked(home)
        except BlockingIOError:
            return
        try:
            record = home / "record.json"
            text = record.read_text() if record.exists() else ""
            if '"state":"committing"' not in text or (
                record.stat().st_mtime < time.time() - KEPT_IN_PART_SECONDS
            ):
                remove_layers(home)
        finally:
            os.close(handle)


def _locked(home: Path) -> int:
    """flock(2) on a file of the preview's; raises `BlockingIOError` when somebody else has it."""
    handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def remove_layers(home: Path) -> None:
    """The overlay leaves a folder without any permission in its work layer."""
    for folder in (home / "work").glob("*"):
        folder.chmod(0o700)
    shutil.rmtree(home, ignore_errors=True)


def new_record(preview_id: str, bound: str, folder: str, info: os.stat_result, mark: str) -> Record:
    return Record(
        id=preview_id,
        bound=bound,
        folder=folder,
        device=info.st_dev,
        inode=info.st_ino,
        fingerprint=mark,
        created=utc_now(),
    )
