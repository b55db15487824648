"""The access log: what was read, as lines of JSON in files that are rotated.

Reads are many and change nothing, so they need no proof and nobody waits for them. A call leaves
its line in memory, in microseconds; a thread writes what has come up every `WRITE_SECONDS`, without
fsync. A process that is killed loses at most that; a machine that loses power, what the system had
not written yet. Mutations and denials go to the ledger (`ledger.py`).

`<state_dir>/access/NUMBER.jsonl`, 0600; the highest number is written to, by every process of this
installation, each batch in one piece under a lock. A file that is full is followed by the next
number, and the oldest beyond those that are kept is deleted. Reading them: `access_reading.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_file import Entry
from hostwright_kit.paths import ensure_private

ACCESS_FOLDER = "access"
SUFFIX = ".jsonl"
MAX_FILE_BYTES = 16 * 1024 * 1024
KEPT_FILES = 8
WRITE_SECONDS = 0.2
MAX_LINE_BYTES = 64 * 1024
MAX_WAITING_BYTES = 8 * 1024 * 1024
_LOCK = ".lock"


class AccessLog:
    """Appends lines. Open one per process; thread-safe. Without a line it costs nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        kept_files: int = KEPT_FILES,
        on_loss: Callable[[str, int], None] = lambda _why, _count: None,
    ) -> None:
        """`on_loss` is told why how many lines are missing, from any thread."""
        self.folder = folder
        self._max_file_bytes = max_file_bytes
        self._kept_files = kept_files
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._flushing: list[threading.Event] = []
        self._come = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def note(self, entry: Entry, *, in_ledger: bool = False) -> None:
        """Take an entry; never waits, never raises. `in_ledger`: it is on record there as well."""
        try:
            line = _encoded(entry, in_ledger=in_ledger)
        except (TypeError, ValueError, RecursionError) as error:
            self._on_loss(f"a read has no encoding ({error})", 1)
            return
        if (why := self._take(line)) is not None:
            self._on_loss(why, 1)

    def _take(self, line: bytes) -> str | None:
        with self._lock:
            if self._closed:
                return "the access log is closed"
            if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
                return f"{MAX_WAITING_BYTES} bytes already wait for the disk"
            self._waiting_bytes += len(line)
            self._lines.append(line)
            if len(self._lines) > 1:
                return None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
                self._thread.start()
        self._come.set()
        return None

    def flush(self, timeout_seconds: float = 10.0) -> None:
        """Wait until what was noted before is in the file, or could not be."""
        over = threading.Event()
        with self._lock:
            if self._closed or self._thread is None:
                return
            self._flushing.append(over)
            self._hurry.set()
            self._come.set()
        over.wait(timeout_seconds)

    def close(self, timeout_seconds: float = 3.0) -> None:
        """Write what waits and end. Safe to call twice."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._hurry.set()
            self._come.set()
        if thread is not None:
            thread.join(timeout_seconds)

    def _run(self) -> None:
        ending = False
        while not ending:
            self._come.wait()
            self._hurry.wait(WRITE_SECONDS)
            with self._lock:
                lines, self._lines = self._lines, []
                self._waiting_bytes = 0
                flushing, self._flushing = self._flushing, []
                ending = self._closed
                self._come.clear()
                self._hurry.clear()
            if lines:
                try:
                    self._write(lines)
                except (OSError, HostError) as error:
                    self._on_loss(f"the access log cannot be written ({error})", len(lines))
            for one in flushing:
                one.set()

    def _write(self, lines: Sequence[bytes]) -> None:
        ensure_private(self.folder)
        with _locked(self.folder / _LOCK):
            numbers = access_files(self.folder)
            newest = numbers[-1] if numbers else 1
            batch: list[bytes] = []
            room = self._max_file_bytes - _size(access_file(self.folder, newest))
            for line in lines:
                if len(line) > room:
                    if batch or room < self._max_file_bytes:
                        _append(access_file(self.folder, newest), b"".join(batch))
                        newest += 1
                    batch, room = [], self._max_file_bytes
                batch.append(line)
                room -= len(line)
            _append(access_file(self.folder, newest), b"".join(batch))
            for number in numbers:
                if number <= newest - self._kept_files:
                    access_file(self.folder, number).unlink(missing_ok=True)


def access_file(folder: Path, number: int) -> Path:
    """The file of this number."""
    return folder / f"{number:08d}{SUFFIX}"


def access_files(folder: Path) -> list[int]:
    """The numbers of the files that are there, oldest first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are all that is asked for
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())


def _encoded(entry: Entry, *, in_ledger: bool) -> bytes:
    fields: dict[str, Any] = {
        "time": utc_now(),
        "type": entry.type,
        "caller": entry.caller,
        "server": entry.server,
        "tool": entry.tool,
        "outcome": entry.outcome,
        "detail": entry.detail,
        "in_ledger": in_ledger or None,
    }
    kept = {name: value for name, value in fields.items() if value is not None}
    line = canonical(kept)
    if len(line) > MAX_LINE_BYTES:
        kept["detail"] = {**entry.detail, "arguments": {"omitted": f"{len(line)} bytes"}}
        line = canonical(kept)
    return line + b"\n"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _append(file: Path, data: bytes) -> None:
    """All of it or nothing. Half a line, which only a crash can leave, is ended first."""
    if not data:
        return
    handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


@contextmanager
def _locked(file: Path) -> Generator[None]:
    """Alone among the processes that write."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
