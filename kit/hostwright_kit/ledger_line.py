"""Handing entries to the process that writes the ledger for all of this user's processes.

Where many processes append to one file, each waits for the file's lock and for its own fsync. So
the daemon takes their entries over a unix socket and writes what has come from all of them in one
transaction. It is a shortcut and nothing else: whoever finds no daemon writes by itself, and who
loses it with entries on their way looks into the file which of them are there.

The protocol: frames of a magic number, a length and MessagePack. The client says which file it
means; then it sends a list of drafts and gets the list of their numbers and hashes, or why they
were refused. One list at a time: what comes up meanwhile is the next one. The writer takes what
has come from everybody while it wrote, and writes it in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from hostwright_kit.ledger_file import Draft, Receipt

SOCKET_FILE = "ledger.sock"
MAGIC = b"HWL1"
HEAD = struct.Struct(">4sI")
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 256
RECEIVE_BYTES = 1 << 16
# Longer than the file's lock is waited for.
ANSWER_SECONDS = 20
TIMEVAL = struct.Struct("@ll")
CONNECT_SECONDS = 2.0
RETRY_SECONDS = 1.0

Done: TypeAlias = "Callable[[Sequence[Receipt] | None, str | None], None]"
Take: TypeAlias = "Callable[[Sequence[tuple[Sequence[Draft], Done]]], None]"


class _File(msgspec.Struct, array_like=True, frozen=True):
    """Which file is meant. A path alone would not tell after it was replaced."""

    device: int
    inode: int


class _Written(msgspec.Struct, array_like=True, frozen=True):
    """Where an entry stands."""

    seq: int
    hash: str


class _Answer(msgspec.Struct, array_like=True, frozen=True):
    written: list[_Written] = []
    refused: str | None = None


_drafts = msgspec.msgpack.Decoder(list[Draft])
_file = msgspec.msgpack.Decoder(_File)
_answer = msgspec.msgpack.Decoder(_Answer)
_encode = msgspec.msgpack.Encoder().encode


class LineLostError(Exception):
    """The writer went away with entries that it has not acknowledged."""


class RefusedError(Exception):
    """The writer could not write; nothing of it is on disk."""


class LedgerLine:
    """One process's connection to the writer. For one thread."""

    def __init__(self, address: Path, ledger: Path) -> None:
        self._address = address
        self._ledger = ledger
        self._connection: socket.socket | None = None
        self._not_before = 0.0

    def append(self, drafts: Sequence[Draft]) -> list[Receipt] | None:
        """Have them written, durably, all or none; None when there is no writer."""
        connection = self._connected()
        if connection is None:
            return None
        try:
            answer = _asked(connection, _encode(drafts))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self.close()
            raise LineLostError(str(error)) from error
        if answer.refused is not None:
            raise RefusedError(answer.refused)
        return [
            Receipt(one.seq, draft.id, draft.time, one.hash)
            for draft, one in zip(drafts, answer.written, strict=True)
        ]

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> socket.socket | None:
        if self._connection is not None or time.monotonic() < self._not_before:
            return self._connection
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(self._address))
            # The system's own time-outs: Python's would look before each send and receive.
            connection.settimeout(None)
            for which in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, which, TIMEVAL.pack(ANSWER_SECONDS, 0))
            status = self._ledger.stat()
            answer = _asked(connection, _encode(_File(status.st_dev, status.st_ino)))
        except (OSError, ValueError, msgspec.MsgspecError):
            answer = _Answer(refused="no writer")
        if answer.refused is not None:
            connection.close()
            self._not_before = time.monotonic() + RETRY_SECONDS
            return None
        self._connection = connection
        return connection


def _asked(connection: socket.socket, body: bytes) -> _Answer:
    connection.sendall(_framed(body))
    got = _received(connection, b"", HEAD.size)
    magic, length = HEAD.unpack_from(got)
    if magic != MAGIC or length > MAX_FRAME_BYTES:
        raise ValueError("not an answer of the ledger's writer")
    return _answer.decode(_received(connection, got, HEAD.size + length)[HEAD.size :])


def _received(connection: socket.socket, got: bytes, size: int) -> bytes:
    """So many bytes, with those that are here already; most often all of them come at once."""
    while len(got) < size:
        data = connection.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the ledger's writer hung up")
        got += data
    return got


def _framed(body: bytes) -> bytes:
    return HEAD.pack(MAGIC, len(body)) + body


class _Client:
    """Whoever is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.known = False

    def frames(self) -> list[bytes]:
        """What has arrived whole; ValueError when it is no frame."""
        found: list[bytes] = []
        while len(self.received) >= HEAD.size:
            magic, length = HEAD.unpack_from(self.received)
            if magic != MAGIC or length > MAX_FRAME_BYTES:
                raise ValueError("not a frame")
            end = HEAD.size + length
            if len(self.received) < end:
                break
            found.append(bytes(self.received[HEAD.size : end]))
            del self.received[:end]
        return found

    def answer(self, answer: _Answer) -> None:
        """Never waits: a client that does not read what it asked for is hung up on."""
        data = _framed(_encode(answer))
        with contextlib.suppress(OSError):
            if self.connection.send(data) != len(data):
                self.connection.shutdown(socket.SHUT_RDWR)


class LedgerSocket:
    """Takes the entries of other processes. One thread, until `close`."""

    def __init__(self, listener: socket.socket, ledger: Path, take: Take) -> None:
        """`take` writes lists of drafts and tells what came of each."""
        self._listener = listener
        self._ledger = ledger
        self._take = take
        self._taken: list[tuple[Sequence[Draft], Done]] = []
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, name="ledger socket", daemon=True)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Hang up on everybody; they write by themselves from now on."""
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        clients: dict[socket.socket, _Client] = {}
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self._listener:
                        self._admit(clients)
                    else:
                        client = clients[key.fileobj]  # type: ignore[index]
                        if not self._receive(client):
                            self._drop(clients, client)
                if self._taken:
                    taken, self._taken = self._taken, []
                    self._take(taken)
        finally:
            for client in list(clients.values()):
                self._drop(clients, client)
            self._selector.close()
            self._woken.close()

    def _admit(self, clients: dict[socket.socket, _Client]) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it went away while it waited
        if len(clients) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        clients[connection] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, clients: dict[socket.socket, _Client], client: _Client) -> None:
        self._selector.unregister(client.connection)
        del clients[client.connection]
        client.connection.close()

    def _receive(self, client: _Client) -> bool:
        """Take what has come; False when that was the end of it."""
        try:
            data = client.connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        client.received += data
        try:
            for frame in client.frames():
                self._frame(client, frame)
        except (OSError, ValueError, msgspec.MsgspecError):
            return False
        return bool(data)

    def _frame(self, client: _Client, frame: bytes) -> None:
        if not client.known:
            status = os.stat(self._ledger)  # noqa: PTH116
            client.known = _file.decode(frame) == _File(status.st_dev, status.st_ino)
            client.answer(_Answer(refused=None if client.known else "another ledger"))
            return

        def done(receipts: Sequence[Receipt] | None, refused: str | None) -> None:
            if receipts is None:
                client.answer(_Answer(refused=refused or "the ledger cannot be written"))
            else:
                client.answer(_Answer([_Written(one.seq, one.hash) for one in receipts]))

        self._taken.append((_drafts.decode(frame), done))
