"""The owner's PIN: what makes a grant from the terminal the owner's and not the agent's.

`<state_dir>/operator.json` (0600) holds an argon2id hash and the count of wrong tries. A try is
counted on disk before it is checked, under a lock, so that neither a crash nor two tries at once
gives a free guess. After five wrong tries in a row each further one waits: 30 s, doubling, at most
an hour.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from pydantic import BaseModel, ValidationError

from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError

FREE_TRIES = 5
FIRST_WAIT_SECONDS = 30
LONGEST_WAIT_SECONDS = 3600
MIN_PIN_CHARS = 4


class _Record(BaseModel):
    hash: str
    failures: int = 0
    wait_until: float = 0.0


class OperatorPin:
    """Sets and checks the PIN. Blocking (argon2 takes tens of milliseconds by design)."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "operator.json"
        self._lock_file = state_dir / "operator.lock"
        self._hasher = PasswordHasher()

    def is_set(self) -> bool:
        """Whether grants from the terminal are possible at all."""
        return self._file.exists()

    def set(self, pin: str, *, current: str | None = None) -> None:
        """Set the PIN; changing it needs the one that holds now."""
        if len(pin) < MIN_PIN_CHARS:
            raise HostError(
                f"The PIN has {len(pin)} characters.",
                fix=f"Choose at least {MIN_PIN_CHARS}.",
                code="pin_too_short",
            )
        with self._locked():
            # Under one lock: two first PINs at once must not both be taken for the first.
            if self.is_set():
                self._check(current or "")
            self._write(_Record(hash=self._hasher.hash(pin)))

    def verify(self, pin: str) -> None:
        """Return when the PIN is right; raise otherwise."""
        with self._locked():
            self._check(pin)

    def _check(self, pin: str) -> None:
        record = self._read()
        wait = math.ceil(record.wait_until - time.time())
        if wait > 0:
            raise HostError(
                f"Too many wrong PINs; the next try is possible in {wait} s.",
                fix="Wait, then try again.",
                code="pin_locked",
            )
        self._write(_after_failure(record))
        try:
            self._hasher.verify(record.hash, pin)
        except VerifyMismatchError:
            left = max(0, FREE_TRIES - record.failures - 1)
            raise HostError(
                f"The PIN is wrong; {left} tries are left before a wait.",
                fix="Try again.",
                code="pin_wrong",
            ) from None
        except (InvalidHashError, VerificationError) as error:
            raise _damaged(self._file) from error
        self._write(_Record(hash=record.hash))

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(self._lock_file, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> _Record:
        try:
            return _Record.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            raise HostError(
                "No PIN is set, so nothing can be granted from the terminal.",
                fix="Run `hostwright init` to set one.",
                code="pin_unset",
            ) from None
        except (ValidationError, OSError) as error:
            raise _damaged(self._file) from error

    def _write(self, record: _Record) -> None:
        try:
            write_private(self._file, json.dumps(record.model_dump()).encode())
        except OSError as error:
            # A try that cannot be counted is not allowed.
            raise _unwritable(self._file, error) from error


def _after_failure(record: _Record) -> _Record:
    failures = record.failures + 1
    wait = 0.0
    if failures >= FREE_TRIES:
        wait = min(FIRST_WAIT_SECONDS * 2 ** min(failures - FREE_TRIES, 10), LONGEST_WAIT_SECONDS)
    return _Record(
        hash=record.hash, failures=failures, wait_until=time.time() + wait if wait else 0
    )


def _unwritable(file: Path, error: OSError) -> HostError:
    return HostError(
        f"The PIN cannot be used, because {file} cannot be written: {error.strerror}.",
        fix="Free disk space or mend the permissions of the state folder, then try again.",
        code="pin_unavailable",
    )


def _damaged(file: Path) -> HostError:
    return HostError(
        f"The PIN record {file} is damaged or unreadable.",
        fix=f"As the owner, delete it (rm {file}) and run `hostwright init` again.",
        code="pin_damaged",
    )
