"""One HTTP request of an MCP client: streamable HTTP in both eras.

An answer is plain JSON while that is all there is to say; the first message that comes before it
(progress, a question, a notice), or a silence of some seconds, makes it a stream of events. Which
era is spoken is told by `MCP-Protocol-Version`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from hostwright.gateway import codec, mirrored
from hostwright.gateway.asker import LEGACY, MODERN
from hostwright.gateway.asks import CONNECTION_CLOSED
from hostwright.gateway.codec import ABSENT, BadMessageError, Message, RpcError
from hostwright.gateway.envelope import (
    HEADER_MISMATCH,
    UNSUPPORTED_VERSION,
    params_of,
    unsupported,
)
from hostwright.gateway.http_sessions import HttpSession
from hostwright.gateway.request import Request
from hostwright.gateway.session import ROOTS_CHANGED, SUBSCRIBING, Session, open_session
from hostwright.gateway.view import View

if TYPE_CHECKING:
    from hostwright.gateway.http_connection import HttpConnection
    from hostwright.gateway.http_head import Head

PING_SECONDS = 15.0
REQUEST_CANCELLED = -32800
MISSING_CAPABILITY = -32021
SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
ROUTING_HEADERS = frozenset({VERSION_HEADER.encode(), b"mcp-method", b"mcp-name"})
JSON = (b"content-type", b"application/json")
EVENTS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
CUT_OFF = RpcError(
    CONNECTION_CLOSED,
    "The supervisor ends, and this request was cut off. Whether an act took effect: receipt_list "
    "says so, once it is there again.",
)
STATUS = {
    CONNECTION_CLOSED: 503,
    codec.PARSE_ERROR: 400,
    codec.INVALID_REQUEST: 400,
    codec.INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    codec.METHOD_NOT_FOUND: 404,
}
"""The status of an answer of the new era that is an error."""


class Exchange:
    """The work on one request."""

    def __init__(self, connection: HttpConnection, head: Head) -> None:
        self._connection = connection
        self._front = connection.front
        self._head = head
        self._request: Request | None = None
        self._held: HttpSession | None = None
        self._posted_to: HttpSession | None = None
        self._session_name = ""
        self._is_stream = False
        self._over = False
        self._said = time.monotonic()
        self.streaming = False

    def run(self, body: bytes) -> None:
        """Begin; everything that can be refused is refused here."""
        head = self._head
        view = self._front.view(head)
        if view is None:
            raise RuntimeError("an exchange without an endpoint")
        version = head.named.get(VERSION_HEADER)
        modern = version is not None and version not in LEGACY
        try:
            if head.method == "POST":
                self._post(body, view, modern=modern)
            elif modern or head.method not in ("GET", "DELETE"):
                allowed = b"POST" if modern else b"GET, POST, DELETE"
                self._refuse(405, "Method Not Allowed", (b"allow", allowed))
            elif head.method == "GET":
                self._get()
            else:
                self._delete()
        except BadMessageError as error:
            self._respond(error.request_id, error, STATUS.get(error.code, 400))

    # -- the new era -----------------------------------------------------------------------------

    def _post(self, body: bytes, view: View, *, modern: bool) -> None:
        json, events = _accepted(self._head.named.get("accept", ""))
        if not (json and events):
            text = "The client must accept both application/json and text/event-stream."
            self._refuse(406, text)
            return
        if not _is_json(self._head.named.get("content-type", "")):
            self._refuse(415, "Content-Type must be application/json.")
            return
        message = codec.parse(body)
        if modern:
            self._modern(message, view)
        else:
            self._legacy(message, view)

    def _modern(self, message: Message, view: View) -> None:
        named = self._head.named
        if message.method is ABSENT:
            raise BadMessageError(codec.INVALID_REQUEST, "Only requests and notifications come in.")
        if message.id is ABSENT:
            # No core notification of this era means anything over HTTP; a client cancels by
            # hanging up. Those that are sent all the same are taken and dropped.
            if named[VERSION_HEADER] != MODERN:
                self._respond(codec.NULL, unsupported(named[VERSION_HEADER]), 400)
            else:
                self._accept()
            return
        try:
            self._check_duplicates()
            self._request = self._front.edge.serve_modern(
                message, self, view, self._head.origin, headers=named, begin=self._begin
            )
        except RpcError as error:
            self._respond(bytes(message.id), error, STATUS.get(error.code, 200))

    def _begin(self, request: Request) -> bool:
        self._request = request
        if request.method == "tools/call":
            self._check_mirrored(request)
        return True

    def _check_mirrored(self, request: Request) -> None:
        name = codec.text(request.params.get("name"))
        wanted = request.view.mirrored(name) if name is not None else ()
        if wanted:
            arguments = codec.value(request.params.get("arguments", codec.ABSENT))
            mirrored.check(wanted, arguments, self._head.headers)

    def _check_duplicates(self) -> None:
        shown = [name for name, _ in self._head.headers if name in ROUTING_HEADERS]
        for name in shown:
            if shown.count(name) > 1:
                text = f"{name.decode()} header appears more than once"
                raise RpcError(HEADER_MISMATCH, text)

    # -- the handshake era -----------------------------------------------------------------------

    def _legacy(self, message: Message, view: View) -> None:
        if self._head.named.get(SESSION_HEADER) is None:
            if message.id is not ABSENT and codec.text(message.method) == "initialize":
                self._initialize(message, view)
            else:
                self._refuse(400, "Bad Request: Missing session ID")
            return
        held = self._find()
        if held is None:
            return
        session = held.session
        self._posted_to = held
        # As its token's rules are now.
        session.view = view
        if message.method is ABSENT:
            session.answered(message)
            self._accept()
        elif message.id is ABSENT:
            self._notified(message, session)
            self._accept()
        elif codec.text(message.method) == "initialize":
            error = RpcError(codec.INVALID_REQUEST, "This session is open already.")
            self._respond(bytes(message.id), error, 200)
        else:
            try:
                self._request = self._front.edge.serve_legacy(message, self, session)
            except RpcError as error:
                self._respond(bytes(message.id), error, 200)

    def _notified(self, message: Message, session: Session) -> None:
        method = codec.text(message.method)
        if method == "notifications/initialized":
            self._front.edge.open(session)
        elif method == ROOTS_CHANGED:
            self._front.edge.roots_changed(session)
        elif method == "notifications/cancelled":
            key = codec.request_id(params_of(message).get("requestId", ABSENT))
            request = session.requests.get(key)
            session.cancel(message.params)
            if request is not None and isinstance(request.outlet, Exchange):
                request.outlet.cancelled(request)

    def cancelled(self, request: Request) -> None:
        """The client gave up on it; in this era its stream ends with an answer all the same."""
        error = RpcError(REQUEST_CANCELLED, "Request cancelled")
        self.respond(request, codec.failure(request.id, error), error.code)

    def _initialize(self, message: Message, view: View) -> None:
        params = params_of(message)
        name, held = self._front.sessions.new(self._head.endpoint or "", self._shown)
        try:
            session = open_session(view, self._head.origin, params, held.say)
        except RpcError as error:
            self._respond(bytes(message.id), error, 200)
            return
        held.session = session
        self._front.sessions.add(held, self._head.query.decode("latin-1"))
        self._session_name = name
        line = codec.answer(bytes(message.id), view.initialize[session.version])
        self._whole(200, line)

    def _find(self) -> HttpSession | None:
        """The session that is meant; answers when there is none."""
        name = self._head.named.get(SESSION_HEADER)
        if name is None:
            self._refuse(400, "Bad Request: Missing session ID")
            return None
        head = self._head
        held = self._front.sessions.find(name, head.endpoint or "", head.origin, self._shown)
        if held is None:
            self._refuse(404, "Session not found")
            return None
        self._session_name = name
        return held

    @property
    def _shown(self) -> str:
        """How the client says who it is."""
        return self._head.named.get("authorization", "")

    def _get(self) -> None:
        if not _accepted(self._head.named.get("accept", ""))[1]:
            self._refuse(406, "The client must accept text/event-stream.")
        elif (held := self._find()) is not None:
            self.streaming = True
            self._held = held
            self._open_stream()
            held.listen(self)
            # While it was away a server that it watches may have gone to sleep.
            self._front.edge.watch_again(held.session, held.session.subscribed)

    def _delete(self) -> None:
        if (held := self._find()) is not None:
            self._front.sessions.remove(held)
            self._whole(200, b"")

    # -- answering -------------------------------------------------------------------------------

    @property
    def carrier(self) -> Mapping[str, str]:
        """The headers."""
        return self._head.named

    def respond(self, request: Request, line: bytes, code: int | None) -> None:
        """The answer to the request."""
        if self._posted_to is not None and request.method in SUBSCRIBING:
            self._front.sessions.subscribed(self._posted_to)
        if self._over:
            return
        if self._is_stream:
            self.event(line)
            self._finish()
        else:
            status = 200 if code is None or not request.modern else STATUS.get(code, 200)
            self._whole(status, line)

    def tell(self, request: Request, line: bytes) -> None:
        """A message on the way to the answer."""
        if request.method == "subscriptions/listen":
            self.streaming = True
        self.event(line)

    def report(self, request: Request, line: bytes) -> None:
        """Progress; dropped while the client does not read."""
        del request
        if not self._connection.paused:
            self.event(line)

    def ask(self, request: Request, line: bytes) -> None:
        """A question to the client; its answer comes in a request of its own."""
        del request
        self.event(line)

    def event(self, line: bytes) -> None:
        """One message as an event of the stream."""
        if self._over:
            return
        self._open_stream()
        self._said = time.monotonic()
        # A message is one line: JSON has no line break but in escapes.
        self._connection.chunk(b"event: message\r\ndata: " + line + b"\r\n\r\n")

    def sweep(self, now: float) -> None:
        """A sign of life, before something in between takes the connection for dead."""
        if not self._over and now - self._said > PING_SECONDS:
            self._open_stream()
            self._said = now
            self._connection.chunk(b": ping\r\n\r\n")

    def disconnected(self) -> None:
        """The client hung up. In the new era that is how it cancels."""
        self._over = True
        if self._held is not None:
            self._held.unlisten(self)
        if self._request is not None and self._request.modern:
            self._request.cancel()

    def end(self) -> None:
        """The daemon or the session ends."""
        if self._over:
            return
        request = self._request
        if request is not None and request.open:
            request.cancel()
            if request.method != "subscriptions/listen":
                self.respond(request, codec.failure(request.id, CUT_OFF), CUT_OFF.code)
                return
        if self._is_stream:
            self._finish()
        else:
            self._refuse(503, "The gateway is ending. Fix: connect again.")

    def _open_stream(self) -> None:
        if not self._is_stream:
            self._is_stream = True
            self._connection.begin(200, (*EVENTS, *self._session_headers()))

    def _finish(self) -> None:
        self._over = True
        if self._held is not None:
            self._held.unlisten(self)
        self._connection.finish()

    def _whole(self, status: int, body: bytes) -> None:
        self._over = True
        self._connection.respond(status, (JSON, *self._session_headers()), body)

    def _accept(self) -> None:
        self._over = True
        self._connection.respond(202, self._session_headers(), b"")

    def _respond(self, message_id: bytes, error: RpcError, status: int) -> None:
        self._whole(status, codec.failure(message_id, error))

    def _refuse(self, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
        self._over = True
        body = codec.failure(codec.NULL, RpcError(codec.INVALID_REQUEST, text))
        self._connection.respond(status, (JSON, *more, *self._session_headers()), body)

    def _session_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        if not self._session_name:
            return ()
        return ((SESSION_HEADER.encode(), self._session_name.encode("latin-1")),)


@lru_cache(maxsize=64)
def _is_json(shown: str) -> bool:
    """Whether a body of this type is read."""
    kind = shown.partition(";")[0]
    return "application/json" in [part.strip().lower() for part in kind.split(",")]


@lru_cache(maxsize=64)
def _accepted(shown: str) -> tuple[bool, bool]:
    """Whether JSON and events are accepted."""
    types = {part.partition(";")[0].strip().lower() for part in shown.split(",")}
    everything = "*/*" in types
    return (
        everything or bool(types & {"application/json", "application/*"}),
        everything or bool(types & {"text/event-stream", "text/*"}),
    )
