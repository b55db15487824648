"""`file_read`: a bounded part of a file, in one pass.

The file is read once, in chunks: the hash, the line count and the returned part come from the same
bytes, and memory stays bounded by one chunk and the output. Files up to `HASH_BYTES` are read to
their end for the hash; of larger ones only as much as the part asks for, at most `SCAN_BYTES`.

Blocking; reads only.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypedDict

from hostwright_kit.errors import HostError
from hostwright_system.files.encodings import (
    SAMPLE_BYTES,
    Encoding,
    decode,
    detect,
    image_type,
    named,
)
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import FileContent
from hostwright_system.files.places import OpenFile
from hostwright_system.files.roots import Roots

OUTPUT_BYTES = 256 * 1024
IMAGE_BYTES = 3_750_000  # 5 MB as base64, what clients and models take
HASH_BYTES = 64 * 1024 * 1024
SCAN_BYTES = 1024 * 1024 * 1024
_CHUNK = 1024 * 1024
_BINARY_OUTPUT = OUTPUT_BYTES // 4 * 3  # base64 makes four bytes of three


def file_read(
    roots: Roots,
    path: str,
    *,
    offset: int = 0,
    limit: int | None = None,
    unit: Literal["line", "byte"] = "line",
    encoding: str = "auto",
) -> FileContent:
    """Read `limit` lines or bytes from `offset` (both from 0), at most 256 KiB.

    `encoding`: auto, base64 (raw bytes), or a codec. An image read with auto from its beginning is
    returned whole. Binary content counts in bytes.
    """
    if offset < 0 or (limit is not None and limit < 1):
        raise HostError(
            f"offset={offset}, limit={limit}: nothing can be read there.",
            fix="offset is 0 or more, limit 1 or more.",
            code="bad_range",
        )
    with roots.file(path) as file, refusing(path, "read"):
        head = os.pread(file.fd, SAMPLE_BYTES, 0)
        mime = image_type(head)
        if encoding == "auto" and mime and not offset and file.info.st_size <= IMAGE_BYTES:
            return _image(file, mime)
        if encoding == "base64":
            known = None
        elif encoding == "auto":
            known = None if mime else detect(head, complete=len(head) < SAMPLE_BYTES)
        else:
            known = named(encoding, head)
        if known is None:
            if unit == "line" and offset:
                raise HostError(
                    f"{shown(path)} is binary; it has no lines.",
                    fix="Use unit='byte', or name the encoding if it is text.",
                    code="not_text",
                )
            return _bytes(file, offset, limit if unit == "byte" else None, None, mime)
        if unit == "byte":
            return _bytes(file, offset, limit, known, mime)
        return _lines(file, offset, limit, known)


def hash_of(fd: int) -> str:
    """SHA-256 of all that `fd` has, whatever its position."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(fd, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def read_whole(fd: int, limit: int) -> bytes:
    """All bytes of `fd`, at most `limit` + 1 of them (so that the caller sees the excess)."""
    data = bytearray()
    while len(data) <= limit and (chunk := os.pread(fd, min(_CHUNK, limit + 1), len(data))):
        data += chunk
    return bytes(data)


class _Facts(TypedDict):
    path: str
    size_bytes: int
    modified_at: datetime
    mode: str


@dataclass
class _LineWindow:
    """Picks whole lines out of chunks; a first line that is too long is cut."""

    first: int
    count: int
    newline: bytes
    width: int
    data: bytearray = field(default_factory=bytearray)
    passed: int = 0
    taken: int = 0
    start: int | None = None
    line_start: int = 0
    cut: bool = False
    done: bool = False

    def feed(self, chunk: bytes, at: int) -> None:
        """`chunk` begins at byte `at` of the text and is aligned to the code unit."""
        position = 0
        if self.start is None:
            inside = count_units(chunk, self.newline, self.width)
            if self.passed + inside < self.first:
                self.passed += inside
                return
            while self.passed < self.first:
                position = self._after_newline(chunk, position)
                self.passed += 1
            self.start = at + position
        while not self.done and position < len(chunk):
            position = self._take(chunk, position)

    def _take(self, chunk: bytes, position: int) -> int:
        end = self._after_newline(chunk, position)
        stop = len(chunk) if end < 0 else end
        room = OUTPUT_BYTES - len(self.data)
        if stop - position > room:
            self.done = True
            if self.taken:
                del self.data[self.line_start :]  # a whole line that does not fit is left for later
            else:
                self.data += chunk[position : position + room]
                self.taken, self.cut = 1, True
            return len(chunk)
        self.data += chunk[position:stop]
        if end >= 0:
            self.taken += 1
            self.line_start = len(self.data)
            self.done = self.taken == self.count
        return stop

    def finish(self) -> None:
        """The file ended: what is left is a last line without a newline."""
        if not self.done and len(self.data) > self.line_start:
            self.taken += 1

    def _after_newline(self, chunk: bytes, position: int) -> int:
        while (found := chunk.find(self.newline, position)) >= 0:
            if found % self.width == 0:
                return found + self.width
            position = found + 1
        return -1


def count_units(chunk: bytes, newline: bytes, width: int) -> int:
    """How many newlines `chunk` has at multiples of `width`."""
    if width == 1:
        return chunk.count(newline)
    found, total = chunk.find(newline), 0
    while found >= 0:
        total += found % width == 0
        found = chunk.find(newline, found + 1)
    return total


