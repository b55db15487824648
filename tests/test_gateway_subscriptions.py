"""Subscriptions to resources through the gateway: both eras before it, both eras behind it.

Who has subscribed hears of a change, and nobody else; the server's process may end meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp_types as mcp
import pytest
from mcp.client.subscriptions import listen

from .daemon_harness import WAYS, Daemon, Installation, Way, subscribe, text, unsubscribe, wait_for

SERVER = str(Path(__file__).with_name("subscribing_server.py"))
NOT_YET = pytest.mark.xfail(
    strict=True, reason="subscriptions to resources do not reach servers of the new era"
)
BACKENDS = ("modern", "legacy")
every_backend = pytest.mark.parametrize("server", [pytest.param("modern", marks=NOT_YET), "legacy"])
# For the one the wait is in vain.
WAIT_SECONDS = {"modern": 2.0, "legacy": 20.0}


@pytest.fixture(scope="module")
def watched_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("watched"))
    home.without_suite()
    for era in BACKENDS:
        command = json.dumps([sys.executable, SERVER])
        home.manifest(era, f'command = {command}\nera = "{era}"')
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def watched(watched_home: Installation) -> Iterator[Daemon]:
    with watched_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(watched_home: Installation) -> str:
    return watched_home.token("watcher")


class Updates:
    """What one client of the handshake era was told of."""

    def __init__(self, server: str) -> None:
        self.uris: list[str] = []
        self._patience = WAIT_SECONDS[server]
        self._news = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, mcp.ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))
            self._news.set()

    async def more_than(self, count: int) -> None:
        async with asyncio.timeout(self._patience):
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
    heard, other = Updates(server), Updates(server)
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
    stays = Updates(server)
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
        async with asyncio.timeout(WAIT_SECONDS[server]):
            async for event in stream:
                assert getattr(event, "uri", None) == "counter://a"
                break


@every_backend
async def test_a_subscription_outlives_the_servers_process(
    watched: Daemon, key: str, server: str
) -> None:
    heard = Updates(server)
    async with watched.client("stdio", "legacy", server=server, messages=heard) as client:
        await subscribe(client, "counter://a")
        pid = await asyncio.to_thread(watched.kill, server)
        await asyncio.to_thread(wait_for, lambda: watched.server(server)["pid"] not in (pid, None))
        await asyncio.to_thread(watched.wait_state, server, "ready")
        async with asyncio.timeout(WAIT_SECONDS[server]):
            # Subscribing again to the new process takes a moment.
            while not heard.uris:
                await touch(client, server, "a")
                await asyncio.sleep(0.1)
        assert set(heard.uris) == {"counter://a"}


async def test_the_union_names_resources_by_their_server(watched: Daemon, key: str) -> None:
    heard = Updates("legacy")
    async with watched.client("http", "legacy", token=key, messages=heard) as client:
        await subscribe(client, "legacy+counter://a")
        for server in BACKENDS:
            await client.call_tool(f"{server}__touch", {"uri": "counter://a"})
        await heard.more_than(0)
        assert set(heard.uris) == {"legacy+counter://a"}
