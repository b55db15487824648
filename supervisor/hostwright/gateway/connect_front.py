"""`connect.sock`: clients whose stdin and stdout `hostwright connect` hands to the daemon.

The first line says which endpoint. With it may come two descriptors (SCM_RIGHTS, unix(7)): the
client's own pipes, which the daemon then serves itself, while the process that the client started
only waits for the end. Without descriptors the socket carries the messages.
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
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin
from hostwright.gateway.edge import Edge
from hostwright.gateway.line_front import LineClient
from hostwright.gateway.view import View, Views

logger = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
MAX_HELLO_BYTES = 65_536
MAX_FDS = 2


class Hello(msgspec.Struct, forbid_unknown_fields=True):
    """The first line."""

    connect: str
    """A server's name, or * for all of them."""
    query: str = ""


class ConnectSocket:
    """Accepts connections and serves them until it is left."""

    def __init__(self, edge: Edge, views: Views) -> None:
        self._edge = edge
        self._views = views
        self._loop = asyncio.get_running_loop()
        self._clients: set[LineClient] = set()
        self._greeting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self, listener: socket.socket) -> AsyncGenerator[None]:
        """Accept on `listener` until left; then end what is connected."""
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield
        finally:
            for task in (accepting, *self._greeting):
                task.cancel()
            await asyncio.gather(accepting, *self._greeting, return_exceptions=True)
            for client in list(self._clients):
                client.close()
            # Their last words leave in the next turn of the loop.
            await asyncio.sleep(0)

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
        await self._start(connection, view, Origin("stdio", uid), fds, rest)

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
        connection: socket.socket,
        view: View,
        origin: Origin,
        fds: list[int],
        rest: bytes,
    ) -> None:
        def ended() -> None:
            self._clients.discard(client)
            if fds_taken:
                # Without them the connection belongs to its transport, which ends it itself.
                with contextlib.suppress(OSError):
                    self._loop.remove_reader(connection)
                connection.close()

        fds_taken = bool(fds)
        client = LineClient(self._edge, view, origin, ended)
        self._clients.add(client)
        try:
            if not fds:
                connection.send(b'{"connected":true}\n')
                await self._loop.connect_accepted_socket(lambda: client, connection)
            else:
                await self._take_over(client, fds)
                connection.send(b'{"connected":true}\n')
                # It says nothing more; when it ends, so does the session.
                self._loop.add_reader(connection, client.close)
        except BaseException:
            client.close()
            raise
        if rest:
            client.data_received(rest)

    async def _take_over(self, client: LineClient, fds: list[int]) -> None:
        """Serve the client on its own descriptors."""
        for fd in fds:
            os.set_blocking(fd, False)
        if _same_socket(*fds):
            both = socket.socket(fileno=fds.pop(0))
            os.close(fds.pop())
            await self._loop.connect_accepted_socket(lambda: client, both)
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


def _refuse(connection: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        connection.send(codec.encode({"connected": False, "error": why}) + b"\n")
    connection.close()