def _lines(file: OpenFile, first: int, limit: int | None, known: Encoding) -> FileContent:
    whole = file.info.st_size <= HASH_BYTES
    window = _LineWindow(first, limit or OUTPUT_BYTES, known.newline, known.width)
    digest = hashlib.sha256(known.bom)
    at, newlines, last = len(known.bom), 0, b""
    while chunk := os.pread(file.fd, _CHUNK, at):
        if whole:
            digest.update(chunk)
        newlines += count_units(chunk, known.newline, known.width)
        window.feed(chunk, at)
        at, last = at + len(chunk), chunk[-known.width :]
        if window.done and not whole:
            break
        if at > max(SCAN_BYTES, HASH_BYTES):
            raise HostError(
                f"Line {first} of {shown(file.path)} lies beyond the first {SCAN_BYTES} bytes.",
                fix="Use unit='byte' with a byte offset.",
                code="too_large",
            )
    ended = not chunk
    window.finish()
    total = newlines + (last not in (b"", known.newline)) if ended else None
    if total is not None and first > total:
        raise HostError(
            f"offset={first}, but {shown(file.path)} has {total} lines.",
            fix=f"Use an offset from 0 to {max(total - 1, 0)}.",
            code="bad_range",
        )
    text, pending, replaced = decode(bytes(window.data), known.codec, final=not window.cut)
    start = window.start if window.start is not None else at
    next_byte = start + len(window.data) - pending
    more = next_byte < at or not ended
    return FileContent(
        **_facts(file, max(at, file.info.st_size)),
        kind="text",
        mime_type="text/plain",
        encoding=known.codec,
        has_bom=bool(known.bom),
        text=text,
        base64=None,
        unit="line",
        offset=first,
        returned=window.taken,
        next_offset=(
            first + window.taken
            if more and (total is None or first + window.taken < total)
            else None
        ),
        next_byte_offset=next_byte if more else None,
        line_cut=window.cut,
        replaced_characters=replaced,
        total_lines=total,
        sha256=digest.hexdigest() if whole and ended else None,
    )


def _bytes(
    file: OpenFile, offset: int, limit: int | None, known: Encoding | None, mime: str | None
) -> FileContent:
    bound = OUTPUT_BYTES if known else _BINARY_OUTPUT
    if known and offset < len(known.bom):
        offset = len(known.bom)
    wanted = min(limit or bound, bound)
    data, digest, size = _slice_and_hash(file, offset, wanted)
    if offset > size:
        raise HostError(
            f"offset={offset}, but {shown(file.path)} has {size} bytes.",
            fix=f"Use an offset from 0 to {max(size - 1, 0)}.",
            code="bad_range",
        )
    text, pending, replaced = None, 0, 0
    if known:
        at_end = offset + len(data) >= size
        text, pending, replaced = decode(data, known.codec, final=at_end)
        if pending == len(data):  # less than one character was asked for: no progress otherwise
            text, pending, replaced = decode(data, known.codec, final=True)
    after = offset + len(data) - pending
    more = after < size
    return FileContent(
        **_facts(file, size),
        kind="text" if known else "binary",
        mime_type="text/plain" if known else mime or "application/octet-stream",
        encoding=known.codec if known else None,
        has_bom=bool(known and known.bom),
        text=text,
        base64=None if known else base64.b64encode(data).decode(),
        unit="byte",
        offset=offset,
        returned=after - offset,
        next_offset=after if more else None,
        next_byte_offset=after if more else None,
        line_cut=False,
        replaced_characters=replaced,
        total_lines=None,
        sha256=digest,
    )


def _slice_and_hash(file: OpenFile, offset: int, wanted: int) -> tuple[bytes, str | None, int]:
    if file.info.st_size > HASH_BYTES:
        data = bytearray()
        while len(data) < wanted and (
            chunk := os.pread(file.fd, wanted - len(data), offset + len(data))
        ):
            data += chunk
        return bytes(data), None, file.info.st_size
    digest, data, at = hashlib.sha256(), bytearray(), 0
    while at <= 2 * HASH_BYTES and (chunk := os.pread(file.fd, _CHUNK, at)):
        digest.update(chunk)
        low, high = max(offset - at, 0), offset + wanted - at
        if high > 0:
            data += chunk[low:high]
        at += len(chunk)
    return bytes(data), digest.hexdigest(), at


def _image(file: OpenFile, mime: str) -> FileContent:
    data = read_whole(file.fd, IMAGE_BYTES)
    return FileContent(
        **_facts(file, len(data)),
        kind="image",
        mime_type=mime,
        encoding=None,
        has_bom=False,
        text=None,
        base64=base64.b64encode(data).decode(),
        unit="byte",
        offset=0,
        returned=len(data),
        next_offset=None,
        next_byte_offset=None,
        line_cut=False,
        replaced_characters=0,
        total_lines=None,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _facts(file: OpenFile, size: int) -> _Facts:
    return {
        "path": shown(file.path),
        "size_bytes": size,
        "modified_at": datetime.fromtimestamp(file.info.st_mtime, UTC),
        "mode": f"{file.info.st_mode & 0o7777:04o}",
    }
