"""One HTTP connection: requests are parsed (httptools) and answered in their order.

Who may come in is decided from the headers alone, before a body is kept. While the daemon is being
replaced, a connection is read from until the request that is arriving is whole, and no further: it
goes to the next daemon between two requests, as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote

import httptools

from hostwright.gateway.asgi import AsgiRun
from hostwright.gateway.http_exchange import Exchange
from hostwright.gateway.http_head import Head, Repeated
from hostwright.gateway.http_words import date_now, status_line
from hostwright_kit.vouching import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from hostwright.gateway.http_front import HttpFront

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65_536
MAX_PIPELINED = 16
IDLE_SECONDS = 75.0
MAX_UNREAD_BYTES = 4 * MAX_MESSAGE_BYTES
Headers = Sequence[tuple[bytes, bytes]]


class _RefusedError(Exception):
    """A bound of the connection's own was reached."""


class Running(Protocol):
    """The work on one request."""

    streaming: bool

    def disconnected(self) -> None:
        """The client is gone."""
        ...

    def end(self) -> None:
        """The daemon ends: finish now."""
        ...

    def sweep(self, now: float) -> None:
        """Called every few seconds."""
        ...


class HttpConnection(asyncio.Protocol):
    """One connection of one client."""

    transport: asyncio.Transport
    hosts_address: str
    _head: Head

    def __init__(self, front: HttpFront) -> None:
        self.front = front
        self.client: tuple[str, int] | None = None
        self.paused = False
        self._parser: Any = httptools.HttpRequestParser(self)
        self._touched = time.monotonic()
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._url = b""
        self._reading = False
        self._current: Running | None = None
        self._waiting: deque[tuple[Head, bytes]] = deque()
        self._head_now: Head | None = None
        self._chunked = False
        self._closing = False
        self._writable: asyncio.Future[None] | None = None
        self._holding = False
        self._usual: Repeated | None = None
        self._alone: bytes | None = None
        """What is being parsed, if nothing of it is part of a request that began before."""

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on."""
        return self._current is not None

    # -- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("sockname")
        self.hosts_address = address[0] if isinstance(address, tuple) else ""
        peer = transport.get_extra_info("peername")
        self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) and peer else None
        self.front.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.front.connections.discard(self)
        self._closing = True
        self._waiting.clear()
        self.resume_writing()
        if self._current is not None:
            running, self._current = self._current, None
            running.disconnected()
        self.front.answered()

    def data_received(self, data: bytes) -> None:
        """Parts of requests."""
        self._touched = time.monotonic()
        if self._closing or (self._usual is not None and self._is_usual(self._usual, data)):
            return
        self._alone = None if self._reading else data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Not a protocol that is spoken here; the request itself was answered like any other.
            self._closing = True
        except httptools.HttpParserCallbackError as error:
            self._refuse_now(*self._why(error.__context__))
        except httptools.HttpParserError:
            self._refuse_now(400, "That is no HTTP request.")
        self._leave_unread()

    def _is_usual(self, usual: Repeated, data: bytes) -> bool:
        """Take a request whose head is the one of the request before; False when it has another."""
        if self._reading or self._holding or (body := usual.body(data)) is None:
            return False
        try:
            head = usual.head.again(self.front.access.origin)
            head.refusal = self.front.access.refusal(head, self.hosts_address)
            self._arrived(head, body)
        except Exception as error:  # noqa: BLE001 - as the parser catches what its callbacks raise
            self._refuse_now(*self._why(error))
        return True

    def _why(self, cause: BaseException | None) -> tuple[int, str]:
        """What stopped the parser: a bound, or a fault of ours."""
        if isinstance(cause, _RefusedError):
            return 431 if self._reading and not self._size else 413, str(cause)
        if isinstance(cause, httptools.HttpParserInvalidURLError):
            return 400, "The target of this request is no address."
        logger.error("a request over HTTP failed", exc_info=cause)
        self._current = None
        return 500, "The gateway failed on this request."

    def pause_writing(self) -> None:
        """The client does not read."""
        self.paused = True

    def resume_writing(self) -> None:
        """It reads again."""
        self.paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has read enough for more."""
        if self.paused and not self._closing:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def sweep(self, now: float) -> None:
        """End what nobody uses; let what runs show a sign of life."""
        if self._current is not None:
            self._current.sweep(now)
        elif now - self._touched > IDLE_SECONDS:
            self.transport.close()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def end(self, *, streams_only: bool) -> None:
        """The daemon ends."""
        if self._current is None:
            self.transport.close()
        elif not streams_only or self._current.streaming:
            self._current.end()
            if not streams_only:
                self.transport.close()

    def end_stream(self) -> None:
        """Close a stream of messages that would go on for ever."""
        if isinstance(self._current, Exchange) and self._current.streaming:
            self._current.end()

    def recheck(self) -> None:
        """Who may come in changed: a stream that was opened by somebody who may no longer ends."""
        running, head = self._current, self._head_now
        if running is None or head is None or not running.streaming:
            return
        if self.front.access.refusal(head, self.hosts_address) is not None:
            running.end()

    def hold(self) -> bool:
        """Take no further request; True once all is answered, and what comes can wait."""
        self._holding = True
        self._leave_unread()
        unsent = self.transport.get_write_buffer_size()
        return not (self._closing or self._reading or self.busy or self._waiting or unsent)

    def _leave_unread(self) -> None:
        """While held: what comes is the next daemon's, but a request that began comes in whole."""
        if not self._holding or self.transport.is_closing():
            return
        if self._reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def fileno(self) -> int:
        """Its descriptor."""
        return int(self.transport.get_extra_info("socket").fileno())

    # -- the parser's callbacks ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = Head(self.front.access.origin)
        self._body, self._size, self._url, self._head_size = [], 0, b"", 0
        self._reading = True

    def on_url(self, url: bytes) -> None:
        """Part of its target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count_head(len(name) + len(value))
        # Blanks around a value do not belong to it (RFC 9110, 5.5); httptools leaves those behind.
        key, value = name.lower(), value.strip(b" \t")
        self._head.headers.append((key, value))
        self._head.named[key.decode("latin-1")] = value.decode("latin-1")

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD_BYTES:
            raise _RefusedError("The headers of this request are too long.")

    def on_headers_complete(self) -> None:
        """Now is known who it is and what is wanted."""
        head, parser = self._head, self._parser
        head.method = parser.get_method().decode("ascii", "replace")
        head.keep_alive = parser.should_keep_alive()
        url = httptools.parse_url(self._url)
        head.aim(unquote((url.path or b"/").decode("latin-1")))
        head.query = url.query or b""
        self._chunked = parser.get_http_version() == "1.1"
        declared = head.named.get("content-length", "0")
        if not declared.isdigit() or int(declared) > MAX_MESSAGE_BYTES:
            head.refusal = _TOO_LARGE
        else:
            head.refusal = self.front.access.refusal(head, self.hosts_address)
        if head.named.get("expect", "").lower() == "100-continue":
            if head.refusal is not None:
                head.keep_alive = False
            elif self._current is None:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Part of its body; kept only if it will be used."""
        self._size += len(body)
        if self._size > MAX_MESSAGE_BYTES:
            self._head.refusal, self._body = _TOO_LARGE, []
            if self._size > 4 * MAX_MESSAGE_BYTES:
                raise _RefusedError("The body of this request does not end.")
        elif self._head.refusal is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """It is here as a whole."""
        self._reading = False
        head, body, alone = self._head, b"".join(self._body), self._alone
        self._body = []
        # An endpoint's clients ask again and again, others once.
        asks = alone is not None and head.endpoint is not None
        self._usual = Repeated.of(alone, head, self._size) if alone and asks else None
        self._arrived(head, body)

    def _arrived(self, head: Head, body: bytes) -> None:
        if self._current is None:
            self._start(head, body)
            return
        # Answers go out in the order of the requests.
        self._waiting.append((head, body))
        if len(self._waiting) >= MAX_PIPELINED:
            self.transport.pause_reading()

    # -- answering -------------------------------------------------------------------------------

    def _start(self, head: Head, body: bytes) -> None:
        self._head_now = head
        if self.front.ending:
            self.respond(503, (), b"The gateway is ending. Fix: connect again.\n")
        elif head.refusal is not None:
            self._refuse(*head.refusal)
        elif head.endpoint is not None:
            self._current = exchange = Exchange(self, head)
            exchange.run(body)
        else:
            self._current = run = AsgiRun(self, head, body)
            run.start(self.front.app)

    def _refuse(self, status: int, text: str) -> None:
        more: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 401:
            more.append((b"www-authenticate", b'Bearer realm="hostwright"'))
        if status == 404:
            more[0] = (b"content-type", b"application/json")
        self.respond(status, more, text.encode())

    def _refuse_now(self, status: int, text: str) -> None:
        """What cannot be answered in its turn."""
        if self._current is None:
            self._head_now = None
            self._refuse(status, text)
        self._closing = True
        self.transport.close()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        parts = [status_line(status), b"date: ", date_now(), b"\r\n"]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if status not in (202, 204) or body:
            parts.append(b"content-length: %d\r\n" % len(body))
        else:
            parts.append(b"content-length: 0\r\n" if status == 202 else b"")
        head = self._head_now
        if head is None or not head.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        if head is None or head.method != "HEAD":
            parts.append(body)
        self._send(b"".join(parts))
        self._next()

    def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer whose length is not known."""
        parts = [status_line(status), b"date: ", date_now(), b"\r\n"]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        elif self._head_now is not None:
            self._head_now.keep_alive = False
        if self._head_now is None or not self._head_now.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        self._send(b"".join(parts))

    def chunk(self, data: bytes) -> None:
        """A part of it."""
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """Its end."""
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self._next()

    def abort(self) -> None:
        """It broke off: the client must not take it for whole."""
        self._current = None
        self.transport.abort()

    def _send(self, data: bytes) -> None:
        self._touched = time.monotonic()
        if not self.transport.is_closing():
            self.transport.write(data)

    def _next(self) -> None:
        """The current request is answered; what waits is next."""
        head, self._current = self._head_now, None
        self.front.answered()
        if self._closing or head is None or not head.keep_alive:
            self._closing = True
            self.transport.close()
            return
        if self._waiting:
            if len(self._waiting) >= MAX_PIPELINED and not self._holding:
                self.transport.resume_reading()
            # Not from here: many that are answered at once would call each other without end.
            asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        if self._waiting and self._current is None and not self._closing:
            self._start(*self._waiting.popleft())


_TOO_LARGE = (413, f"A message may have {MAX_MESSAGE_BYTES} bytes")
