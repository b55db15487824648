"""What servers write to stderr, as `logs/NAME.log`: timed, redacted, rotated, bounded.

One line per line, UTC time first; lines that the keeper adds begin with `--`. Control characters
are shown, not sent, so that a log cannot drive the reader's terminal. A flood is read (the server
never blocks on stderr) but only so much of it is kept each second, and the log says how much was
not. Redaction works line by line, with one piece of memory: inside a PEM private key.

One thread per running server reads its pipe: the event loop sees none of it. `tail` blocks (files);
`follow` is asyncio.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import BinaryIO

from hostwright_kit.clock import utc_now

MAX_FILE_BYTES = 5 * 1024 * 1024
BACKUPS = 3
MAX_LINE_CHARS = 8_192
# Longer than a line may be shown, so that a secret is whole when it is masked, and then cut.
MAX_LINE_BYTES = 4 * MAX_LINE_CHARS
LINES_PER_SECOND = 2_000
BYTES_PER_SECOND = 1024 * 1024
REMEMBERED_LINES = 20
MAX_TAIL_LINES = 10_000

_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_PEM_END = re.compile(r"-----END [A-Z ]*-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{40,}\s*\Z")
MAX_PEM_LINES = 200


class _PrivateRotatingFile(RotatingFileHandler):
    """Readable by its owner alone; a failure to write is kept, not printed into the daemon."""

    failure: str | None = None

    def _open(self) -> TextIOWrapper:
        handle = os.open(
            self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        return os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        self.failure = str(sys.exc_info()[1])


class ServerLog:
    """The log of one server over all of its processes. Thread-safe."""

    def __init__(
        self,
        path: Path,
        redact: Callable[[str], str],
        *,
        max_bytes: int = MAX_FILE_BYTES,
        backups: int = BACKUPS,
    ) -> None:
        self.path = path
        self._redact = redact
        self._secrets: tuple[str, ...] = ()
        self._file = _PrivateRotatingFile(
            path, maxBytes=max_bytes, backupCount=backups, delay=True, encoding="utf-8"
        )
        self._last: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._lock = threading.Lock()

    def mask(self, secrets: frozenset[str]) -> None:
        """Also mask these very values, which the server was given."""
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def note(self, text: str) -> None:
        """A line of the keeper's own."""
        self._write(f"-- {self.clean(text)}")

    def line(self, text: str) -> None:
        """A line of the server's."""
        text = self.clean(text)
        with self._lock:
            self._last.append(text)
        self._write(text)

    @property
    def last(self) -> tuple[str, ...]:
        """The server's last lines, oldest first."""
        with self._lock:
            return tuple(self._last)

    @property
    def failure(self) -> str | None:
        """Why the file could not be written, if so."""
        return self._file.failure

    def clean(self, text: str) -> str:
        """`text` fit to be kept and shown."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        text = self._redact(_ANSI.sub("", text))
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        return text if len(text) <= MAX_LINE_CHARS else f"{text[:MAX_LINE_CHARS]}…"

    def drain(self, handle: int) -> Drain:
        """Read this pipe to its end in a thread; the handle is closed there."""
        return Drain(self, handle)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.handle(logging.makeLogRecord({"msg": f"{utc_now()} {text}"}))


class Drain:
    """One process's stderr on its way into the log."""

    def __init__(self, log: ServerLog, handle: int) -> None:
        self._log = log
        self._handle = handle
        self._wake_read, self._wake_write = os.pipe()
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._lines = _Lines(log)
        os.set_blocking(handle, False)
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    async def finish(self, wait_seconds: float) -> None:
        """What was written is in the log. Whoever still holds the pipe is left behind."""
        await asyncio.wait([self._done], timeout=wait_seconds)
        os.close(self._wake_write)
        await self._done

    def _run(self) -> None:
        try:
            poller = select.poll()
            poller.register(self._handle, select.POLLIN)
            poller.register(self._wake_read, select.POLLIN)
            while self._read():
                ready = {handle for handle, _ in poller.poll(self._lines.wait_milliseconds)}
                if not ready:
                    self._lines.catch_up()
                elif self._wake_read in ready:
                    self._read()
                    break
            self._lines.end()
        finally:
            os.close(self._handle)
            os.close(self._wake_read)
            self._tell()

    def _read(self) -> bool:
        """What is there now; False at the end."""
        # Bounded, so that a flood cannot keep this from being woken.
        for _ in range(64):
            try:
                chunk = os.read(self._handle, 65_536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._lines.feed(chunk)
        return True

    def _tell(self) -> None:
        def resolve() -> None:
            if not self._done.done():
                self._done.set_result(None)

        try:
            self._loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


class _Lines:
    """Bytes to lines: bounded in length and rate, with private keys left out."""

    def __init__(self, log: ServerLog) -> None:
        self._log = log
        self._partial = b""
        self._cutting = False  # the rest of an overlong line is passed over
        self._pem_lines = 0
        self._second = 0
        self._lines_now = self._bytes_now = 0
        self._dropped_bytes = 0
        self._dropped_tail = b""
        self._after_gap = False

    def feed(self, chunk: bytes) -> None:
        """More bytes."""
        second = int(time.monotonic())
        if second != self._second:
            self.catch_up()
            self._second, self._lines_now, self._bytes_now = second, 0, 0
        if self._lines_now >= LINES_PER_SECOND or self._bytes_now >= BYTES_PER_SECOND:
            self._dropped_bytes += len(chunk)
            # Kept in case that these are its last words.
            self._dropped_tail = (self._dropped_tail + chunk)[-MAX_LINE_CHARS:]
            return
        self._bytes_now += len(chunk)
        self._split(chunk)

    @property
    def wait_milliseconds(self) -> int | None:
        """How soon `catch_up` is due if nothing comes; None: never."""
        return 1_000 if self._dropped_bytes else None

    def end(self) -> None:
        """The pipe is at its end."""
        self.catch_up()
        if self._partial:
            self._line(self._partial)
            self._partial = b""

    def _split(self, chunk: bytes) -> None:
        *whole, rest = (self._partial + chunk).split(b"\n")
        for line in whole:
            if self._cutting:
                self._cutting = False
                continue
            self._line(line)
        self._partial = b"" if self._cutting else rest
        if len(self._partial) > MAX_LINE_BYTES:
            self._line(rest)
            self._partial, self._cutting = b"", True

    def catch_up(self) -> None:
        """After a flood: say what was dropped, and keep its last lines."""
        if not self._dropped_bytes:
            return
        dropped, tail = self._dropped_bytes, self._dropped_tail
        self._dropped_bytes, self._dropped_tail = 0, b""
        self._log.note(
            f"{dropped} bytes of stderr were not kept: more than {LINES_PER_SECOND} lines or "
            f"{BYTES_PER_SECOND} bytes in one second"
        )
        # Where a line began is not known; nor whether a private key did.
        self._partial, self._cutting, self._after_gap = b"", False, True
        _, _, from_line = tail.partition(b"\n")
        self._split(from_line)

    def _line(self, raw: bytes) -> None:
        self._lines_now += 1
        text = raw[:MAX_LINE_BYTES].decode(errors="backslashreplace").rstrip("\r")
        if self._after_gap:
            if _BASE64.match(text):
                return
            self._after_gap = False
        if self._pem_lines:
            ended = _PEM_END.search(text) is not None
            self._pem_lines = 0 if ended or self._pem_lines > MAX_PEM_LINES else self._pem_lines + 1
            return
        begin = _PEM_BEGIN.search(text)
        if begin and not _PEM_END.search(text, begin.end()):
            self._pem_lines = 1
        self._log.line(text)


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, oldest first, reaching back into its rotated parts. Blocking."""
    lines = max(0, min(lines, MAX_TAIL_LINES))
    found: list[str] = []
    part, number = path, 0
    while len(found) < lines and number <= BACKUPS:
        found = _tail_of(part, lines - len(found)) + found
        number += 1
        part = path.with_name(f"{path.name}.{number}")
    return found


def _tail_of(path: Path, lines: int) -> list[str]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        position = file.seek(0, os.SEEK_END)
        content = b""
        while position > 0 and content.count(b"\n") <= lines:
            step = min(65_536, position)
            position = file.seek(position - step)
            content = file.read(step) + content
    return content.decode(errors="replace").splitlines()[-lines:]


async def follow(path: Path, *, poll_seconds: float = 0.2) -> AsyncIterator[str]:
    """Lines as they are added, across rotation; works from another process too."""
    reader = _Follower(path)
    try:
        while True:
            lines = await asyncio.to_thread(reader.read)
            for line in lines:
                yield line
            if not lines:
                await asyncio.sleep(poll_seconds)
    finally:
        reader.close()


class _Follower:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._file = self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """The next whole lines; empty when there are none yet."""
        if self._file is None:
            self._file = self._open()
            if self._file is None:
                return []
        chunk = self._file.read(262_144)
        if not chunk and self._rotated():
            self._file.close()
            self._file = self._open()
            return self.read() if self._file else []
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _rotated(self) -> bool:
        assert self._file is not None  # noqa: S101 - only called with an open file
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return now.st_ino != os.fstat(self._file.fileno()).st_ino
