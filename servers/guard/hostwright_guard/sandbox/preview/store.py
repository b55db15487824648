"""Previews on disk: `STATE/previews/ID/` holds `record.json` and the layers of the overlay.

    ready ──commit──▶ committing ──▶ committed
      └── the folder was changed: stays ready, and cannot be committed

`committing` is on disk before the first change is made, so that a commit that was cut off is taken
up again by the next one, and nothing else. Blocking.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hostwright_guard.sandbox.preview.changes import Change
from hostwright_kit.atomic import write_private
from hostwright_kit.canonical import digest
from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.paths import ensure_private

ID = re.compile(r"[0-9a-f]{16}")
KEPT_SECONDS = 86_400.0
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


class Previews:
    """The previews of one installation."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "previews"
        ensure_private(self._folder)

    def begin(self, like: os.stat_result) -> tuple[str, Path, Path]:
        """A new id, and empty layers for a folder like this one."""
        self._prune()
        preview_id = secrets.token_hex(8)
        home = self._folder / preview_id
        upper, work = home / "upper", home / "work"
        for folder in (home, upper, work):
            folder.mkdir(mode=0o700)
        # An overlay shows the upper layer's mode and owner for the folder itself.
        if os.geteuid() == 0:
            os.chown(upper, like.st_uid, like.st_gid)
        upper.chmod(like.st_mode & 0o777)
        return preview_id, upper, work

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
                remove_layers(home)


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
