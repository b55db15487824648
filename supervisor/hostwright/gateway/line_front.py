"""Clients that speak lines: over the two pipes that `hostwright connect` hands in, or one socket.

The first request decides the era. One exception: a client may ask `server/discover`, find the
answer too slow, and open with `initialize` on the same pipe; so a discovery decides nothing.

A client that does not read its answers is not read from either, and loses its connection when too
much waits for it: it costs the others nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin
from hostwright.gateway.codec import ABSENT, BadMessageError, Message, RpcError
from hostwright.gateway.edge import Edge
from hostwright.gateway.envelope import is_enveloped, params_of, unsupported
from hostwright.gateway.lines import Lines, TooLong
from hostwright.gateway.request import Request
from hostwright.gateway.session import MAX_OPEN_REQUESTS, Session, open_session
from hostwright.gateway.view import View
from hostwright_kit.vouching import MAX_MESSAGE_BYTES

MAX_UNREAD_BYTES = 4 * MAX_MESSAGE_BYTES
FINISH_SECONDS = 2.0
"""How long answers may still come after the client closed its side."""


class LineClient(asyncio.Protocol):
    """One client on a connection of its own."""

    def __init__(self, edge: Edge, view: View, origin: Origin, ended: Callable[[], None]) -> None:
        self._edge = edge
        self._view = view
        self._origin = origin
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._lines = Lines(MAX_MESSAGE_BYTES)
        self._read: asyncio.ReadTransport | None = None
        self._write: asyncio.WriteTransport | None = None
        self._out: list[bytes] = []
        self._paused = False
        self._leaving = False
        self._closed = False
        self._modern = False
        self._session: Session | None = None
        self._requests: dict[str | int | None, Request] = {}

    # -- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket: both ways in one. Of two pipes, the one to read from."""
        self._read = cast("asyncio.ReadTransport", transport)
        if self._write is None:
            self._write = cast("asyncio.WriteTransport", transport)

    def writing(self) -> asyncio.BaseProtocol:
        """The protocol of a second pipe, to write to. Made before the first one is read."""
        return _Writing(self)

    def write_to(self, transport: asyncio.WriteTransport) -> None:
        """Answers go here."""
        self._write = transport

    def data_received(self, data: bytes) -> None:
        """Requests, in whole lines or parts of them."""
        for line in self._lines.feed(data):
            self._take(line)

    def eof_received(self) -> bool:
        """The client closed its side; answers to what it asked still go out."""
        self._input_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, or the pipe to read from."""
        if self._read is self._write:
            self.close()
        else:
            self._input_ended()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._paused = True
        if self._read is not None and not self._read.is_closing():
            self._read.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        if self._read is not None and not self._read.is_closing():
            self._read.resume_reading()

    def _input_ended(self) -> None:
        if self._leaving or self._closed:
            return
        if (rest := self._lines.end()) is not None:
            self._take(rest)
        self._leaving = True
        if self._running():
            self._loop.call_later(FINISH_SECONDS, self.close)
        else:
            self.close()

    def _running(self) -> bool:
        return bool(self._requests or (self._session is not None and self._session.requests))

    def close(self) -> None:
        """End the client's session, whatever runs for it."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._requests.values()):
            request.cancel()
        self._requests.clear()
        if self._session is not None:
            self._edge.close(self._session)
        self._flush()
        for transport in {self._read, self._write} - {None}:
            cast("asyncio.Transport", transport).close()
        if self._write is not None and self._write.get_write_buffer_size():
            self._loop.call_later(FINISH_SECONDS, self._write.abort)
        self._ended()

    # -- messages --------------------------------------------------------------------------------

    def _take(self, line: bytes | TooLong) -> None:
        if isinstance(line, TooLong):
            text = f"A message is longer than {MAX_MESSAGE_BYTES} bytes"
            self._send(codec.failure(codec.NULL, RpcError(codec.INVALID_REQUEST, text)))
            return
        try:
            message = codec.parse(line)
        except BadMessageError as error:
            self._send(codec.failure(error.request_id, error))
            return
        if message.method is ABSENT:
            if self._session is not None:
                self._session.answered(message)
        elif message.id is ABSENT:
            self._notified(message)
        else:
            try:
                self._asked(message)
            except RpcError as error:
                self._send(codec.failure(bytes(message.id), error))

    def _notified(self, message: Message) -> None:
        method = codec.text(message.method)
        if method == "notifications/cancelled":
            if self._session is not None:
                self._session.cancel(message.params)
            key = codec.request_id(params_of(message).get("requestId", ABSENT))
            if (request := self._requests.pop(key, None)) is not None:
                request.cancel()
        elif method == "notifications/initialized" and self._session is not None:
            self._edge.open(self._session)

    def _asked(self, message: Message) -> None:
        method = codec.text(message.method)
        if method == "initialize":
            self._initialize(message)
        elif self._session is not None:
            self._edge.serve_legacy(message, self, self._session)
        elif self._modern or is_enveloped(message):
            self._modern = self._modern or method != "server/discover"
            self._edge.serve_modern(message, self, self._view, self._origin, begin=self._begin)
        elif method == "ping":
            self._send(codec.answer(bytes(message.id), b"{}"))
        else:
            raise self._edge.before_initialize(method or "")

    def _initialize(self, message: Message) -> None:
        params = params_of(message)
        if self._modern:
            raise unsupported(codec.text(params.get("protocolVersion")) or "")
        session = open_session(self._view, self._origin, params, self._say)
        if self._session is not None:
            self._edge.close(self._session)
        self._session = session
        self._send(codec.answer(bytes(message.id), self._view.initialize[session.version]))

    def _begin(self, request: Request) -> bool:
        if len(self._requests) >= MAX_OPEN_REQUESTS:
            text = f"{MAX_OPEN_REQUESTS} requests run already."
            request.fail(RpcError(codec.INTERNAL_ERROR, text))
            return False
        self._requests[request.key] = request
        return True

    # -- answers ---------------------------------------------------------------------------------

    @property
    def carrier(self) -> Mapping[str, str]:
        """Nothing comes beside a line."""
        return {}

    def respond(self, request: Request, line: bytes, code: int | None) -> None:
        """The answer to a request."""
        del code
        if self._requests.get(request.key) is request:
            del self._requests[request.key]
        self._send(line)
        if self._leaving and not self._running():
            self.close()

    def tell(self, request: Request, line: bytes) -> None:
        """A message that belongs to a request."""
        del request
        self._send(line)

    def report(self, request: Request, line: bytes) -> None:
        """Progress; dropped while the client does not read."""
        del request
        if not self._paused:
            self._send(line)

    def ask(self, request: Request, line: bytes) -> None:
        """A question to the client."""
        del request
        self._send(line)

    def _say(self, line: bytes) -> None:
        self._send(line)

    def _send(self, line: bytes) -> None:
        # What is said within one turn of the loop leaves in one piece.
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += (line, b"\n")

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        write: Any = self._write
        if not data or write is None or write.is_closing():
            return
        write.write(data)
        if write.get_write_buffer_size() > MAX_UNREAD_BYTES:
            write.abort()
            self.close()


class _Writing(asyncio.BaseProtocol):
    """The pipe that answers go to, where it is not the one that requests come from."""

    def __init__(self, client: LineClient) -> None:
        self._client = client

    def pause_writing(self) -> None:
        """The client does not read."""
        self._client.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._client.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client closed its end: nobody will read an answer."""
        self._client.close()
