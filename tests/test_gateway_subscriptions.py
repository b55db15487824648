"""Subscriptions to resources through the gateway: both eras before it, both eras behind it.

Who has subscribed hears of a change, and nobody else; the server's process may end meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as mcp
import pytest
from mcp.client.subscriptions import listen

from .daemon_harness import WAYS, Daemon, Installation, Way, subscribe, text, unsubscribe, wait_for

SERVER = str(Path(__file__).with_name("subscribing_server.py"))
OVER_PIPES = ("modern", "legacy")
BACKENDS = (*OVER_PIPES, "remote")
every_backend = pytest.mark.parametrize("server", BACKENDS)
WAIT_SECONDS = 20.0


@pytest.fixture(scope="module")
def watched_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("watched"))
    home.without_suite()
    command = f"command = {json.dumps([sys.executable, SERVER])}"
    for era in OVER_PIPES:
        home.manifest(era, f'{command}\nera = "{era}"')
    for name in ("sleepy", "unheard"):
        home.manifest(name, f"{command}\nidle_after_seconds = 0.3")
    with elsewhere() as port:
        home.manifest("remote", f'url = "http://127.0.0.1:{port}/mcp"')
        try:
            yield home
        finally:
            home.close()


@contextlib.contextmanager
def elsewhere() -> Generator[int]:
    """The same server behind an address, in the new era."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, SERVER, "http", str(port)])

    def listens() -> bool:
        assert process.poll() is None, "it ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def watched(watched_home: Installation) -> Iterator[Daemon]:
    with watched_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(watched_home: Installation) -> str:
    return watched_home.token("watcher")


