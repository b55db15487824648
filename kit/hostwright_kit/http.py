"""Streamable HTTP at /mcp, on a TCP port or a unix socket.

Host and Origin are checked (DNS rebinding), the size of a body is bounded, and beyond loopback a
bearer token is required: there every machine of the network is a caller. A unix socket is 0600 in
a 0700 folder: the kernel admits only its owner.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import ipaddress
import os
import socket
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastmcp.server.http import StarletteWithLifespan, StreamableHTTPASGIApp
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hostwright_kit.errors import HostError
from hostwright_kit.identity import TOKEN_SCOPE
from hostwright_kit.tokens import Tokens

MAX_BODY_BYTES = 16 * 1024 * 1024
TOKEN_VARIABLE = "HOSTWRIGHT_HTTP_TOKEN"  # noqa: S105 - the name of a variable
SHUTDOWN_SECONDS = 2


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `PORT` (then loopback); IPv6 in brackets."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise HostError(
            f"{text!r} is not HOST:PORT.", fix="For example 127.0.0.1:8080.", code="bad_address"
        )
    return host, int(port)


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
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws="none",
        )
    )


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise HostError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            fix=f"See who holds it (ss -ltnp 'sport = :{port}'), end that program, or choose "
            "another port."
            if taken
            else "Choose an address of this machine and a port that this user may open.",
            code="port_in_use" if taken else "address_unusable",
        ) from error
    return listener


@asynccontextmanager
async def unix_listener(path: Path) -> AsyncGenerator[socket.socket]:
    """A listening unix socket, 0600; one left behind by a dead process is replaced."""
    listener, inode = _bind_unix(path)
    try:
        yield listener
    finally:
        listener.close()
        _unlink_if(path, inode)


def _bind_unix(path: Path) -> tuple[socket.socket, int]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        with _starting_in(path.parent):
            _clear_stale(path)
            listener.bind(str(path))
            listener.listen(512)
            return listener, path.stat().st_ino
    except OSError as error:
        listener.close()
        raise HostError(
            f"Cannot listen on {path}: {error.strerror or error}.",
            fix="Use a path of at most 107 characters in a folder of this user.",
            code="socket_unusable",
        ) from error
    except HostError:
        listener.close()
        raise
    finally:
        os.umask(old_mask)


@contextmanager
def _starting_in(folder: Path) -> Generator[None]:
    """One server at a time: between bind and listen a socket looks as if its owner were dead."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unlink_if(path: Path, inode: int) -> None:
    """Remove the socket unless somebody replaced it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A live server with a full backlog must not hold up this one for ever.
            probe.settimeout(2)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except TimeoutError:
                pass
    raise HostError(
        f"{path} is in use.",
        fix="Another server listens there (or it is no socket): end it or choose another path.",
        code="socket_in_use",
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
