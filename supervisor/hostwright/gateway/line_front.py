"""Clients that speak lines: over the two pipes that `hostwright connect` hands in, or one socket.

The first request decides the era. One exception: a client may ask `server/discover`, find the
answer too slow, and open with `initialize` on the same pipe; so a discovery decides nothing.

A client that does not read its answers is not read from either, and loses its connection when too
much waits for it: it costs the others nothing.

What must outlive this process stands in the client's journal (`journal.py`): before a request is
worked on, until its answer is in the kernel's hands. The next daemon goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin
from hostwright.gateway.codec import ABSENT, BadMessageError, Message, RpcError
from hostwright.gateway.edge import Edge
from hostwright.gateway.envelope import is_enveloped, params_of, unsupported
from hostwright.gateway.journal import Asked, Head, Journal, Left, asks
from hostwright.gateway.line_notes import Notes
from hostwright.gateway.lines import Lines, TooLong
from hostwright.gateway.request import Interrupted, Request
from hostwright.gateway.session import (
    MAX_OPEN_REQUESTS,
    ROOTS_CHANGED,
    SUBSCRIBING,
    Session,
    open_session,
)
from hostwright.gateway.view import View
from hostwright_kit.vouching import MAX_MESSAGE_BYTES

MAX_UNREAD_BYTES = 4 * MAX_MESSAGE_BYTES
FINISH_SECONDS = 2.0  # for answers, after the client closed its side
MAX_HELD_BYTES = MAX_MESSAGE_BYTES


class LineClient(asyncio.Protocol):
    """One client on a connection of its own."""

    def __init__(
        self,
        edge: Edge,
        view: View,
        origin: Origin,
        ended: Callable[[], None],
        journal: Journal | None,
        head: Head,
        left: Left | None = None,
    ) -> None:
        """`left` is what another daemon left of this client; it is gone on with."""
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
        self._notes = Notes(journal, head, self._unsent)
        self._left = left
        self._interrupted: Interrupted | None = None
        self._held: list[bytes] | None = None
        """While the daemon is being replaced: what is left for the next one."""

    # -- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket: both ways in one. Of two pipes, the one to read from."""
        self._read = cast("asyncio.ReadTransport", transport)
        if self._write is None:
            self._write = cast("asyncio.WriteTransport", transport)
        if self._left is not None:
            left, self._left = self._left, None
            self._restore(left)

    def writing(self) -> asyncio.BaseProtocol:
        """The protocol of a second pipe, to write to. Made before the first one is read."""
        return _Writing(self)

    def write_to(self, transport: asyncio.WriteTransport) -> None:
        """Answers go here."""
        self._write = transport

    def data_received(self, data: bytes) -> None:
        """Requests, in whole lines or parts of them."""
        lines = self._lines.feed(data)
        self._notes.read(data, lines)
        for line in lines:
            self._take(line)
        if lines:
            self._notes.worked(self._unworked)

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
        self._edge.gone(self)
        self._flush()
        self._notes.end()
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
        elif self._held is not None:
            self._hold_back(self._held, line)
        else:
            self._notes.asked(message, line)
            self._work_on(message)

    def _work_on(self, message: Message) -> None:
        try:
            self._asked(message)
        except RpcError as error:
            self._answer(message.id, codec.failure(bytes(message.id), error))

    def _notified(self, message: Message) -> None:
        method = codec.text(message.method)
        if method == "notifications/cancelled":
            if self._session is not None:
                self._session.cancel(message.params)
            key = codec.request_id(params_of(message).get("requestId", ABSENT))
            if (request := self._requests.pop(key, None)) is not None:
                request.cancel()
            self._notes.forget(key)
        elif method == "notifications/initialized" and self._session is not None:
            self._edge.open(self._session)
            self._notes.save(initialized=True)
        elif method == ROOTS_CHANGED and self._session is not None:
            self._edge.roots_changed(self._session)

    def _asked(self, message: Message) -> None:
        method = codec.text(message.method)
        if method == "initialize":
            self._initialize(message)
        elif self._session is not None:
            self._edge.serve_legacy(message, self, self._session, interrupted=self._interrupted)
        elif self._modern or is_enveloped(message):
            if not self._modern and method != "server/discover":
                self._modern = True
                self._notes.save(modern=True)
            self._edge.serve_modern(
                message,
                self,
                self._view,
                self._origin,
                begin=self._begin,
                interrupted=self._interrupted,
                connection=self,
            )
        elif method == "ping":
            self._answer(message.id, codec.answer(bytes(message.id), b"{}"))
        else:
            raise self._edge.before_initialize(method or "")

    def _initialize(self, message: Message) -> None:
        params = params_of(message)
        if self._modern:
            raise unsupported(codec.text(params.get("protocolVersion")) or "")
        session = open_session(self._view, self._origin, params, self._send)
        if self._session is not None:
            self._edge.close(self._session)
        self._session = session
        self._notes.save(initialize=message.params, initialized=False, subscribed=())
        line = codec.answer(bytes(message.id), self._view.initialize[session.version])
        self._answer(message.id, line)

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
        if request.method in SUBSCRIBING and self._session is not None:
            self._notes.save(subscribed=tuple(sorted(self._session.subscribed)))
        self._answer(Raw(request.id), line)
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

    def _answer(self, request: Raw, line: bytes) -> None:
        self._notes.answered(codec.request_id(request))
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
        self._notes.writing(len(data))
        write.write(data)
        if write.get_write_buffer_size() > MAX_UNREAD_BYTES:
            write.abort()
            self.close()

    def _unsent(self) -> int:
        waiting = 0 if self._write is None else self._write.get_write_buffer_size()
        return waiting + len(self._out)

    # -- from one daemon to the next -------------------------------------------------------------

    def _restore(self, left: Left) -> None:
        """Go on where another daemon was; nothing was read yet.

        Requests that it did not answer are worked on again where that does no harm, and else get
        an answer that says what is known of them.
        """
        head = left.head
        self._modern = head.modern
        if codec.first(head.initialize) == b"{":
            params = codec.fields(head.initialize)
            session = self._session = open_session(self._view, self._origin, params, self._send)
            if head.initialized:
                self._edge.open(session)
            if head.subscribed:
                self._edge.watch_again(session, head.subscribed)
        if left.half_out:
            # Ends the half of a line that may be out; after a whole one it is a blank line.
            self._send(b"")
        known = {self._again(one) for one in left.asked}
        for line in self._lines.feed(left.rest):
            if isinstance(line, TooLong) or asks(line) not in known:
                self._take(line)
        self._notes.worked(self._unworked)

    def _again(self, asked: Asked) -> str | int | None:
        message = codec.parse(asked.line)
        self._interrupted = Interrupted(asked.since, asked.whole)
        try:
            if self._session is not None and codec.text(message.method) == "initialize":
                # Done, and perhaps more since; only the answer may not have come.
                line = self._view.initialize[self._session.version]
                self._answer(message.id, codec.answer(bytes(message.id), line))
            else:
                self._work_on(message)
        finally:
            self._interrupted = None
        return codec.request_id(message.id)

    def hold(self) -> None:
        """Begin no further request: the next daemon will. Those that run go on."""
        if self._held is None:
            self._held = []

    def _hold_back(self, held: list[bytes], line: bytes) -> None:
        held.append(line)
        if sum(map(len, held)) > MAX_HELD_BYTES and self._read is not None:
            self._read.pause_reading()

    @property
    def quiet(self) -> bool:
        """Whether nothing runs that ends by itself, and everything that was said has left."""
        running = [*self._requests.values()]
        if self._session is not None:
            running += self._session.requests.values()
        endless = all(one.method == "subscriptions/listen" for one in running)
        return endless and not self._unsent() and self._notes.settled

    def leave(self) -> str | None:
        """Stop here without ending the session; under which name the next daemon finds it.

        None: it cannot be gone on with. What still runs is cancelled, and stays unanswered.
        """
        gone = self._closed or self._leaving
        name = None if gone else self._notes.leave(self._unworked())
        if name is None:
            return None
        self._closed = True
        if self._read is not None and not self._read.is_closing():
            self._read.pause_reading()
        for request in list(self._requests.values()):
            request.cancel()
        if self._session is not None:
            self._edge.close(self._session)
        self._edge.gone(self)
        return name

    def _unworked(self) -> bytes:
        held = b"".join(line + b"\n" for line in self._held or ())
        return held + self._lines.rest


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
