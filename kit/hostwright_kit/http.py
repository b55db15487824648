"""Streamable HTTP at /mcp, on a TCP port or a unix socket.

Host and Origin are checked (DNS rebinding), the size of a body is bounded, and beyond loopback a
bearer token is required: there every machine of the network is a caller. A unix socket is 0600 in
a 0700 folder: the kernel admits only its owner.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from fastmcp.server.http import StarletteWithLifespan, StreamableHTTPASGIApp
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hostwright_kit.tokens import Tokens
from hostwright_kit.vouching import MAX_MESSAGE_BYTES, TOKEN_SCOPE, TOKEN_VARIABLE

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
SHUTDOWN_SECONDS = 2


class BearerAuth:
    """Lets requests with a known token through and notes whose it is in the scope."""

    def __init__(self, app: ASGIApp, tokens: Tokens, *, required: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._required = required
        # Taken out of the environment: children must not inherit it.
        self._extra = os.environ.pop(TOKEN_VARIABLE, "")

    def can_admit(self) -> bool:
        """Whether any token exists at all."""
        return bool(self._extra or self._tokens.list())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            shown = _bearer(scope)
            name = self._name(shown) if shown else None
            if name is None and (shown or self._required):
                await _answer(send, 401, "A known bearer token is required", challenge=True)
                return
            scope[TOKEN_SCOPE] = name
        await self._app(scope, receive, send)

    def _name(self, shown: str) -> str | None:
        if self._extra and hmac.compare_digest(shown.encode(), self._extra.encode()):
            return "environment"
        return self._tokens.verify(shown)


class BodyLimit:
    """Refuses bodies that are longer than an MCP message has any reason to be."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max:
            await _answer(send, 413, f"A message may have {self._max} bytes")
            return
        seen, begun, refused = 0, False, False

        async def counted() -> Message:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen <= self._max:
                return message
            # Chunked, so the length shows only now. To the application the client has gone.
            if not begun and not refused:
                refused = True
                await _answer(send, 413, f"A message may have {self._max} bytes")
            return {"type": "http.disconnect"}

        async def unless_refused(message: Message) -> None:
            nonlocal begun
            if not refused:
                begun = True
                await send(message)

        await self._app(scope, counted, unless_refused)


class QuietServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one place that ends it."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


def accept_bodies(app: StarletteWithLifespan, max_bytes: int = MAX_BODY_BYTES) -> None:
    """Raise the SDK's own bound of 4 MiB, which FastMCP does not let through, to ours."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(scope_app: Any) -> AsyncGenerator[Any]:
        async with inner(scope_app) as state:
            for route in app.routes:
                endpoint = getattr(route, "endpoint", None)
                # The manager exists only while the lifespan runs.
                if isinstance(endpoint, StreamableHTTPASGIApp) and endpoint.session_manager:
                    endpoint.session_manager.asgi_app.max_body_size = max_bytes
            yield state

    app.router.lifespan_context = lifespan


def make_server(app: ASGIApp) -> QuietServer:
    """A uvicorn server for `app`; run it with `serve(sockets=[…])`."""
    return QuietServer(
        uvicorn.Config(
            app,
            # Named, or what is installed would decide: httptools is quicker and leaves blanks
            # around header values, which clients may send (RFC 9110 §5.5) and MCP compares.
            http="h11",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws="none",
        )
    )


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return None


async def _answer(send: Send, status: int, text: str, *, challenge: bool = False) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if challenge:
        headers.append((b"www-authenticate", b'Bearer realm="hostwright"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
