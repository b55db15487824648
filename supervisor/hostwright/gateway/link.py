"""One connection to one server: raw JSON-RPC over its stdin and stdout, many callers on one pipe.

Inside, the revision 2026-07-28 is spoken: stateless, every request carries its client's identity
and capabilities in `_meta`, so calls of different clients interleave on one pipe. A server that
knows only the handshake era is initialized once, as the gateway itself, and then answers for all.

Requests are remapped to ids of our own; progress comes back by progress token, which is that id;
cancelling a request here sends `notifications/cancelled` to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, cast

from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from hostwright import __version__
from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.identity import ACTOR_META, actor_meta

logger = logging.getLogger(__name__)

Era = Literal["auto", "modern", "legacy"]
Progress = ProgressFnT
Notified = Callable[[str], None]

# A server of the handshake era may ignore what it does not know instead of refusing it.
DISCOVER_SECONDS = 5.0
OPEN_SECONDS = 30.0
MAX_IN_FLIGHT = 1_000

OWN_INFO = {"name": "hostwright-gateway", "version": __version__}


class LinkLostError(MCPError):
    """The server ended before it answered; whether the call took effect is not known here."""

    def __init__(self, server: str) -> None:
        super().__init__(CONNECTION_CLOSED, f"The server {server} ended before it answered.")


class Asker:
    """On whose behalf a request is made: the identity that was checked, and what it can do."""

    def __init__(self, caller: Caller, capabilities: Mapping[str, Any]) -> None:
        self.caller = caller
        self.capabilities = capabilities


class Asks(Protocol):
    """What every kind of link can do."""

    server: str

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        asker: Asker = ...,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Put a request and return the result."""
        ...


SUPERVISOR = Asker(Caller(client="hostwright-supervisor", version=__version__), {})


class Link:
    """Speaks MCP to one server over a reader and a writer that somebody else opened."""

    def __init__(
        self,
        server: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        link_key: str | None = None,
        notified: Notified = lambda _: None,
    ) -> None:
        """`link_key` proves to a server of ours that the callers we name are checked."""
        self.server = server
        self._reader = reader
        self._writer = writer
        self._link_key = link_key
        self._notified = notified
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._progress: dict[int, Progress] = {}
        self._legacy = False
        self._lost = False
        self._reading = asyncio.create_task(self._read(), name=f"link {server}")

    @property
    def alive(self) -> bool:
        """Whether the server is still there."""
        return not self._lost

    async def open(self, era: Era) -> dict[str, Any]:
        """Find out which era the server speaks and return its capabilities."""
        async with asyncio.timeout(OPEN_SECONDS):
            if era != "legacy":
                try:
                    async with asyncio.timeout(DISCOVER_SECONDS if era == "auto" else OPEN_SECONDS):
                        found = await self.request("server/discover", {})
                    return cast("dict[str, Any]", found.get("capabilities", {}))
                except (MCPError, TimeoutError) as error:
                    if era == "modern" or self._lost:
                        raise
                    logger.info("%s does not answer server/discover: %s", self.server, error)
            self._legacy = True
            params = {
                "protocolVersion": LATEST_HANDSHAKE_VERSION,
                "capabilities": {},
                "clientInfo": OWN_INFO,
            }
            found = await self.request("initialize", params)
            await self._send({"method": "notifications/initialized"})
            return cast("dict[str, Any]", found.get("capabilities", {}))

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        asker: Asker = SUPERVISOR,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask the server; raises `MCPError` when it answers with an error or ends."""
        if self._lost:
            raise LinkLostError(self.server)
        if len(self._waiting) >= MAX_IN_FLIGHT:
            raise HostError(
                f"{MAX_IN_FLIGHT} calls to {self.server} are running already.",
                fix="Wait for some of them to end, then try again.",
                code="busy",
            )
        request_id = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        if progress is not None:
            self._progress[request_id] = progress
        try:
            filled = self._fill(params, asker, request_id if progress else None)
            await self._send({"id": request_id, "method": method, "params": filled})
            return await future
        except asyncio.CancelledError:
            cancelled = {"requestId": request_id, "reason": "the client cancelled"}
            with contextlib.suppress(LinkLostError):
                await self._send({"method": "notifications/cancelled", "params": cancelled})
            raise
        finally:
            self._waiting.pop(request_id, None)
            self._progress.pop(request_id, None)

    async def close(self) -> None:
        """Stop reading; requests that wait fail. The pipes belong to whoever opened them."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._fail_all()

    def _fill(self, params: Mapping[str, Any], asker: Asker, token: int | None) -> dict[str, Any]:
        """The params with the envelope of the inner era; what the client sent there is replaced."""
        if self._legacy:
            meta = {"progressToken": token} if token is not None else {}
        else:
            caller = asker.caller
            meta: dict[str, Any] = {
                PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
                CLIENT_INFO_META_KEY: {"name": caller.client, "version": caller.version},
                CLIENT_CAPABILITIES_META_KEY: dict(asker.capabilities),
            }
            if token is not None:
                meta["progressToken"] = token
            if self._link_key is not None:
                meta[ACTOR_META] = actor_meta(caller, self._link_key)
        rest = {key: value for key, value in params.items() if key != "_meta"}
        return {**rest, "_meta": meta} if meta else rest

    async def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
        try:
            self._writer.write(line.encode() + b"\n")
            await self._writer.drain()
        except (ConnectionError, OSError) as error:
            self._fail_all()
            raise LinkLostError(self.server) from error

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                await self._take(line)
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the reader's limit; the stream cannot be trusted on.
            logger.warning("the connection to %s broke: %s", self.server, error)
        finally:
            self._fail_all()

    async def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            logger.warning("%s wrote something that is not JSON to its stdout", self.server)
            return
        if not isinstance(message, dict):
            return
        fields = cast("dict[str, Any]", message)
        if "method" in fields:
            await self._take_incoming(fields)
        elif isinstance(request_id := fields.get("id"), int):
            self._settle(request_id, fields)

    def _settle(self, request_id: int, message: Mapping[str, Any]) -> None:
        future = self._waiting.get(request_id)
        if future is None or future.done():
            return
        error = message.get("error")
        if isinstance(error, dict):
            fields = cast("dict[str, Any]", error)
            future.set_exception(
                MCPError(
                    int(fields.get("code", INVALID_REQUEST)),
                    str(fields.get("message", "")),
                    fields.get("data"),
                )
            )
        else:
            result = message.get("result")
            future.set_result(cast("dict[str, Any]", result) if isinstance(result, dict) else {})

    async def _take_incoming(self, message: Mapping[str, Any]) -> None:
        method = str(message["method"])
        params = cast("dict[str, Any]", message.get("params") or {})
        if "id" in message:
            # A handshake-era server may ask the gateway something. Only ping has an answer here.
            answer: dict[str, Any] = (
                {"result": {}}
                if method == "ping"
                else {
                    "error": {"code": METHOD_NOT_FOUND, "message": f"No {method} behind a gateway"}
                }
            )
            await self._send({"id": message["id"], **answer})
        elif method == "notifications/progress":
            token = params.get("progressToken")
            report = self._progress.get(token) if isinstance(token, int) else None
            if report is not None:
                await report(
                    float(params.get("progress", 0)), params.get("total"), params.get("message")
                )
        else:
            self._notified(method)

    def _fail_all(self) -> None:
        self._lost = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLostError(self.server))
