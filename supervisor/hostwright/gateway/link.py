"""One connection to one server: raw JSON-RPC over its stdin and stdout, many callers on one pipe.

Inside, the revision 2026-07-28 is spoken: stateless, every request carries its client's identity
and capabilities in `_meta`, so calls of different clients interleave on one pipe. A server that
knows only the handshake era is initialized once, as the gateway itself, and then answers for all.

Requests are remapped to ids of our own; progress comes back by progress token, which is that id;
cancelling a request here sends `notifications/cancelled` to the server. What a server writes is
not trusted to be well-formed, and no client's slowness may hold up the pipe for the others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, cast

from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from hostwright import __version__
from hostwright.gateway.lines import TooLong, next_line
from hostwright.gateway.reports import Progress, Reports
from hostwright.telemetry import trace_context
from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.identity import ACTOR_META, actor_meta
from hostwright_kit.stdio import MAX_LINE_BYTES

logger = logging.getLogger(__name__)

Era = Literal["auto", "modern", "legacy"]
Notified = Callable[[str], None]

# A server of the handshake era may ignore what it does not know instead of refusing it.
DISCOVER_SECONDS = 5.0
MAX_IN_FLIGHT = 1_000

OWN_INFO = {"name": "hostwright-gateway", "version": __version__}

# One count for all links: when a second link is opened on the pipes of a first one that gave up,
# a late answer to the first must not be taken for an answer to the second.
_ids = itertools.count(1)


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


class _Waiting:
    """A request that was sent and not answered yet."""

    def __init__(self, progress: Progress | None) -> None:
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.reports = Reports(progress) if progress is not None else None

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def close(self) -> None:
        if self.reports is not None:
            self.reports.close()
        if not self.answer.cancel() and not self.answer.cancelled():
            # Looked at, or asyncio would log it as forgotten: writing failed before it was awaited.
            self.answer.exception()


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
        self._waiting: dict[int, _Waiting] = {}
        self._legacy = False
        self._lost = False
        self._complained = False
        self._reading = asyncio.create_task(self._read(), name=f"link {server}")

    @property
    def alive(self) -> bool:
        """Whether the server is still there."""
        return not self._lost

    async def open(self, era: Era) -> dict[str, Any]:
        """Find out which era the server speaks and return its capabilities.

        Bounded by whoever calls: how long a server may take to start is not known here.
        """
        if era == "legacy":
            return await self._handshake()
        discovering = asyncio.create_task(self.request("server/discover", {}))
        try:
            if era == "auto":
                await asyncio.wait([discovering], timeout=DISCOVER_SECONDS)
                if not discovering.done() or discovering.exception() is not None:
                    return await self._handshake_beside(discovering)
            return _capabilities(await discovering)
        finally:
            await _ended(discovering)

    async def _handshake_beside(self, discovering: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
        """The handshake, unless a server that was only slow to start answers in the new era."""
        shaking = asyncio.create_task(self._handshake())
        try:
            if not discovering.done():
                await asyncio.wait([discovering, shaking], return_when=asyncio.FIRST_COMPLETED)
            if shaking.done() and shaking.exception() is not None and not self._lost:
                # A server of the new era refuses it; then the first question is still open.
                await asyncio.wait([discovering])
            if discovering.done() and discovering.exception() is None:
                self._legacy = False
                return _capabilities(discovering.result())
            return await shaking
        finally:
            await _ended(shaking)

    async def _handshake(self) -> dict[str, Any]:
        params = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": {},
            "clientInfo": OWN_INFO,
        }
        found = await self._exchange("initialize", lambda _: params)
        await self._send({"method": "notifications/initialized"})
        self._legacy = True
        return _capabilities(found)

    async def check(self) -> None:
        """One round trip that asks for nothing."""
        # The new era has no ping.
        await self.request("ping" if self._legacy else "server/discover", {})

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        asker: Asker = SUPERVISOR,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask the server; raises `MCPError` when it answers with an error or ends."""

        def filled(request_id: int) -> dict[str, Any]:
            return self._fill(params, asker, request_id if progress else None)

        return await self._exchange(method, filled, progress)

    async def _exchange(
        self,
        method: str,
        params: Callable[[int], Mapping[str, Any]],
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        if self._lost:
            raise LinkLostError(self.server)
        if len(self._waiting) >= MAX_IN_FLIGHT:
            raise HostError(
                f"{MAX_IN_FLIGHT} calls to {self.server} are running already.",
                fix="Wait for some of them to end, then try again.",
                code="busy",
            )
        request_id = next(_ids)
        line = _encode({"id": request_id, "method": method, "params": params(request_id)})
        waiting = self._waiting[request_id] = _Waiting(progress)
        try:
            await self._write(line)
            answer = await waiting.answer
            if waiting.reports is not None:
                await waiting.reports.flush()
        except asyncio.CancelledError:
            cancelled = {"requestId": request_id, "reason": "the client cancelled"}
            # Not waited for: a server that reads nothing must not hold up who gave up on it.
            self._post(_encode({"method": "notifications/cancelled", "params": cancelled}))
            raise
        finally:
            self._waiting.pop(request_id, None)
            waiting.close()
        return answer

    async def close(self) -> None:
        """Stop reading; requests that wait fail. The pipes belong to whoever opened them."""
        await _ended(self._reading)
        self._fail_all()

    def _fill(self, params: Mapping[str, Any], asker: Asker, token: int | None) -> dict[str, Any]:
        """The params with the envelope of the inner era; what the client sent there is replaced."""
        if self._legacy:
            meta: dict[str, Any] = {"progressToken": token} if token is not None else {}
        else:
            caller = asker.caller
            meta = {
                PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
                CLIENT_INFO_META_KEY: {"name": caller.client, "version": caller.version},
                CLIENT_CAPABILITIES_META_KEY: dict(asker.capabilities),
            }
            if token is not None:
                meta["progressToken"] = token
            if self._link_key is not None:
                meta[ACTOR_META] = actor_meta(caller, self._link_key)
        # All that is passed on of what the client wrote there: which trace this is part of.
        meta |= trace_context(params.get("_meta"))
        rest = {key: value for key, value in params.items() if key != "_meta"}
        return {**rest, "_meta": meta} if meta else rest

    # -- writing ---------------------------------------------------------------------------------

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._write(_encode(message))

    async def _write(self, line: bytes) -> None:
        self._post(line)
        try:
            await self._writer.drain()
        except OSError as error:
            self._fail_all()
            raise LinkLostError(self.server) from error

    def _post(self, line: bytes) -> None:
        """Hand the line to the transport; what goes wrong there shows when reading."""
        if not self._writer.is_closing():
            self._writer.write(line)

    # -- reading ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while (line := await next_line(self._reader)) is not None:
                if isinstance(line, TooLong):
                    if not self._refuse_long(line):
                        return
                    continue
                try:
                    self._take(line)
                except (ValueError, TypeError, AttributeError, RecursionError) as error:
                    self._complain(f"wrote what is no JSON-RPC message ({type(error).__name__})")
        except OSError as error:
            logger.warning("the connection to %s broke: %s", self.server, error)
        finally:
            self._fail_all()

    def _refuse_long(self, line: TooLong) -> bool:
        """Fail the request whose answer is too long; False when it cannot be told which it is."""
        request_id = line.answer_to()
        waiting = self._waiting.get(request_id) if request_id is not None else None
        if waiting is None:
            logger.warning("%s wrote a line of more than %d bytes", self.server, MAX_LINE_BYTES)
            return False
        waiting.fail(
            HostError(
                f"The answer of {self.server} is longer than {MAX_LINE_BYTES} bytes.",
                fix="Ask for less at a time (limit, offset, cursor).",
                code="result_too_large",
            )
        )
        return True

    def _complain(self, what: str) -> None:
        # Once: a server that prints its log to stdout must not fill ours.
        if not self._complained:
            self._complained = True
            logger.warning("%s %s; such lines are dropped", self.server, what)

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        if not isinstance(message, dict):
            raise TypeError("not an object")
        fields = cast("dict[str, Any]", message)
        if "method" in fields:
            self._take_incoming(fields)
        elif isinstance(request_id := fields.get("id"), int):
            self._settle(request_id, fields)
        elif isinstance(error := fields.get("error"), dict):
            # It could not read one of our messages, and does not know which.
            why = str(cast("dict[str, Any]", error).get("message"))
            logger.warning("%s refused a message: %.300s", self.server, why)

    def _settle(self, request_id: int, message: Mapping[str, Any]) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is None or waiting.answer.done():
            return
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            fields = cast("dict[str, Any]", error)
            code = fields.get("code")
            waiting.fail(
                MCPError(
                    code if isinstance(code, int) else INTERNAL_ERROR,
                    str(fields.get("message", "")),
                    fields.get("data"),
                )
            )
        elif isinstance(result, dict):
            waiting.answer.set_result(cast("dict[str, Any]", result))
        else:
            text = f"The server {self.server} answered with neither a result nor an error."
            waiting.fail(MCPError(INTERNAL_ERROR, text))

    def _take_incoming(self, message: Mapping[str, Any]) -> None:
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
            self._post(_encode({"id": message["id"], **answer}))
        elif method == "notifications/progress":
            token = params.get("progressToken")
            waiting = self._waiting.get(token) if isinstance(token, int) else None
            if waiting is not None and waiting.reports is not None:
                waiting.reports.put(params)
        else:
            self._notified(method)

    def _fail_all(self) -> None:
        self._lost = True
        for waiting in self._waiting.values():
            waiting.fail(LinkLostError(self.server))


def _capabilities(found: Mapping[str, Any]) -> dict[str, Any]:
    declared = found.get("capabilities")
    return cast("dict[str, Any]", declared) if isinstance(declared, dict) else {}


def _encode(message: Mapping[str, Any]) -> bytes:
    """One line; raises when it would be longer than servers accept."""
    whole = {"jsonrpc": "2.0", **message}
    try:
        # Not as \\u escapes, which make some texts three times as long as the client sent them.
        line = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8; only the escape can carry it.
        line = json.dumps(whole, separators=(",", ":")).encode()
    if len(line) >= MAX_LINE_BYTES:
        raise HostError(
            f"The request has {len(line)} bytes, the bound is {MAX_LINE_BYTES}.",
            fix="Send less at a time.",
            code="request_too_large",
        )
    return line + b"\n"


async def _ended(task: asyncio.Task[Any]) -> None:
    """End a task whose outcome no longer matters."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # Looked at, or asyncio would log it as forgotten.
        task.exception()
