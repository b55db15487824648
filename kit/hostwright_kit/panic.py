"""The emergency stop of one installation: while it holds, nothing is done for anybody.

`<state_dir>/panic.json` (0600): who stopped everything, when and why. The file *is* the stop: it is
on disk before anything is ended, it outlives every process, and each server looks for it before
each call, so that a server that runs alone is stopped as well. A file that is empty or damaged
stops everything too. Anybody may stop; the owner alone lifts it (`hostwright lift`, with the PIN).

Standard library and pydantic only. Everything here blocks, briefly.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError

FILE = "panic.json"
MAX_REASON_CHARS = 500
LIFT = "hostwright lift"

Via = Literal["tool", "terminal", "unknown"]


class Panic(BaseModel, frozen=True):
    """One emergency stop, as it stands on disk."""

    id: str
    since: str = Field(description="UTC, ISO 8601.")
    by: str = Field(description="Who stopped everything: a client's name, or owner.")
    via: Via = Field(description="tool: an agent's call; terminal: the owner at the command line.")
    reason: str = Field(description="What was given as the reason.")

    def sentence(self) -> str:
        """Who, when and why, in one sentence."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.by} stopped everything at {self.since} ({self.via}){why}"


class PanicError(HostError):
    """Refused, because everything is stopped."""

    def __init__(self, panic: Panic) -> None:
        super().__init__(
            f"Nothing is done now: {panic.sentence()}.",
            fix=f"Only the owner lifts it, in a terminal: `{LIFT}`. Do not try another way.",
            code="panic",
        )
        self.panic = panic


class Declared(BaseModel, frozen=True):
    """What came of declaring one."""

    panic: Panic
    new: bool = Field(description="False: everything was stopped already, by the one told here.")
    undurable: str | None = Field(
        default=None, description="Why the stop would not outlive a restart, if it would not."
    )


def panicking(state_dir: Path | str) -> bool:
    """Whether everything is stopped. Cheap enough for every call."""
    return os.path.lexists(f"{state_dir}/{FILE}")


def read_panic(state_dir: Path) -> Panic | None:
    """The stop that holds; None: there is none. What cannot be read holds as well."""
    file = state_dir / FILE
    try:
        return Panic.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        if not file.is_symlink():
            return None
        # A link that leads nowhere is somebody's doing, and stops as well.
        why = "leads nowhere"
    except (OSError, ValidationError):
        why = "cannot be read"
    return Panic(
        id="unknown",
        since="an unknown time",
        by="somebody",
        via="unknown",
        reason=f"the record {file} {why}, and counts all the same",
    )


def declare(state_dir: Path, *, by: str, via: Via, reason: str) -> Declared:
    """Stop everything, durably. The first one counts, however many come."""
    wanted = Panic(
        id=secrets.token_hex(4),
        since=utc_now(),
        by=by[:200],
        via=via,
        reason=" ".join(reason.split())[:MAX_REASON_CHARS],
    )
    return put_back(state_dir, wanted)


def put_back(state_dir: Path, wanted: Panic) -> Declared:
    """Have this very stop on disk, where there is none."""
    file = state_dir / FILE
    try:
        if not _create(file, wanted.model_dump_json().encode()):
            return Declared(panic=read_panic(state_dir) or wanted, new=False)
    except OSError as error:
        # A name needs less room than a content, and the name is enough.
        try:
            _create_empty(file)
        except OSError:
            why = f"{file} cannot be written: {error.strerror}"
            return Declared(panic=wanted, new=True, undurable=why)
    return Declared(panic=wanted, new=True)


def remove(state_dir: Path) -> None:
    """The stop is lifted. Whoever calls this has checked the owner's PIN."""
    try:
        (state_dir / FILE).unlink(missing_ok=True)
        _sync(state_dir)
    except OSError as error:
        raise HostError(
            f"The stop cannot be lifted: {state_dir / FILE} cannot be removed ({error.strerror}).",
            fix="Mend the permissions of the state folder (`hostwright rescue` names them).",
            code="panic_not_lifted",
        ) from error


def _create(file: Path, content: bytes) -> bool:
    """Whole or not at all, and never over one that is there; False: there was one."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync(file.parent)
    return True


def _create_empty(file: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _sync(file.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
