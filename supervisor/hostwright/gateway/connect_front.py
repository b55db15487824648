"""`connect.sock`: clients whose stdin and stdout `hostwright connect` hands to the daemon.

The first line says which endpoint. With it may come two descriptors (SCM_RIGHTS, unix(7)): the
client's own pipes, which the daemon then serves itself, while the process that the client started
only waits for the end. Without descriptors the socket carries the messages.

A session outlives a daemon that is killed: that process still has the pipes, sees that the socket
closed without a last word, and hands them to the next daemon under the name that it was given. A
daemon that is replaced hands them over itself (`hand_over`, `take_back`).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin
from hostwright.gateway.edge import Edge
from hostwright.gateway.journal import FOLDER, Head, Journal, Left
from hostwright.gateway.line_front import LineClient
from hostwright.gateway.view import View, Views

logger = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
MAX_HELLO_BYTES = 65_536
MAX_FDS = 2
FORGET_SECONDS = 900.0
"""How long what another daemon left waits for its client."""
LOOK_SECONDS = 0.005
BYE = b"bye\n"
"""The last word of a session that ended in order."""


class Hello(msgspec.Struct, forbid_unknown_fields=True):
    """The first line."""

    connect: str
    """A server's name, or * for all of them."""
    query: str = ""
    resume: str = ""
    """The name of a session that another daemon served."""


class HandedLine(msgspec.Struct):
    """One client on its way from one daemon to the next: descriptors, and its journal's name."""

    journal: str
    source: int
    sink: int | None
    """None: `source` is a socket for both ways."""
    control: int | None
    """The socket of the process that waits for the end, where there is one."""


class _Open:
    """What one client is served on."""

    def __init__(self, control: socket.socket | None, source: int, sink: int | None) -> None:
        self.control = control
        self.source = source
        self.sink = sink
        self.name = ""


