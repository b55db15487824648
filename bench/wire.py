"""A raw MCP client, the same for every front, so small that it hardly shows in the figures.

JSON-RPC over streamable HTTP (one keep-alive connection, one request at a time) or over pipes
(lines, matched by id), in either protocol era: revision 2025-11-25 with `initialize` and a
session, or 2026-07-28 with everything in each request's `_meta`. No MCP library: theirs cost more
per call than some of the fronts that are measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from bench.http_pipe import HttpPipe

Era = Literal["legacy", "modern"]
LEGACY, MODERN = "2025-11-25", "2026-07-28"
CLIENT = {"name": "bench", "version": "1"}
MAX_LINE_BYTES = 16 * 1024 * 1024
ANSWER_SECONDS = 30.0
_META = "io.modelcontextprotocol/"

Params = Mapping[str, Any]
Answer = Callable[[], dict[str, Any]]


class WireError(Exception):
    """A front answered with an error, with something that is not MCP, or not at all."""


class Client(Protocol):
    """One MCP client, whatever it is connected by."""

    async def request(self, method: str, params: Params) -> dict[str, Any]:
        """The result of one request; an error of the protocol is raised."""
        ...

    async def fetch(self, method: str, params: Params) -> Answer:
        """Ask, and return when the whole answer is here; it is read by calling what is returned."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


async def call_tool(client: Client, tool: str, arguments: Params) -> dict[str, Any]:
    """One tool call; a tool's error is raised too, because no figure may count a failed call."""
    result = await client.request("tools/call", {"name": tool, "arguments": arguments})
    if result.get("isError") or result.get("resultType", "complete") != "complete":
        raise WireError(f"{tool} failed: {json.dumps(result)[:500]}")
    return result


async def tool_names(client: Client) -> list[str]:
    """What `tools/list` offers."""
    result = await client.request("tools/list", {})
    return [str(tool["name"]) for tool in result["tools"]]


def _message(number: int | None, method: str, params: Params, era: Era) -> bytes:
    filled = dict(params)
    if era == "modern":
        filled["_meta"] = {
            f"{_META}protocolVersion": MODERN,
            f"{_META}clientInfo": CLIENT,
            f"{_META}clientCapabilities": {},
        }
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": filled}
    if number is not None:
        message["id"] = number
    return json.dumps(message, separators=(",", ":")).encode()


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise WireError(str(message["error"])[:500])
    return cast("dict[str, Any]", message["result"])


class HttpClient:
    """Streamable HTTP: POST, answered as JSON or as an event stream that ends with the answer."""

    def __init__(self, url: str, *, era: Era = "legacy", token: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._era: Era = era
        self._fixed = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        )
        if token is not None:
            self._fixed += f"authorization: Bearer {token}\r\n"
        self._session = ""
        self._ids = itertools.count(1)
        self._pipe: HttpPipe | None = None

    async def open(self) -> HttpClient:
        """Connect and, in the era that has it, initialize."""
        if self._era == "legacy":
            params: Params = {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": CLIENT,
            }
            number = next(self._ids)
            headers, body = await self._post(_message(number, "initialize", params, "legacy"), "")
            agreed = _result(_answer(headers, body, number))["protocolVersion"]
            self._session = f"mcp-protocol-version: {agreed}\r\n"
            if name := headers.get("mcp-session-id"):
                self._session += f"mcp-session-id: {name}\r\n"
            ready = _message(None, "notifications/initialized", {}, "legacy")
            await self._post(ready, self._session)
        return self

    async def request(self, method: str, params: Params) -> dict[str, Any]:
        return (await self.fetch(method, params))()

    async def fetch(self, method: str, params: Params) -> Answer:
        number = next(self._ids)
        headers = self._session
        if self._era == "modern":
            headers = f"mcp-protocol-version: {MODERN}\r\nmcp-method: {method}\r\n"
            if method == "tools/call":
                headers += f"mcp-name: {params['name']}\r\n"
        body = _message(number, method, params, self._era)
        answered, content = await self._post(body, headers)
        return lambda: _result(_answer(answered, content, number))

    async def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    async def _post(self, body: bytes, extra: str) -> tuple[dict[str, str], bytes]:
        if self._pipe is None or self._pipe.closed:
            # Servers close connections that idled; every HTTP client opens another one.
            self._pipe = await HttpPipe.connect(self._host, self._port)
        head = f"{self._fixed}{extra}content-length: {len(body)}\r\n\r\n".encode()
        async with asyncio.timeout(ANSWER_SECONDS):
            status, headers, content = await self._pipe.exchange(head + body)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        if status not in (200, 202, 204):
            raise WireError(f"HTTP {status}: {content[:300]!r}")
        return headers, content


def _answer(headers: Mapping[str, str], body: bytes, number: int) -> dict[str, Any]:
    if headers.get("content-type", "").startswith("application/json"):
        return cast("dict[str, Any]", json.loads(body))
    for line in body.splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()):
            message = cast("dict[str, Any]", json.loads(data))
            if message.get("id") == number and "method" not in message:
                return message
    raise WireError(f"no answer in {body[:300]!r}")


class PipeClient:
    """Lines over the stdin and stdout of a process that this client starts and ends."""

    def __init__(self, argv: list[str], *, env: Mapping[str, str], era: Era = "legacy") -> None:
        self._argv = argv
        self._env = dict(env)
        self._era: Era = era
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the process at the other end."""
        return self._started().pid

    async def open(self, log: Path) -> PipeClient:
        """Start the process (its stderr goes to `log`) and, in the era that has it, initialize."""
        with log.open("ab") as sink:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=self._env,
                limit=MAX_LINE_BYTES,
            )
        self._reading = asyncio.create_task(self._read(self._process))
        if self._era == "legacy":
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
            await self.request("initialize", params)
            await self._write(_message(None, "notifications/initialized", {}, "legacy"))
        return self

    async def request(self, method: str, params: Params) -> dict[str, Any]:
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._write(_message(number, method, params, self._era))
                return _result(await future)
        finally:
            self._waiting.pop(number, None)

    async def fetch(self, method: str, params: Params) -> Answer:
        # A line is read to know whose it is, so that is part of it here.
        result = await self.request(method, params)
        return lambda: result

    async def close(self) -> None:
        process = self._started()
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(6):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    async def _write(self, message: bytes) -> None:
        stdin = self._started().stdin
        if stdin is None:
            raise WireError("the process has no stdin")
        stdin.write(message + b"\n")
        await stdin.drain()

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise WireError("the process was not started")
        return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        while process.stdout is not None and (line := await process.stdout.readline()):
            message = json.loads(line)
            future = self._waiting.get(message.get("id"))
            if "method" not in message and future is not None and not future.done():
                future.set_result(message)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WireError(f"{self._argv[0]} ended before it answered"))
