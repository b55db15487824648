"""What servers write to stderr, as `logs/NAME.jsonl`: timed, redacted, rotated, bounded.

    {"time": "2026-11-25T08:00:00.123Z", "stream": "stderr", "pid": 4711, "text": "listening"}

One object per line; `stream` is `stderr`, or `keeper` for what the keeper adds (shown with `--`).
Control characters are kept as escapes, so that a log cannot drive the reader's terminal. A flood is
read (the server never blocks on stderr) but only so much of it is kept each second, and the log
says how much was not. Redaction works line by line, with one piece of memory: inside a PEM private
key. A line that a crash tore is ended when the file is next opened, and shown as it is.

One thread per running server reads its pipe, another one writes the file while there is something
to write: neither the event loop nor a server waits for the disk, and what a disk is too slow for is
counted. Read by `logtail`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from hostwright.keeper.logtail import CONTROL, follow, records, show, tail
from hostwright.manifest_rules import LogRules
from hostwright_kit.clock import utc_now

MAX_LINE_CHARS = 8_192
# Longer than a line may be shown, so that a secret is whole when it is masked, and then cut.
MAX_LINE_BYTES = 4 * MAX_LINE_CHARS
LINES_PER_SECOND = 2_000
BYTES_PER_SECOND = 1024 * 1024
REMEMBERED_LINES = 20
MAX_QUEUED_BYTES = 4 * 1024 * 1024
LINGER_SECONDS = 0.5
FLUSH_SECONDS = 5.0

__all__ = ["Drain", "ServerLog", "follow", "records", "show", "tail"]

_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_PEM_END = re.compile(r"-----END [A-Z ]*-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{40,}\s*\Z")
MAX_PEM_LINES = 200


class _PrivateRotatingFile(RotatingFileHandler):
    """Readable by its owner alone; a failure to write is kept, not printed into the daemon."""

    failure: str | None = None

    def _open(self) -> TextIOWrapper:
        handle = os.open(
            self.baseFilename, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # a crash tore the last line
        return os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        self.failure = str(sys.exc_info()[1])

    def adopt(self, rules: LogRules) -> None:
        """Other bounds from the next line on."""
        self.maxBytes, self.backupCount = int(rules.file_mb * 2**20), rules.keep


class _Writer:
    """A bounded queue before a file, and a thread that lives while there is something to write."""

    def __init__(self, file: _PrivateRotatingFile) -> None:
        self._file = file
        self._queue: deque[str] = deque()
        self._queued_bytes = self._dropped = 0
        self._busy = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Write this line some time soon; never waits."""
        with self._change:
            if self._queued_bytes > MAX_QUEUED_BYTES:
                self._dropped += 1
                return
            self._queue.append(line)
            self._queued_bytes += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def flush(self, wait_seconds: float) -> bool:
        """Wait until everything was written; False when that took too long."""
        with self._change:
            return self._change.wait_for(lambda: not self._queue and not self._busy, wait_seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                if not self._change.wait_for(lambda: bool(self._queue), LINGER_SECONDS):
                    self._thread = None
                    return
                lines, self._busy = list(self._queue), True
                self._queue.clear()
                self._queued_bytes, dropped, self._dropped = 0, self._dropped, 0
            if dropped:
                why = f"{dropped} lines were not kept: the disk was too slow for them"
                lines.append(_line("keeper", None, why))
            for line in lines:
                self._file.handle(logging.makeLogRecord({"msg": line}))


class ServerLog:
    """The log of one server over all of its processes. Thread-safe."""

    def __init__(
        self, path: Path, redact: Callable[[str], str], *, rules: LogRules | None = None
    ) -> None:
        self.path = path
        self._redact = redact
        self._secrets: tuple[str, ...] = ()
        self._file = _PrivateRotatingFile(path, delay=True, encoding="utf-8")
        self._file.adopt(rules or LogRules())
        self._writer = _Writer(self._file)
        self._last: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._lock = threading.Lock()

    def adopt(self, rules: LogRules) -> None:
        """Other bounds from now on."""
        self._file.adopt(rules)

    def mask(self, secrets: frozenset[str]) -> None:
        """Also mask these very values, which the server was given."""
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def note(self, text: str) -> None:
        """A line of the keeper's own."""
        self._writer.put(_line("keeper", None, self.clean(text)))

    def line(self, text: str, pid: int | None = None) -> None:
        """A line of the server's."""
        text = self.clean(text)
        with self._lock:
            self._last.append(text)
        self._writer.put(_line("stderr", pid, text))

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
        text = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        return text if len(text) <= MAX_LINE_CHARS else f"{text[:MAX_LINE_CHARS]}…"

    def drain(self, handle: int, pid: int | None = None) -> Drain:
        """Read this pipe of a process to its end in a thread, which closes the handle."""
        return Drain(self, handle, pid)

    def flush(self, wait_seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until what was written before is in the file. Blocking."""
        return self._writer.flush(wait_seconds)

    def close(self) -> None:
        """Write what is left and close the file. Blocking, but not for ever."""
        if self.flush():
            self._file.close()


def _line(stream: Literal["stderr", "keeper"], pid: int | None, text: str) -> str:
    content = {"time": utc_now(), "stream": stream, "pid": pid, "text": text}
    return json.dumps(content, ensure_ascii=False)


class Drain:
    """One process's stderr on its way into the log."""

    def __init__(self, log: ServerLog, handle: int, pid: int | None) -> None:
        self._log = log
        self._handle = handle
        self._wake_read, self._wake_write = os.pipe()
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._lines = _Lines(log, pid)
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
            self._log.flush()
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

    def __init__(self, log: ServerLog, pid: int | None) -> None:
        self._log = log
        self._pid = pid
        self._partial = b""
        self._cutting = False  # the rest of an overlong line is passed over
        self._pem_lines = 0
        self._second = 0
        self._lines_now = self._bytes_now = 0
        self._dropped_bytes = 0
        self._dropped_tail = b""
        self._dropped_at_line = False  # the tail begins where a line does
        self._after_gap = False

    def feed(self, chunk: bytes) -> None:
        """More bytes."""
        second = int(time.monotonic())
        if second != self._second:
            self.catch_up()
            self._second, self._lines_now, self._bytes_now = second, 0, 0
        if self._lines_now >= LINES_PER_SECOND or self._bytes_now >= BYTES_PER_SECOND:
            self._drop(chunk)
            return
        self._bytes_now += len(chunk)
        self._split(chunk)

    def _drop(self, chunk: bytes) -> None:
        """Too much; the end of it is kept in case that these are its last words."""
        if not self._dropped_bytes:
            self._dropped_at_line = not self._partial and not self._cutting
        self._dropped_bytes += len(chunk)
        tail = self._dropped_tail + chunk
        if len(tail) > MAX_LINE_CHARS:
            tail, self._dropped_at_line = tail[-MAX_LINE_CHARS:], False
        self._dropped_tail = tail

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
        # Whether a private key began in it is not known; nor, mostly, where a line did.
        self._partial, self._cutting, self._after_gap = b"", False, True
        self._split(tail if self._dropped_at_line else tail.partition(b"\n")[2])

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
        self._log.line(text, self._pid)