class ConnectSocket:
    """Accepts connections and serves them until it is left."""

    def __init__(self, edge: Edge, views: Views, runtime_dir: Path) -> None:
        self._edge = edge
        self._views = views
        self._folder = runtime_dir / FOLDER
        self._loop = asyncio.get_running_loop()
        self._clients: dict[LineClient, _Open] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self, listener: socket.socket) -> AsyncGenerator[None]:
        """Accept on `listener` until left; then end what is connected."""
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listener))
        forgetting = self._loop.call_later(FORGET_SECONDS, self._forget, self._left_behind())
        try:
            yield
        finally:
            forgetting.cancel()
            for task in (self._accepting, *self._greeting):
                task.cancel()
            await asyncio.gather(self._accepting, *self._greeting, return_exceptions=True)
            for client in list(self._clients):
                client.close()
            # Their last words leave in the next turn of the loop.
            await asyncio.sleep(0)

    # -- from one daemon to the next -------------------------------------------------------------

    async def hand_over(self, deadline: float) -> list[HandedLine]:
        """Begin nothing new, let what runs end until `deadline` (of the loop's clock), then stop.

        The descriptors are copies: they stay open, and outlive an execve(2) if they may.
        """
        if self._accepting is not None:
            self._accepting.cancel()
        for client in self._clients:
            client.hold()
        while self._greeting or not all(client.quiet for client in self._clients):
            if self._loop.time() >= deadline:
                break
            await asyncio.sleep(LOOK_SECONDS)
        handed: list[HandedLine] = []
        for client, on in list(self._clients.items()):
            name = client.leave()
            if name is None:
                client.close()
                continue
            del self._clients[client]
            control = None if on.control is None else os.dup(on.control.fileno())
            sink = None if on.sink is None else os.dup(on.sink)
            handed.append(HandedLine(name, os.dup(on.source), sink, control))
        return handed

    async def take_back(self, handed: Sequence[HandedLine]) -> None:
        """Serve those on whom another daemon left off."""
        for one in handed:
            fds = [one.source] if one.sink is None else [one.source, one.sink]
            control = None if one.control is None else socket.socket(fileno=one.control)
            try:
                await self._resume(one.journal, control, fds, by=None)
            except (OSError, ValueError) as error:
                logger.warning("a client could not be taken over: %s", error)
                if control is not None:
                    control.close()
            finally:
                for fd in fds:
                    os.close(fd)

    async def _resume(
        self, name: str, control: socket.socket | None, fds: list[int], *, by: int | None
    ) -> None:
        """`by`: the uid of the process that asks for it; None where a daemon handed it over."""
        if any(on.name == name for on in self._clients.values()):
            raise ValueError("that session is being served")
        found = Journal.open(self._folder, name)
        if found is None:
            raise ValueError("that session is not known any more")
        journal, left = found
        head = left.head
        view = self._views.resolve(head.connect, None, head.query)
        if view is None or by not in (None, head.uid):
            journal.leave()
            raise ValueError(f"that session of {head.connect!r} cannot be gone on with")
        await self._start(control, view, fds, journal, head, left=left, greet=by is not None)

    def _left_behind(self) -> list[Path]:
        taken = {on.name for on in self._clients.values()}
        with contextlib.suppress(FileNotFoundError):
            return [one for one in self._folder.iterdir() if one.name not in taken]
        return []

    def _forget(self, left_behind: Sequence[Path]) -> None:
        """Nobody came for these."""
        taken = {on.name for on in self._clients.values()}
        for path in left_behind:
            if path.name not in taken:
                path.unlink(missing_ok=True)

    # -- one connection --------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, most likely; others will be given back.
                logger.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            task = asyncio.create_task(self._greet(connection))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        fds: list[int] = []
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await self._serve(connection, fds)
        except (ValueError, TimeoutError):
            _refuse(connection, "the first line is not a connect request")
        except OSError as error:
            logger.info("a client could not be connected: %s", error)
            _refuse(connection, f"the connection cannot be served ({error.strerror})")
        finally:
            # Whatever was not given to a transport.
            for fd in fds:
                os.close(fd)

    async def _serve(self, connection: socket.socket, fds: list[int]) -> None:
        uid = _peer_uid(connection)
        if uid not in (os.getuid(), 0):
            _refuse(connection, f"uid {uid} is not the owner of this gateway")
            return
        line, rest = await self._hello(connection, fds)
        hello = msgspec.json.decode(line, type=Hello)
        view = self._views.resolve(hello.connect, None, hello.query)
        if view is None:
            known = ", ".join(self._views.names())
            _refuse(connection, f"there is no server {hello.connect!r}; there are: {known}")
            return
        if fds and len(fds) != MAX_FDS:
            _refuse(connection, "stdin and stdout are two descriptors")
            return
        if hello.resume:
            try:
                await self._resume(hello.resume, connection, fds, by=uid)
            except ValueError as error:
                _refuse(connection, str(error))
            return
        head = Head(hello.connect, uid, hello.query)
        journal = self._journal(head)
        if fds:
            await self._start(connection, view, fds, journal, head)
            return
        connection.send(_welcome(None))
        await self._start(None, view, [connection.detach()], journal, head, data=rest)

    def _journal(self, head: Head) -> Journal | None:
        try:
            return Journal.create(self._folder, head)
        except OSError as error:
            logger.warning("a client cannot outlive this daemon: %s", error)
            return None

    async def _hello(self, connection: socket.socket, fds: list[int]) -> tuple[bytes, bytes]:
        """The first line, what came after it, and the descriptors that came along."""
        data = b""
        while b"\n" not in data:
            await _readable(connection)
            got, messages, _, _ = connection.recvmsg(
                MAX_HELLO_BYTES, socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
            )
            for level, kind, payload in messages:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds += _descriptors(payload)
            data += got
            if not got or len(data) > MAX_HELLO_BYTES:
                raise ValueError("no line")
        line, _, rest = data.partition(b"\n")
        return line, rest

    async def _start(
        self,
        control: socket.socket | None,
        view: View,
        fds: list[int],
        journal: Journal | None,
        head: Head,
        *,
        left: Left | None = None,
        greet: bool = True,
        data: bytes = b"",
    ) -> None:
        """Serve a client on its descriptors; `control` is where its process waits for the end."""

        def ended() -> None:
            self._clients.pop(client, None)
            if control is not None:
                self._loop.remove_reader(control)
                with contextlib.suppress(OSError):
                    control.send(BYE)
                control.close()

        origin = Origin("stdio", head.uid)
        client = LineClient(self._edge, view, origin, ended, journal, head, left)
        both = len(fds) == 1 or _same_socket(*fds)
        on = self._clients[client] = _Open(control, fds[0], None if both else fds[1])
        on.name = journal.name if journal is not None else ""
        try:
            await self._take_over(client, fds, both=both)
            if control is not None:
                control.setblocking(False)
                if greet:
                    control.send(_welcome(journal))
                # It says nothing more; when it ends, so does the session.
                self._loop.add_reader(control, client.close)
        except BaseException:
            client.close()
            raise
        if data:
            client.data_received(data)

    async def _take_over(self, client: LineClient, fds: list[int], *, both: bool) -> None:
        """Read and write on the client's own descriptors."""
        for fd in fds:
            os.set_blocking(fd, False)
        if both:
            stream = socket.socket(fileno=fds.pop(0))
            while fds:
                os.close(fds.pop())
            await self._loop.connect_accepted_socket(lambda: client, stream)
            return
        source, sink = os.fdopen(fds[0], "rb", buffering=0), os.fdopen(fds[1], "wb", buffering=0)
        fds.clear()
        try:
            transport, _ = await self._loop.connect_write_pipe(client.writing, sink)
            client.write_to(transport)
            await self._loop.connect_read_pipe(lambda: client, source)
        except BaseException:
            source.close()
            sink.close()
            raise


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _descriptors(payload: bytes) -> list[int]:
    found = array.array("i")
    found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    for fd in found:
        os.set_inheritable(fd, False)
    return list(found)


def _same_socket(one: int, other: int) -> bool:
    """Whether stdin and stdout are one socket, which only one transport may read."""
    first, second = os.fstat(one), os.fstat(other)
    same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return same and stat.S_ISSOCK(first.st_mode)


def _peer_uid(connection: Any) -> int:
    """The uid of the process at the other end, as the kernel says."""
    if sys.platform == "linux":
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("3i", packed)[1]
    # LOCAL_PEERCRED (macOS, BSD): struct xucred { version, uid, … }.
    return struct.unpack("2I", connection.getsockopt(0, 1, 8))[1]


def _welcome(journal: Journal | None) -> bytes:
    more = {} if journal is None else {"resume": journal.name}
    return codec.encode({"connected": True, **more}) + b"\n"


def _refuse(connection: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        connection.send(codec.encode({"connected": False, "error": why}) + b"\n")
    connection.close()
