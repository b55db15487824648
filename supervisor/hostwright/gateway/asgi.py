"""One request answered by an ASGI application: health, metrics, control, events.

Everything that is not a call of an MCP client. The body is there as a whole before it begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from hostwright_kit.vouching import TOKEN_SCOPE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from hostwright.gateway.http_connection import HttpConnection
    from hostwright.gateway.http_head import Head

logger = logging.getLogger(__name__)

ORIGIN_SCOPE = "hostwright.origin"
"""Key of the ASGI scope under which stands where a request came in (`asker.Origin`)."""


class AsgiRun:
    """The application at work on one request."""

    def __init__(self, connection: HttpConnection, head: Head, body: bytes) -> None:
        self._connection = connection
        self._head = head
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._begun = False
        self._done = False
        self._task: asyncio.Task[None] | None = None
        # What is asked for with GET may go on for as long as the client listens.
        self.streaming = head.method == "GET"

    def start(self, app: ASGIApp) -> None:
        """Begin."""
        head, connection = self._head, self._connection
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": (connection.hosts_address, None),
            "client": connection.client,
            "scheme": "http",
            "root_path": "",
            "method": head.method,
            "path": head.path,
            "raw_path": head.path.encode(),
            "query_string": head.query,
            "headers": head.headers,
            "state": {},
            ORIGIN_SCOPE: head.origin,
            TOKEN_SCOPE: head.origin.token,
        }
        work: Coroutine[Any, Any, None] = self._run(app, scope)
        self._task = asyncio.create_task(work)

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            logger.exception("%s %s failed", self._head.method, self._head.path)
            self._break_off()
        else:
            if not self._done:
                self._break_off()

    def _break_off(self) -> None:
        if self._gone.is_set() or self._done:
            return
        self._done = True
        if self._begun:
            self._connection.abort()
        else:
            self._connection.respond(500, (), b"The gateway failed on this request.\n")

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    _start: Message

    async def _send(self, message: Message) -> None:
        if self._gone.is_set() or self._done:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        headers = [
            (name, value)
            for name, value in self._start.get("headers", ())
            if name.lower() not in (b"content-length", b"connection", b"date")
        ]
        status = int(self._start["status"])
        if not self._begun and not more:
            self._done = True
            self._connection.respond(status, headers, body)
            return
        if not self._begun:
            self._begun = True
            self._connection.begin(status, headers)
        self._connection.chunk(body)
        if more:
            await self._connection.drained()
        else:
            self._done = True
            self._connection.finish()

    def disconnected(self) -> None:
        """The client is gone."""
        self._gone.set()

    def sweep(self, now: float) -> None:
        """An application keeps its own time."""

    def end(self) -> None:
        """The daemon ends: cut it off, and end the answer as well as it can be ended."""
        if self._task is not None:
            self._task.cancel()
        if self._done:
            return
        self._done = True
        if self._begun:
            self._connection.finish()
        else:
            text = b"The gateway is ending. Fix: connect again.\n"
            self._connection.respond(503, (), text)