class Updates:
    """What one client of the handshake era was told of."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._news = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, mcp.ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))
            self._news.set()

    async def more_than(self, count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.uris) <= count:
                self._news.clear()
                await self._news.wait()


async def touch(client: Any, server: str, name: str) -> None:
    uri = f"counter://{name}"
    assert int(text(await client.call_tool("touch", {"uri": uri}))) > 0, server


@pytest.mark.parametrize("way", WAYS)
@every_backend
async def test_a_client_of_the_handshake_era_subscribes(
    watched: Daemon, key: str, way: Way, server: str
) -> None:
    heard, other = Updates(), Updates()
    async with (
        watched.client(way, "legacy", server=server, token=key, messages=heard) as client,
        watched.client(way, "legacy", server=server, token=key, messages=other) as idle,
    ):
        assert client.initialize_result
        assert client.initialize_result.capabilities.resources
        assert client.initialize_result.capabilities.resources.subscribe is True
        await subscribe(client, "counter://a")
        await touch(idle, server, "b")
        await touch(idle, server, "a")
        await heard.more_than(0)
        assert set(heard.uris) == {"counter://a"}
        await unsubscribe(client, "counter://a")
        count = len(heard.uris)
        await touch(client, server, "a")
        # What would be sent for that change would come over another stream than an answer.
        await asyncio.sleep(0.2)
        assert len(heard.uris) == count
        assert other.uris == []


@every_backend
async def test_two_subscribers_and_one_that_leaves(watched: Daemon, key: str, server: str) -> None:
    stays = Updates()
    async with watched.client("http", "legacy", server=server, token=key, messages=stays) as one:
        await subscribe(one, "counter://a")
        async with watched.client("stdio", "legacy", server=server) as two:
            await subscribe(two, "counter://a")
        await touch(one, server, "a")
        await stays.more_than(0)


@pytest.mark.parametrize("way", WAYS)
@every_backend
async def test_a_client_of_the_new_era_listens(
    watched: Daemon, key: str, way: Way, server: str
) -> None:
    async with (
        watched.client(way, server=server, token=key) as client,
        listen(client.session, resource_subscriptions=["counter://a"]) as stream,
    ):
        assert stream.honored.resource_subscriptions == ["counter://a"]
        await touch(client, server, "b")
        await touch(client, server, "a")
        async with asyncio.timeout(WAIT_SECONDS):
            async for event in stream:
                assert getattr(event, "uri", None) == "counter://a"
                break


@pytest.mark.parametrize("server", OVER_PIPES)
async def test_a_subscription_outlives_the_servers_process(
    watched: Daemon, key: str, server: str
) -> None:
    heard = Updates()
    async with watched.client("stdio", "legacy", server=server, messages=heard) as client:
        await subscribe(client, "counter://a")
        pid = await asyncio.to_thread(watched.kill, server)
        await asyncio.to_thread(wait_for, lambda: watched.server(server)["pid"] not in (pid, None))
        await asyncio.to_thread(watched.wait_state, server, "ready")
        async with asyncio.timeout(WAIT_SECONDS):
            # Subscribing again to the new process takes a moment.
            while not heard.uris:
                await touch(client, server, "a")
                await asyncio.sleep(0.1)
        assert set(heard.uris) == {"counter://a"}


async def test_the_union_names_resources_by_their_server(watched: Daemon, key: str) -> None:
    heard = Updates()
    async with watched.client("http", "legacy", token=key, messages=heard) as client:
        await subscribe(client, "legacy+counter://a")
        for server in BACKENDS:
            await client.call_tool(f"{server}__touch", {"uri": "counter://a"})
        await heard.more_than(0)
        assert set(heard.uris) == {"legacy+counter://a"}


async def test_a_server_gets_one_subscription_for_all(watched: Daemon, key: str) -> None:
    """And none any more of whoever has gone, in whatever way."""
    async with watched.client("http", server="modern", token=key) as client:

        async def open_ones() -> list[list[str]]:
            found = json.loads(text(await client.call_tool("watched", {})))
            return [one for one in found if one]

        async def are_open(*expected: list[str]) -> None:
            async with asyncio.timeout(WAIT_SECONDS):
                # Each look is a round trip.
                while await open_ones() != list(expected):
                    pass

        a, b = "counter://a", "counter://b"
        await are_open()
        async with watched.client("http", "legacy", server="modern", token=key) as old:
            await subscribe(old, b)
            await are_open([b])
            async with listen(client.session, resource_subscriptions=[a, b]):
                await are_open([a, b])
            await are_open([b])
            await subscribe(old, a)
            await unsubscribe(old, b)
            await are_open([a])
        await are_open()
        with watched.wire("modern") as wire:
            wire.begin("subscriptions/listen", notifications={"resourceSubscriptions": [a]})
            assert wire.message()["method"] == "notifications/subscriptions/acknowledged"
            assert await open_ones() == [[a]], "acknowledged before the server knew of it"
            wire.process.kill()
            await are_open()


async def test_a_stream_that_the_server_ends_is_opened_again(watched: Daemon, key: str) -> None:
    heard = Updates()
    async with watched.client("http", "legacy", server="modern", token=key, messages=heard) as one:
        await subscribe(one, "counter://a")
        await one.call_tool("hang_up", {})
        # What changed meanwhile nobody knows, so whoever watches is told.
        await heard.more_than(0)
        count = len(heard.uris)
        await touch(one, "modern", "a")
        await heard.more_than(count)
        assert set(heard.uris) == {"counter://a"}


@pytest.mark.parametrize("server", ["modern", "remote"])
async def test_a_list_changes_of_which_only_those_hear_who_listen(
    watched: Daemon, key: str, server: str
) -> None:
    news = asyncio.Event()

    async def note(message: Any) -> None:
        if isinstance(message, mcp.ResourceListChangedNotification):
            news.set()

    uri = f"counter://{server}-added"
    async with watched.client("stdio", "legacy", server=server, messages=note) as client:
        await client.call_tool("add", {"uri": uri})
        async with asyncio.timeout(WAIT_SECONDS):
            await news.wait()
        assert uri in {str(one.uri) for one in await client.list_resources()}


async def test_only_what_can_be_watched_is_acknowledged(watched: Daemon, key: str) -> None:
    wanted = ["counter://a", "counter://none", "other://x"]
    async with (
        watched.client("http", server="modern", token=key) as client,
        listen(client.session, resource_subscriptions=wanted) as stream,
    ):
        assert stream.honored.resource_subscriptions == ["counter://a"]


async def test_a_server_that_is_watched_does_not_sleep(
    watched: Daemon, watched_home: Installation
) -> None:
    """But for a client that would not hear of it."""
    key = watched_home.token("sleeper")
    said = {"protocolVersion": "2025-11-25", "capabilities": {}}
    opening = {**said, "clientInfo": {"name": "away", "version": "1"}}
    async with watched.client("stdio", "legacy", server="sleepy") as client:
        await subscribe(client, "counter://a")
        opened = watched.post(plain("initialize", 1, **opening), server="unheard", token=key)
        session = {"mcp_session_id": opened.headers["mcp-session-id"]}
        for line in (
            plain("notifications/initialized"),
            plain("resources/subscribe", 2, uri="counter://a"),
        ):
            done = watched.post(line, server="unheard", token=key, **session)
            assert done.is_success and "error" not in done.text, done.text
        await asyncio.to_thread(watched.wait_state, "unheard", "hibernated")
        assert watched.server("sleepy")["state"] == "ready"
        headers = {
            "Authorization": f"Bearer {key}",
            "Accept": "text/event-stream",
            "Mcp-Session-Id": session["mcp_session_id"],
        }
        # It comes back, and the server wakes for it.
        with httpx2.stream("GET", f"{watched.url}/unheard", headers=headers, timeout=30) as stream:
            assert stream.status_code == 200
            await asyncio.to_thread(watched.wait_state, "unheard", "ready")
    for server in ("sleepy", "unheard"):
        await asyncio.to_thread(watched.wait_state, server, "hibernated")


def plain(method: str, number: int | None = None, **params: Any) -> bytes:
    """One message of the handshake era."""
    numbered = {} if number is None else {"id": number}
    return json.dumps({"jsonrpc": "2.0", **numbered, "method": method, "params": params}).encode()
