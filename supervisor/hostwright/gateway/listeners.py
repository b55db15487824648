"""The sockets of the gateway, open for as long as the daemon runs.

TCP (loopback by default): `/mcp` and `/mcp/NAME` for clients with a bearer token, `/healthz`,
`/readyz`, `/metrics`. The unix socket `gateway.sock` carries the same without tokens, and
`/control` for the command line: it is 0600 in a 0700 folder, so whoever reaches it is the owner.
`connect.sock` takes clients that speak stdio: a first line names the endpoint, what follows is MCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastmcp.server.http import HostOriginGuardMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hostwright.gateway.edge import ORIGIN_SCOPE, Edge, Origin, origin
from hostwright_kit.http import MAX_BODY_BYTES, BearerAuth, BodyLimit
from hostwright_kit.identity import TOKEN_SCOPE
from hostwright_kit.stdio import MAX_LINE_BYTES, LineWire
from hostwright_kit.tokens import Tokens

logger = logging.getLogger(__name__)

ALL = "*"
"""The name of the endpoint that offers every server."""

CONNECT_SECONDS = 10.0


class Endpoints:
    """The MCP endpoints by name, each with its own session manager."""

    def __init__(self, edges: Mapping[str, Edge]) -> None:
        self.edges = edges
        self._managers = {
            # Host and Origin are checked once, for everything, in `tcp_app`.
            name: StreamableHTTPSessionManager(
                app=edge.server, max_request_body_size=MAX_BODY_BYTES
            )
            for name, edge in edges.items()
        }

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Serve sessions until left."""
        async with contextlib.AsyncExitStack() as stack:
            for manager in self._managers.values():
                await stack.enter_async_context(manager.run())
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope.get("path_params", {}).get("name", ALL)
        manager = self._managers.get(name)
        if manager is None:
            known = ", ".join(sorted(set(self._managers) - {ALL}))
            answer = JSONResponse(
                {"error": f"No server {name!r}. Fix: use /mcp/NAME with one of: {known}."}, 404
            )
            await answer(scope, receive, send)
            return
        if isinstance(token := scope.get(TOKEN_SCOPE), str):
            # The manager then lets nobody else into a session that this token opened.
            scope["user"] = AuthenticatedUser(AccessToken(token=token, client_id=token, scopes=[]))
        await manager.handle_request(scope, receive, send)


class Probes(BaseModel):
    """What the plain HTTP routes answer with."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    ready: Callable[[], tuple[bool, Mapping[str, str]]]
    metrics: Callable[[], Awaitable[bytes]]


def tcp_app(
    endpoints: Endpoints,
    probes: Probes,
    tokens: Tokens,
    *,
    require_token: bool,
    hosts: Sequence[str],
) -> ASGIApp:
    """What answers on the TCP port."""
    mcp = BearerAuth(endpoints, tokens, required=require_token)
    app = Starlette(routes=[*_probe_routes(probes), *_mcp_routes(mcp)])
    guarded = HostOriginGuardMiddleware(app, allowed_hosts=list(hosts) or None, mode="auto")
    return BodyLimit(_Origin(guarded, Origin(transport="http")))


def unix_app(endpoints: Endpoints, probes: Probes, control: Sequence[BaseRoute]) -> ASGIApp:
    """What answers on the unix socket."""
    app = Starlette(routes=[*_probe_routes(probes), *_mcp_routes(endpoints), *control])
    return BodyLimit(_Origin(app, Origin(transport="socket", uid=os.getuid())))


def _mcp_routes(app: ASGIApp) -> list[BaseRoute]:
    return [Route("/mcp", endpoint=_Asgi(app)), Route("/mcp/{name}", endpoint=_Asgi(app))]


def _probe_routes(probes: Probes) -> list[BaseRoute]:
    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        ready, states = probes.ready()
        return JSONResponse({"ready": ready, "servers": dict(states)}, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        text = await probes.metrics()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class _Asgi:
    """Starlette takes functions for request handlers and objects for ASGI applications."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Origin:
    """Notes in the scope where a request came in."""

    def __init__(self, app: ASGIApp, came: Origin) -> None:
        self._app = app
        self._came = came

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ORIGIN_SCOPE] = self._came
        await self._app(scope, receive, send)


class Hello(BaseModel):
    """The first line on `connect.sock`."""

    model_config = ConfigDict(extra="forbid")

    connect: str = Field(description="A server's name, or * for all of them.")


class ConnectSocket:
    """Serves clients whose stdin and stdout `hostwright connect` has joined to a connection."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self, listener: socket.socket) -> AsyncGenerator[None]:
        """Accept on `listener` until left; then end what is connected."""
        server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_LINE_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # Only `listen` cancels these tasks, when the daemon ends.
            logger.debug("a connected client was let go")
        except Exception:
            logger.exception("a connected client's session failed")
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer.get_extra_info("socket"))
        if uid not in (os.getuid(), 0):
            await _refuse(writer, f"uid {uid} is not the owner of this gateway")
            return
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                hello = Hello.model_validate_json(await reader.readline())
        except (ValidationError, TimeoutError, ValueError):
            await _refuse(writer, "the first line is not a connect request")
            return
        edge = self._endpoints.edges.get(hello.connect)
        if edge is None:
            known = ", ".join(sorted(set(self._endpoints.edges) - {ALL}))
            await _refuse(writer, f"there is no server {hello.connect!r}; there are: {known}")
            return
        writer.write(b'{"connected":true}\n')
        await writer.drain()
        origin.set(Origin(transport="stdio", uid=uid))
        async with LineWire(reader, writer).streams() as (read, write):
            await edge.server.run(read, write, edge.server.create_initialization_options())


def _peer_uid(connection: Any) -> int:
    """The uid of the process at the other end, as the kernel says."""
    if sys.platform == "linux":
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("3i", packed)[1]
    # LOCAL_PEERCRED (macOS, BSD): struct xucred { version, uid, … }.
    return struct.unpack("2I", connection.getsockopt(0, 1, 8))[1]


async def _refuse(writer: asyncio.StreamWriter, why: str) -> None:
    writer.write(json.dumps({"connected": False, "error": why}).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
