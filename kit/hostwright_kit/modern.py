"""One connection of the 2026-07-28 era, without the detours of the general loop.

The SDK's loop takes each message through three in-memory streams, two tasks and a model made for
validating what was validated; here a line becomes a dictionary, a dictionary a task, its result a
line. What a request means is still the SDK's: `classify_inbound_request`, `ServerRunner.on_request`
and `on_notify` are called as its own loop calls them. Every request carries its own
envelope in this era, so there is no session to keep; servers may notify but not ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

import anyio
from fastmcp import FastMCP
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import CallOptions, as_request_id, coerce_request_id
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
    UnsupportedProtocolVersionErrorData,
)
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic_core import to_json

logger = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]
_TRANSPORT = TransportContext(kind="jsonrpc", can_send_request=False)


def opens_modern(method: str, params: Mapping[str, Any] | None) -> bool:
    """Whether a connection that begins with this request is of this era."""
    meta = (params or {}).get("_meta")
    return (
        method != "initialize" and isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta
    )


class ModernConnection:
    """Dispatches what the other side sends; `take` never waits for an answer."""

    def __init__(self, app: FastMCP[Any], state: Any, write: Write) -> None:
        self._server = app._mcp_server
        self._state = state
        self._write = write
        self._outbound = NotifyOnlyOutbound(self)
        self._calls: dict[str | int, _Call] = {}
        self._tasks: dict[asyncio.Task[None], anyio.CancelScope] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, message: Mapping[str, Any]) -> None:
        """A request or a notification, well-formed."""
        method, params = message["method"], message.get("params")
        if "id" in message:
            call = _Call(self, message["id"], params)
            self._calls[coerce_request_id(call.request_id)] = call
            self._idle.clear()
            self._spawn(self._answer(call, method, params), call.scope)
            return
        if method == "notifications/cancelled":
            request_id = as_request_id((params or {}).get("requestId"))
            key = None if request_id is None else coerce_request_id(request_id)
            if key is not None and (call := self._calls.get(key)) is not None:
                call.cancel()
        scope = anyio.CancelScope()
        self._spawn(self._note(method, params, scope), scope)

    async def finish(self, seconds: float) -> None:
        """Let what runs still answer, for a bounded time; end the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        await self.abort()

    async def abort(self) -> None:
        """End what runs; who still waits is told that the connection closes.

        Through its scope and not by cancelling its task: a tool in a worker thread is shielded
        from that, and must not be recorded as cancelled while it goes on.
        """
        while self._tasks:
            for scope in self._tasks.values():
                scope.cancel()
            await asyncio.wait(list(self._tasks))

    # -- what the SDK sends through ----------------------------------------------------------------

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Send a notification."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = dict(params)
        await self._send(message)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refused: in this era a server asks by answering."""
        raise NoBackChannelError(method)

    # -- one message -------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], scope: anyio.CancelScope) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = scope
        task.add_done_callback(self._tasks.pop)

    async def _answer(self, call: _Call, method: str, params: Mapping[str, Any] | None) -> None:
        answered = False
        try:
            with call.scope:
                try:
                    result = await self._serve(call, method, params)
                finally:
                    self._close(call)
                if not call.cancelled:
                    answered = True
                    await self._send({"jsonrpc": "2.0", "id": call.request_id, "result": result})
        except Exception as error:  # noqa: BLE001 - and answered
            answered = True
            if not call.cancelled:
                await self._refuse(call, _error_of(error))
        if not answered and not call.cancelled:
            error = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")
            with anyio.move_on_after(1):
                await self._refuse(call, error)

    async def _serve(
        self, call: _Call, method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if method == "initialize":
            raise _no_handshake(params)
        route = classify_inbound_request({"method": method, "params": params})
        if isinstance(route, InboundLadderRejection):
            raise MCPError(code=route.code, message=route.message, data=route.data)
        connection = Connection.from_envelope(
            route.protocol_version,
            route.client_info,
            route.client_capabilities,
            outbound=self._outbound,
        )
        # As the SDK's `serve_one`, whose last act costs much even where there is nothing to close.
        runner = ServerRunner(self._server, connection, self._state)
        try:
            return await runner.on_request(call, method, params)
        finally:
            if connection.exit_stack._exit_callbacks:  # type: ignore[attr-defined]
                await aclose_shielded(connection)

    async def _note(
        self, method: str, params: Mapping[str, Any] | None, scope: anyio.CancelScope
    ) -> None:
        connection = Connection.from_envelope(
            LATEST_MODERN_VERSION, None, None, outbound=self._outbound
        )
        runner = ServerRunner(self._server, connection, self._state)
        with scope:
            try:
                await runner.on_notify(_Call(self, None, params), method, params)
            finally:
                await aclose_shielded(connection)

    async def _refuse(self, call: _Call, error: ErrorData) -> None:
        detail = error.model_dump(mode="json", by_alias=True, exclude_unset=True)
        await self._send({"jsonrpc": "2.0", "id": call.request_id, "error": detail})

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._write(to_json(message, inf_nan_mode="null") + b"\n")

    def _close(self, call: _Call) -> None:
        call.closed = True
        key = coerce_request_id(call.request_id)
        # A client that uses an id twice has its newer call here.
        if self._calls.get(key) is call:
            del self._calls[key]
        if not self._calls:
            self._idle.set()


class _Call:
    """A request on its way through the SDK, which calls this a dispatch context."""

    transport = _TRANSPORT
    can_send_request = False
    message_metadata = None

    def __init__(
        self, connection: ModernConnection, request_id: Any, params: Mapping[str, Any] | None
    ) -> None:
        self.request_id = request_id
        self.scope = anyio.CancelScope()
        self.cancelled = False
        self.closed = False
        self._connection = connection
        self._params = params
        self._event: anyio.Event | None = None

    @property
    def cancel_requested(self) -> anyio.Event:
        """Set when the client cancels."""
        if self._event is None:
            self._event = anyio.Event()
            if self.cancelled:
                self._event.set()
        return self._event

    def cancel(self) -> None:
        """The client no longer wants an answer, and gets none."""
        self.cancelled = True
        if self._event is not None:
            self._event.set()
        self.scope.cancel()

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Send a notification that belongs to this request, while it runs."""
        if not self.closed:
            await self._connection.notify(method, params, opts)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refused, as on the connection."""
        raise NoBackChannelError(method)

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress, if the client gave a token for it."""
        meta = cast("Mapping[str, Any]", (self._params or {}).get("_meta") or {})
        token = as_request_id(meta.get("progressToken"))
        if token is None:
            return
        params: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)


def _error_of(error: Exception) -> ErrorData:
    known = handler_exception_to_error_data(error)
    if known is not None:
        return known
    logger.error("a request failed unexpectedly", exc_info=error)
    # What an unexpected exception says is for the log.
    return ErrorData(code=INTERNAL_ERROR, message="Internal server error")


def _no_handshake(params: Mapping[str, Any] | None) -> MCPError:
    supported = list(MODERN_PROTOCOL_VERSIONS)
    requested = (params or {}).get("protocolVersion")
    data: dict[str, Any] = {"supported": supported}
    if isinstance(requested, str):
        data = UnsupportedProtocolVersionErrorData(
            supported=supported, requested=requested
        ).model_dump(mode="json")
    return MCPError(
        code=UNSUPPORTED_PROTOCOL_VERSION,
        message="this connection speaks 2026-07-28; the initialize handshake is not part of it",
        data=data,
    )
