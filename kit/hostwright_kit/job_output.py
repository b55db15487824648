"""The output of a job: append-only files, one per stream, and the pages read back from them.

Touches only its own folder: `ID.stdout` and `ID.stderr`, mode 0600, made at the first byte. Bytes
go in and come out unchanged; a page also says them as text where they are UTF-8 (RFC 3629) and as
base64 (RFC 4648) where they are not. Offsets count bytes from the start of the stream.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = get_args(Stream)

DEFAULT_PAGE_BYTES = 64 * 1024
MAX_PAGE_BYTES = 1024 * 1024
# The longest UTF-8 character: a smaller page might hold none and never get past it.
MIN_PAGE_BYTES = 4


class OutputPage(BaseModel, frozen=True):
    """A piece of one stream. Joined in order, pages give the stored bytes exactly."""

    job_id: str
    stream: Stream
    offset_bytes: int = Field(description="Where this page begins in the stream.")
    next_offset_bytes: int = Field(description="Where the next page begins.")
    stored_bytes: int = Field(description="What is on disk of this stream so far.")
    total_bytes: int = Field(description="What was written to this stream, stored or not.")
    text: str = Field(description="The page; bytes that are not UTF-8 appear as U+FFFD.")
    base64: str | None = Field(description="The exact bytes, when they are not valid UTF-8.")
    complete: bool = Field(description="The job has ended and nothing follows this page.")
    truncated: bool = Field(description="The stream went on past the cap; the rest was dropped.")


class OutputSink:
    """Where running work writes. For one event loop; files are written in threads of `pool`."""

    def __init__(self, folder: Path, job_id: str, max_bytes: int, pool: Executor) -> None:
        self._folder = folder
        self._job_id = job_id
        self._max_bytes = max_bytes
        self._pool = pool
        self._files: dict[Stream, int] = {}
        self._turns = {stream: asyncio.Lock() for stream in STREAMS}
        self.total_bytes: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        self.stored_bytes: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        self.failure: str | None = None

    def truncated(self, stream: Stream) -> bool:
        return self.total_bytes[stream] > self.stored_bytes[stream]

    async def write(self, data: bytes, stream: Stream = "stdout") -> None:
        """Append; past the cap, or once the disk refused, only count.

        Full storage is no reason to stop the work: the record says that output was dropped, and
        why.
        """
        async with self._turns[stream]:
            self.total_bytes[stream] += len(data)
            # Once a stream lost a byte it takes no more: what is stored stays a true prefix.
            behind = self.total_bytes[stream] - len(data) > self.stored_bytes[stream]
            room = 0 if behind else self._max_bytes - sum(self.stored_bytes.values())
            kept = data[:room] if room > 0 else b""
            if not kept or self.failure:
                return
            # Reserved before the thread switch, so that two streams never share the same room.
            self.stored_bytes[stream] += len(kept)
            loop = asyncio.get_running_loop()
            written, failure = await loop.run_in_executor(self._pool, self._append, stream, kept)
            if failure:
                self.stored_bytes[stream] -= len(kept) - written
                self.failure = failure

    async def close(self) -> None:
        """Flush to disk. Call when no `write` is under way."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._close)

    def _append(self, stream: Stream, data: bytes) -> tuple[int, str | None]:
        view, written = memoryview(data), 0
        try:
            if stream not in self._files:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                path = _path(self._folder, self._job_id, stream)
                self._files[stream] = os.open(path, flags, 0o600)
            while written < len(view):
                written += os.write(self._files[stream], view[written:])
        except OSError as error:
            return written, f"Output could not be stored: {error.strerror}."
        return written, None

    def _close(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            try:
                os.fsync(file)
            except OSError as error:
                self.failure = f"Output may not survive a power loss: {error.strerror}."
            finally:
                os.close(file)


def stored_sizes(folder: Path, job_id: str) -> tuple[int, int]:
    """Bytes on disk: stdout, stderr. Blocking."""
    stdout, stderr = (_size(_path(folder, job_id, stream)) for stream in STREAMS)
    return stdout, stderr


def remove(folder: Path, job_ids: Iterable[str]) -> None:
    """Blocking."""
    for job_id in job_ids:
        for stream in STREAMS:
            _path(folder, job_id, stream).unlink(missing_ok=True)


def remove_orphans(folder: Path, known: Callable[[], set[str]]) -> None:
    """Delete files that no record names. Blocking.

    The folder is listed before the records are read: a job that starts meanwhile has its record
    before its first file, so its files are never taken for orphans.
    """
    found = {entry.name.partition(".")[0] for entry in os.scandir(folder)}
    remove(folder, found - known())


def read_page(
    folder: Path,
    job_id: str,
    stream: Stream,
    *,
    offset_bytes: int,
    limit_bytes: int,
    total_bytes: int,
    truncated: bool | None,
    ended: bool,
) -> OutputPage:
    """The bytes from `offset_bytes` on; a negative offset counts from the end. Blocking.

    A page ends before a character that it cannot hold whole, or that is not written whole yet.
    """
    if not MIN_PAGE_BYTES <= limit_bytes <= MAX_PAGE_BYTES:
        raise HostError(
            f"limit_bytes is {limit_bytes}, outside {MIN_PAGE_BYTES} to {MAX_PAGE_BYTES}.",
            fix="Ask for a page inside these bounds and go on from next_offset_bytes.",
            code="invalid_argument",
        )
    path = _path(folder, job_id, stream)
    stored = _size(path)
    start = max(0, stored + offset_bytes) if offset_bytes < 0 else offset_bytes
    if start > stored:
        raise HostError(
            f"offset_bytes is {offset_bytes}, but {stream} has {stored} bytes stored.",
            fix="Go on from the next_offset_bytes of the page before, or use a negative offset "
            "to read from the end.",
            code="invalid_argument",
        )
    data = _read(path, start, limit_bytes) if stored else b""
    if offset_bytes < 0:
        skip = _to_character_start(data)
        start, data = start + skip, data[skip:]
    at_end = start + len(data) >= stored
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=at_end and ended)
    held_back = len(decoder.getstate()[0])
    data = data[: len(data) - held_back]
    return OutputPage(
        job_id=job_id,
        stream=stream,
        offset_bytes=start,
        next_offset_bytes=start + len(data),
        stored_bytes=stored,
        total_bytes=max(total_bytes, stored),
        text=text,
        base64=None if _is_utf8(data) else base64.b64encode(data).decode("ascii"),
        complete=ended and at_end,
        truncated=total_bytes > stored if truncated is None else truncated,
    )


def _path(folder: Path, job_id: str, stream: Stream) -> Path:
    return folder / f"{job_id}.{stream}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, offset: int, limit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(limit)


def _to_character_start(data: bytes) -> int:
    """How many continuation bytes (10xxxxxx) open `data`; none when they cannot be UTF-8."""
    count = next((i for i, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
    return count if count < MIN_PAGE_BYTES else 0


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
