"""Tokens that change while their clients are connected: what is open sees it, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as mcp
import pytest
from mcp.client.subscriptions import SubscriptionLost, ToolsListChanged, listen

from .daemon_harness import Daemon, Installation, subscribe, text

SERVER = str(Path(__file__).with_name("subscribing_server.py"))
SECONDS = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("tokens"))
    home.without_suite()
    home.third_party("alpha")
    home.third_party("beta")
    home.manifest("counted", f"command = {json.dumps([sys.executable, SERVER])}")
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def daemon(home: Installation) -> Iterator[Daemon]:
    with home.up() as daemon:
        yield daemon


class Heard:
    """What one client of the handshake era was told."""

    def __init__(self) -> None:
        self.changes = 0
        self.updates: list[str] = []
        self._news = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        self.changes += isinstance(message, mcp.ToolListChangedNotification)
        if isinstance(message, mcp.ResourceUpdatedNotification):
            self.updates.append(str(message.params.uri))
        self._news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()


async def cli(home: Installation, *words: str) -> None:
    await asyncio.to_thread(home.cli, *words)


async def servers_seen(client: Any) -> set[str]:
    names = [tool.name.partition("__") for tool in await client.list_tools()]
    return {server for server, bar, _ in names if bar}


async def test_a_change_is_told_to_those_whom_it_concerns(
    home: Installation, daemon: Daemon
) -> None:
    key, other_key = home.token("changing"), home.token("constant")
    heard, other = Heard(), Heard()
    async with (
        daemon.client("http", "legacy", token=key, messages=heard) as old,
        daemon.client("http", "legacy", token=other_key, messages=other) as constant,
        daemon.client("http", token=key) as new,
    ):
        async with listen(new.session, tools_list_changed=True) as stream:
            await cli(home, "token", "changing", "--change", "--not-servers", "alpha")
            await heard.until(lambda: heard.changes)
            async with asyncio.timeout(SECONDS):
                assert await anext(aiter(stream)) == ToolsListChanged()
        for client in (old, new):
            assert await servers_seen(client) == {"beta", "counted"}
        assert await servers_seen(constant) == {"alpha", "beta", "counted"}
        await subscribe(constant, "counted+counter://b")
        await constant.call_tool("counted__touch", {"uri": "counter://b"})
        await other.until(lambda: other.updates)
        assert not other.changes
        # Its view is another one now, and what changes there is told.
        heard.changes = 0
        await cli(home, "token", "changing", "--change")
        await heard.until(lambda: heard.changes)
        assert await servers_seen(old) == {"alpha", "beta", "counted"}


async def test_of_what_is_hidden_nobody_hears_any_more(home: Installation, daemon: Daemon) -> None:
    key = home.token("watching")
    heard = Heard()
    uri = "counted+counter://a"
    async with (
        daemon.client("http", "legacy", token=key, messages=heard) as old,
        daemon.client("http", token=key) as new,
        daemon.client() as owner,
    ):
        await subscribe(old, uri)
        async with listen(new.session, resource_subscriptions=[uri]) as stream:
            assert stream.honored.resource_subscriptions == [uri]
            await owner.call_tool("counted__touch", {"uri": "counter://a"})
            async with asyncio.timeout(SECONDS):
                await anext(aiter(stream))
            await cli(home, "token", "watching", "--change", "--not-servers", "counted")
            async with asyncio.timeout(SECONDS):
                # The server need not tell of it any more.
                while any(json.loads(text(await owner.call_tool("counted__watched", {})))):
                    pass
        assert set(heard.updates) == {uri}


async def test_streams_of_a_revoked_token_end(home: Installation, daemon: Daemon) -> None:
    key, good = home.token("revoked"), home.token("good")
    async with (
        daemon.client("http", token=good) as stays,
        listen(stays.session, tools_list_changed=True) as kept,
        daemon.client("http", token=key) as new,
        told(daemon, key) as events,
        told(daemon, good) as others,
    ):
        async with listen(new.session, tools_list_changed=True) as stream:
            await cli(home, "token", "revoked", "--revoke")
            async with asyncio.timeout(SECONDS):
                with contextlib.suppress(SubscriptionLost):
                    async for _ in stream:
                        """What its client lost it is told before."""
                async for _ in events:
                    """Until it ends."""
        with daemon.wire("alpha") as wire:
            await asyncio.to_thread(wire.ask, "tools/call", name="grow", arguments={})
        async with asyncio.timeout(SECONDS):
            assert await anext(aiter(kept)) == ToolsListChanged()
            assert (await anext(others))["server"] == "alpha"
    answer = await asyncio.to_thread(daemon.post, b"{}", token=key)
    assert answer.status_code == 401


@contextlib.asynccontextmanager
async def told(daemon: Daemon, key: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
    """What the holder of a token hears at `/events`."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=SECONDS) as client,
        client.stream("GET", f"{daemon.origin}/events") as answer,
    ):
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        while not (await anext(lines)).startswith(": listening"):
            pass

        async def found() -> AsyncGenerator[dict[str, Any]]:
            async for line in lines:
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

        yield found()


async def test_a_token_hears_of_what_it_sees_only(home: Installation, daemon: Daemon) -> None:
    rules = ("--servers", "alpha", "--servers", "beta", "--not-tools", "alpha__echo")
    made = await asyncio.to_thread(home.cli, "token", "narrow", *rules, "--json")
    narrow, wide = json.loads(made.stdout)["token"], home.token("wide")
    async with (
        daemon.client() as owner,
        told(daemon, narrow) as few,
        told(daemon, wide) as all_there_is,
    ):

        async def heard(events: AsyncIterator[dict[str, Any]], mark: str) -> list[str]:
            """The calls that were told before the mark, which is one more call."""
            found: list[str] = []
            async with asyncio.timeout(SECONDS):
                async for event in events:
                    if event["kind"] == "request.completed":
                        found.append(f"{event['server']}.{event['tool']}")
                        if found[-1] == mark:
                            return found
            pytest.fail(f"the stream ended after {found}")

        async def call(*names: str) -> None:
            for name in names:
                given = {"uri": "counter://a"} if name == "counted__touch" else {}
                await owner.call_tool(name, given)

        await call("counted__touch", "alpha__echo", "alpha__pid", "beta__echo")
        assert await heard(few, "beta.echo") == ["alpha.pid", "beta.echo"]
        calls = ["counted.touch", "alpha.echo", "alpha.pid", "beta.echo"]
        assert await heard(all_there_is, "beta.echo") == calls
        # It holds for the stream that is open, from the next event on.
        await cli(home, "token", "narrow", "--change", "--servers", "counted")
        await call("beta__echo", "alpha__pid", "counted__touch")
        assert await heard(few, "counted.touch") == ["counted.touch"]
