"""What must outlive the daemon of one client whose lines it serves: a small file per client.

The client's pipes outlive a killed daemon (`hostwright connect` keeps them open), and so does what
stands here: which session it was, which requests were not answered yet, what was read of a line
whose end had not come, and whether an answer may have left by half. The next daemon goes on from
there. No disk is waited for: pipes do not outlive a loss of power either.

    0       magic, 8 bytes; which head and which rest hold; whether an answer may be out by half;
            the length of the rest
    64      two heads of 64 KiB: length, JSON. What does not hold is written, then they swap
    256 KiB one page per open request: time, length, whether it is whole, the line
    8 MiB   the rest (bytes that were read and are not worked on yet); 32 MiB the other one

A write within one page is not torn by a signal, so a slot is there or it is not. What is done with
is overwritten: arguments may hold secrets, and the file, 0600, goes with its client.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import secrets
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.codec import ABSENT, Message

FOLDER = "lines"
MAGIC = b"hwlines1"
HEAD_AT, HEAD_BYTES = 64, 65_536
SLOT_AT, SLOT_BYTES = 262_144, 4_096
REST_AT = (8 * 1_048_576, 32 * 1_048_576)
MAX_REST_BYTES = REST_AT[1] - REST_AT[0]
BIG_REST_BYTES = 65_536
STATE = struct.Struct("=BBBxI")
SLOT = struct.Struct("=dIB")
LENGTH = struct.Struct("=I")
NOTHING = bytes(SLOT_BYTES)


class Head(msgspec.Struct, forbid_unknown_fields=True):
    """Which client it is."""

    connect: str
    uid: int
    query: str = ""
    modern: bool = False
    initialize: Raw = Raw(codec.NULL)
    """The params of its `initialize`, if it is of the handshake era."""
    initialized: bool = False
    subscribed: tuple[str, ...] = ()


class Asked(NamedTuple):
    """A request that was not answered."""

    since: float
    line: bytes
    whole: bool
    """Otherwise it was too long to be kept: only its id, method and name are there."""


class Left(NamedTuple):
    """What a daemon that is gone has left."""

    head: Head
    asked: list[Asked]
    rest: bytes
    half_out: bool


class Journal:
    """One client's file. Failing to write it costs the client nothing but its resumption."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.name = path.name
        self._handle: int | None = handle
        self._head = self._area = self._half = self._length = 0
        self._was_big = False
        self._slots: dict[str | int | None, int] = {}
        self._free: list[int] = []
        self._next = 0

    @classmethod
    def create(cls, folder: Path, head: Head) -> Journal:
        """For a client that has just come. Raises `OSError`."""
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / secrets.token_hex(16)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        journal = cls(path, handle)
        journal._write(0, MAGIC)
        journal.save(head)
        if not journal.usable:
            raise OSError("the journal cannot be written")
        return journal

    @classmethod
    def open(cls, folder: Path, name: str) -> tuple[Journal, Left] | None:
        """What an earlier daemon left under this name; None when there is nothing to go on with."""
        if not name.isalnum():
            return None
        path = folder / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        journal = cls(path, handle)
        try:
            left = journal._read()
        except (ValueError, struct.error, OSError, codec.RpcError):
            journal.remove()
            return None
        return journal, left

    @property
    def usable(self) -> bool:
        """Whether the client can be resumed."""
        return self._handle is not None

    # -- writing ---------------------------------------------------------------------------------

    def save(self, head: Head) -> None:
        """What is known of the client changed."""
        data = msgspec.json.encode(head)
        if len(data) > HEAD_BYTES - LENGTH.size:
            self.remove()
            return
        other = 1 - self._head
        self._write(HEAD_AT + other * HEAD_BYTES, LENGTH.pack(len(data)) + data)
        self._head = other
        self._state()

    def asked(self, message: Message, line: bytes) -> None:
        """A request came."""
        key = codec.request_id(message.id)
        whole = len(line) <= SLOT_BYTES - SLOT.size
        kept = line if whole else _outline(message)
        slot = self._slots.get(key)
        if slot is None:
            slot = heapq.heappop(self._free) if self._free else self._next
            self._next = max(self._next, slot + 1)
            self._slots[key] = slot
        self._write(_at(slot), SLOT.pack(time.time(), len(kept), whole) + kept)

    def answered(self, keys: Iterable[str | int | None]) -> None:
        """These need no answer any longer."""
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._write(_at(slot), NOTHING)
                heapq.heappush(self._free, slot)

    @property
    def resting(self) -> bool:
        """Whether something was read that is not worked on yet."""
        return self._length > 0

    def read(self, more: bytes) -> None:
        """These bytes were read as well, and are not worked on yet."""
        if self._length + len(more) > MAX_REST_BYTES:
            self.remove()
            return
        self._write(REST_AT[self._area] + self._length, more)
        self._length += len(more)
        self._was_big = self._was_big or self._length > BIG_REST_BYTES
        self._state()

    def rest(self, left: bytes) -> None:
        """Everything is worked on but this."""
        if not left and not self._length:
            return
        before, done = REST_AT[self._area], self._length
        self._area, self._length = 1 - self._area, len(left)
        if left:
            self._write(REST_AT[self._area], left)
        self._state()
        self._write(before, bytes(done))
        if self._was_big and self._area == 0:
            self._was_big = self._length > BIG_REST_BYTES
            self._cut(REST_AT[0] + self._length)

    def half_out(self, uncertain: bool) -> None:
        """Whether an answer may have left by half."""
        if self._half != uncertain:
            self._half = int(uncertain)
            self._state()

    def leave(self) -> None:
        """The next daemon takes over."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def remove(self) -> None:
        """There is nothing to resume any more."""
        if self._handle is not None:
            self.leave()
            self.path.unlink(missing_ok=True)

    def _state(self) -> None:
        self._write(len(MAGIC), STATE.pack(self._head, self._area, self._half, self._length))

    def _write(self, at: int, data: bytes) -> None:
        if self._handle is None:
            return
        try:
            os.pwrite(self._handle, data, at)
        except OSError:
            # No space, most likely. A file that is not true is worse than none.
            self.remove()

    def _cut(self, size: int) -> None:
        """Give back what a long line took."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, size)

    # -- reading ---------------------------------------------------------------------------------

    def _read(self) -> Left:
        handle = self._handle
        if handle is None or os.pread(handle, len(MAGIC), 0) != MAGIC:
            raise ValueError("no journal")
        state = STATE.unpack(os.pread(handle, STATE.size, len(MAGIC)))
        self._head, self._area, self._half, self._length = state
        head_at = HEAD_AT + self._head * HEAD_BYTES
        (size,) = LENGTH.unpack(os.pread(handle, LENGTH.size, head_at))
        head = msgspec.json.decode(os.pread(handle, size, head_at + LENGTH.size), type=Head)
        rest = os.pread(handle, self._length, REST_AT[self._area])
        if len(rest) != self._length:
            raise ValueError("the rest is not there")
        return Left(head, self._read_slots(handle), rest, bool(self._half))

    def _read_slots(self, handle: int) -> list[Asked]:
        """The oldest first."""
        found: list[Asked] = []
        end = min(os.fstat(handle).st_size, REST_AT[0])
        for slot in range(max(0, -(-(end - SLOT_AT) // SLOT_BYTES))):
            data = os.pread(handle, SLOT_BYTES, _at(slot)).ljust(SLOT.size, b"\0")
            since, length, whole = SLOT.unpack(data[: SLOT.size])
            self._next = slot + 1
            if length:
                line = data[SLOT.size : SLOT.size + length]
                self._slots[codec.request_id(codec.parse(line).id)] = slot
                found.append(Asked(since, line, bool(whole)))
            else:
                heapq.heappush(self._free, slot)
        return sorted(found)


def _at(slot: int) -> int:
    return SLOT_AT + slot * SLOT_BYTES


def _outline(message: Message) -> bytes:
    """Which request it is and whose, without what makes it long."""
    fields = codec.fields(message.params) if codec.first(message.params) == b"{" else {}
    params = {key: fields[key] for key in ("name", "_meta") if key in fields}
    kept = {"jsonrpc": "2.0", "id": message.id, "method": message.method}
    found = codec.encode({**kept, "params": params})
    if len(found) > SLOT_BYTES - SLOT.size:
        found = codec.encode(kept)
    # An id may be as long as its client likes; of that one nothing can be said.
    return found if len(found) <= SLOT_BYTES - SLOT.size else b""


def asks(line: bytes) -> str | int | None:
    """The id of a request; None for everything else."""
    try:
        message = codec.parse(line)
    except codec.BadMessageError:
        return None
    is_request = message.method is not ABSENT and message.id is not ABSENT
    return codec.request_id(message.id) if is_request else None
