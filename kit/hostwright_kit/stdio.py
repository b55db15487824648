"""Newline-delimited JSON-RPC over a pair of byte streams, on plain asyncio.

Serves MCP's stdio transport and the gateway's socket. Differences to the SDK's own: no threads
(SIGTERM is answered at once), a bound on the length of a line, and an answer to what cannot be
parsed (JSON-RPC 2.0 §5.1: -32700, -32600) instead of silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import mcp_types as mcp
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastmcp import FastMCP
from mcp.shared.message import SessionMessage
from pydantic import ValidationError
from pydantic_core import from_json

from hostwright_kit.errors import HostError
from hostwright_kit.lean import make_lean
from hostwright_kit.modern import ModernConnection, opens_modern

MAX_LINE_BYTES = 16 * 1024 * 1024
FINISH_SECONDS = 2.0
MAX_LEAD = 8
PARSE_ERROR = -32700
INVALID_REQUEST = -32600

Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


class LineWire:
    """One duplex connection: lines in, lines out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._open_requests = 0
        self._answered = asyncio.Event()
        self._answered.set()
        self.on_end: Callable[[], None] = lambda: None
        """Called when the other side has closed its end."""

    async def opening(self) -> list[mcp.JSONRPCMessage]:
        """What comes first, up to the first request, which decides the era; ends with it."""
        lead: list[mcp.JSONRPCMessage] = []
        while (line := await self._next_line()) is not None:
            message = await self._parse(line)
            if message is None:
                continue
            if isinstance(message, mcp.JSONRPCRequest):
                return [*lead, message]
            if len(lead) < MAX_LEAD:
                lead.append(message)
        return lead

    async def serve_modern(
        self, app: FastMCP[Any], state: Any, opening: Sequence[mcp.JSONRPCMessage]
    ) -> None:
        """Serve a connection that opened in the era of 2026-07-28."""
        connection = ModernConnection(app, state, self._send)
        try:
            for message in opening:
                if isinstance(message, mcp.JSONRPCRequest | mcp.JSONRPCNotification):
                    connection.take(message.model_dump(exclude_unset=True))
            while (line := await self._next_line()) is not None:
                if (fields := await self._raw(line)) is not None:
                    connection.take(fields)
            self.on_end()
            await connection.finish(FINISH_SECONDS)
        finally:
            await connection.abort()

    @asynccontextmanager
    async def streams(
        self, opening: Sequence[mcp.JSONRPCMessage] = ()
    ) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
        """The two message streams that an MCP server runs on; `opening` was read already."""
        in_send, in_receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        out_send, out_receive = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_into, in_send, opening)
            tasks.start_soon(self._write_from, out_receive)
            yield in_receive, out_send
            tasks.cancel_scope.cancel()

    async def _read_into(
        self,
        sink: MemoryObjectSendStream[SessionMessage | Exception],
        opening: Sequence[mcp.JSONRPCMessage],
    ) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with sink:
                for message in opening:
                    if isinstance(message, mcp.JSONRPCRequest):
                        self._count(+1)
                    await sink.send(SessionMessage(message))
                while (line := await self._next_line()) is not None:
                    message = await self._parse(line)
                    if message is None:
                        continue
                    if isinstance(message, mcp.JSONRPCRequest):
                        self._count(+1)
                    await sink.send(SessionMessage(message))
                await self._let_answers_out()

    async def _let_answers_out(self) -> None:
        """The other side closed its end: what runs may still finish, for a bounded time.

        Bounded because a request that was cancelled is never answered.
        """
        self.on_end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self._answered.wait()

    async def _write_from(self, source: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with source:
            async for item in source:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                if isinstance(item.message, mcp.JSONRPCResponse | mcp.JSONRPCError):
                    self._count(-1)
                await self._send(text.encode() + b"\n")

    def _count(self, change: int) -> None:
        """Keep track of requests that were read and not answered yet."""
        self._open_requests += change
        if self._open_requests > 0:
            self._answered.clear()
        else:
            self._answered.set()

    async def _next_line(self) -> bytes | None:
        """The next line, or None at the end. One that is too long is skipped and answered."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                return end.partial or None
            except asyncio.LimitOverrunError as overrun:
                await self._skip_line(overrun.consumed)
                await self._refuse(
                    INVALID_REQUEST, f"A message is longer than {MAX_LINE_BYTES} bytes"
                )
            except ConnectionError:
                return None
            else:
                if line.strip():
                    return line

    async def _skip_line(self, consumed: int) -> None:
        while True:
            try:
                await self._reader.readexactly(consumed)
                await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as overrun:
                consumed = overrun.consumed
            except asyncio.IncompleteReadError:
                return
            else:
                return

    async def _parse(self, line: bytes) -> mcp.JSONRPCMessage | None:
        try:
            message = mcp.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError:
            pass
        else:
            # A request whose id is unusable (null, an object) also fits the model of a
            # notification, and would wait for its answer for ever.
            if not isinstance(message, mcp.JSONRPCNotification) or "id" not in json.loads(line):
                return message
        code, text, request_id = _diagnose(line)
        await self._refuse(code, text, request_id)
        return None

    async def _raw(self, line: bytes) -> dict[str, Any] | None:
        """A request or a notification as it came; what is neither is answered or dropped."""
        try:
            found = from_json(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            fields = cast("dict[str, Any]", found)
            params = fields.get("params")
            if (
                fields.get("jsonrpc") == "2.0"
                and isinstance(fields.get("method"), str)
                and (params is None or isinstance(params, dict))
                and ("id" not in fields or type(fields["id"]) in (int, str))
            ):
                return fields
        await self._parse(line)
        return None

    async def _refuse(self, code: int, text: str, request_id: str | int | None = None) -> None:
        error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
        await self._send(json.dumps(error).encode() + b"\n")

    async def _send(self, line: bytes) -> None:
        # A client that hung up wants no answer; the reading side sees the end too.
        with contextlib.suppress(ConnectionError):
            self._writer.write(line)
            await self._writer.drain()


async def serve_lines(app: FastMCP[Any], wire: LineWire) -> None:
    """Serve one connection until the other side closes it."""
    server = app._mcp_server
    async with app._lifespan_manager():
        make_lean()
        opening = await wire.opening()
        last = opening[-1] if opening else None
        if isinstance(last, mcp.JSONRPCRequest) and opens_modern(last.method, last.params):
            async with server.lifespan(server) as state:
                await wire.serve_modern(app, state, opening)
        else:
            async with wire.streams(opening) as (read, write):
                await server.run(read, write, server.create_initialization_options())


@asynccontextmanager
async def stdio_wire() -> AsyncGenerator[LineWire]:
    """This process's stdin and stdout as a wire.

    While it is open, fd 0 is /dev/null and fd 1 is stderr, so that a child or a stray print can
    neither eat requests nor break the stream of answers.
    """
    private_in = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    private_out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    writer = await _connect(private_in, private_out, reader)
    try:
        yield LineWire(reader, writer)
    finally:
        with contextlib.suppress(ConnectionError, OSError):
            await writer.drain()
        writer.close()


async def _connect(fd_in: int, fd_out: int, reader: asyncio.StreamReader) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    source = os.fdopen(fd_in, "rb", buffering=0)
    sink = os.fdopen(fd_out, "wb", buffering=0)
    if _can_wait(fd_in):
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    else:
        # A plain file or /dev/null (`server < requests.jsonl`) cannot be polled, nor does it block.
        reader.feed_data(source.read())
        reader.feed_eof()
    if not _can_wait(fd_out):
        raise HostError(
            "stdout is a plain file or a null device; MCP over stdio needs a pipe.",
            fix="Start the server from an MCP client, or pipe its output (`… | cat > file`).",
            code="stdout_unusable",
        )
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), sink
    )
    # drain() then waits until the last byte has left: an answer must not die with the process.
    transport.set_write_buffer_limits(high=0)
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _can_wait(fd: int) -> bool:
    """Whether the event loop can wait for this descriptor."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))


def _diagnose(line: bytes) -> tuple[int, str, str | int | None]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        return PARSE_ERROR, f"Parse error: {error}", None
    found = cast("dict[str, object]", message).get("id") if isinstance(message, dict) else None
    request_id = found if isinstance(found, str | int) and not isinstance(found, bool) else None
    return INVALID_REQUEST, "Not a JSON-RPC 2.0 message", request_id
