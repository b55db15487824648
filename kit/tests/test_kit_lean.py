"""What is left out of FastMCP changes no answer."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.providers import aggregate
from fastmcp.server.transforms import visibility

from hostwright_kit import lean, stdio
from hostwright_kit.stdio import LineWire, serve_lines

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test makes lean is as it was afterwards."""
    monkeypatch.setattr(aggregate, "gather", lean._gather)
    monkeypatch.setattr(visibility, "get_visibility_rules", lean._stored_rules)
    yield


def server(*, mounts: bool) -> FastMCP[Any]:
    app: FastMCP[Any] = FastMCP("lean", version="1")

    @app.tool
    async def echo(text: str) -> str:
        return text

    @app.tool
    async def broken() -> str:
        raise ToolError("it is broken")

    @app.tool
    async def hide(name: str, ctx: Context) -> str:
        await ctx.disable_components(names={name})
        return "hidden"

    @app.tool
    async def remember(text: str, ctx: Context) -> list[Any]:
        before = await ctx.get_state("said")
        await ctx.set_state("said", text)
        return [before, text]

    if mounts:
        inner: FastMCP[Any] = FastMCP("inner")

        @inner.tool
        async def deep(number: int) -> int:
            return number + 1

        app.mount(inner, namespace="inner")
    return app


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("tools/list", {}),
    ("tools/call", {"name": "echo", "arguments": {"text": "a"}}),
    ("tools/call", {"name": "echo", "arguments": {"text": 5}}),
    ("tools/call", {"name": "absent", "arguments": {}}),
    ("tools/call", {"name": "broken"}),
    ("tools/call", {"name": "inner_deep", "arguments": {"number": 1}}),
    ("tools/call", {"name": "remember", "arguments": {"text": "x"}}),
    ("tools/call", {"name": "remember", "arguments": {"text": "y"}}),
    ("tools/call", {"name": "hide", "arguments": {"name": "echo"}}),
    ("tools/call", {"name": "echo", "arguments": {"text": "hidden"}}),
    ("tools/list", {}),
    ("resources/list", {}),
    ("prompts/get", {"name": "absent"}),
]


async def answers(app: FastMCP[Any]) -> list[Any]:
    """What it answers, notifications included, one request after the other."""
    ours, theirs = socket.socketpair()
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(serve_lines(app, LineWire(their_reader, their_writer)))
    reader, writer = await asyncio.open_connection(sock=ours)
    found: list[Any] = []
    for number, (method, params) in enumerate(CALLS):
        message = {"jsonrpc": "2.0", "id": number, "method": method}
        line = json.dumps({**message, "params": {**params, "_meta": META}})
        writer.write(line.encode() + b"\n")
        while True:
            found.append(json.loads(await asyncio.wait_for(reader.readline(), 30)))
            if found[-1].get("id") == number:
                break
    writer.close()
    await serving
    their_writer.close()
    return found


@pytest.mark.parametrize("mounts", [False, True], ids=["one provider", "two providers"])
async def test_lean_or_not_the_answers_are_the_same(
    monkeypatch: pytest.MonkeyPatch, *, mounts: bool
) -> None:
    slim = await answers(server(mounts=mounts))
    monkeypatch.setattr(aggregate, "gather", lean._gather)
    monkeypatch.setattr(visibility, "get_visibility_rules", lean._stored_rules)
    monkeypatch.setattr(stdio, "make_lean", lambda: None)
    whole = await answers(server(mounts=mounts))
    assert slim == whole
    texts = json.dumps(whole)
    # It went the ways that it was to go.
    assert "it is broken" in texts
    assert "Unknown tool: 'echo'" in texts, "what was hidden is still to be seen"
    assert ('"result": 2' in texts) is mounts


async def said(text: str) -> str:
    await asyncio.sleep(0)
    return text


async def fails() -> str:
    raise ValueError("no")


@pytest.mark.parametrize(
    "makes",
    [[], [lambda: said("a")], [fails], [lambda: said("a"), fails, lambda: said("b")]],
    ids=["none", "one", "one that fails", "several"],
)
async def test_gather_of_few(makes: list[Callable[[], Awaitable[str]]]) -> None:
    async def outcome(gather: Callable[..., Awaitable[list[Any]]], *, exceptions: bool) -> str:
        try:
            return repr(await gather((make() for make in makes), return_exceptions=exceptions))
        except (ValueError, ExceptionGroup) as error:
            return repr(error)

    for exceptions in (True, False):
        ours = await outcome(lean.gather, exceptions=exceptions)
        assert ours == await outcome(lean._gather, exceptions=exceptions)


async def test_what_is_cancelled_is_no_result() -> None:
    sleeping = (asyncio.sleep(60) for _ in range(1))
    waiting = asyncio.ensure_future(lean.gather(sleeping, return_exceptions=True))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_a_request_leaves_open_is_closed_after_it() -> None:
    closed: list[str] = []
    app: FastMCP[Any] = FastMCP("closing")

    @app.tool
    async def hold(ctx: Context) -> str:
        stack = ctx.session._connection.exit_stack
        stack.callback(closed.append, "closed")
        return str(closed)

    ours, theirs = socket.socketpair()
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(serve_lines(app, LineWire(their_reader, their_writer)))
    async for line in _ask(ours, {"name": "hold", "arguments": {}}):
        assert json.loads(line)["result"]["structuredContent"] == {"result": "[]"}
    await serving
    their_writer.close()
    assert closed == ["closed"]


async def _ask(sock: socket.socket, params: dict[str, Any]) -> AsyncIterator[bytes]:
    reader, writer = await asyncio.open_connection(sock=sock)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    writer.write(json.dumps({**message, "params": {**params, "_meta": META}}).encode() + b"\n")
    yield await asyncio.wait_for(reader.readline(), 30)
    writer.close()


def test_the_first_list_brings_no_http_client_along() -> None:
    program = """
import sys
from hostwright_kit.lean import load_jsonref_alone
load_jsonref_alone()
assert "jsonref" in sys.modules and "requests" not in sys.modules
import jsonref
whole = {"a": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}
assert jsonref.replace_refs(whole, proxies=False)["a"] == {"type": "string"}
import requests
assert requests.Session
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
