"""Bounds of the sessions that clients have at servers: how many, and for how long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, cast

import pytest

from hostwright import client_sessions as module
from hostwright.client_sessions import ClientSessions
from hostwright.gateway.asker import Origin
from hostwright.gateway.catalog import Catalog
from hostwright.gateway.codec import RpcError
from hostwright.gateway.peer import Peer
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.status import Activity
from hostwright.manifest import Manifest
from hostwright_kit.errors import HostError

_numbers = itertools.count()


class FakeProcess:
    target = None

    def clean(self, text: str) -> str:
        return text


class FakeKeeper:
    """Opens what is asked for, and remembers what was ended."""

    def __init__(self) -> None:
        self.opened: list[FakeProcess] = []
        self.ended: list[FakeProcess] = []

    async def wait_ready(self, name: str, *, timeout_seconds: float) -> None:
        """It always is."""

    async def open_session(self, name: str) -> FakeProcess:
        self.opened.append(FakeProcess())
        return self.opened[-1]

    async def end_session(self, process: FakeProcess) -> None:
        self.ended.append(process)


class FakeLink:
    """A link to a server that offers nothing."""

    legacy, alive, server = True, True, "demo"

    def __init__(self) -> None:
        self.now = Activity()

    def activity(self) -> Activity:
        return self.now

    async def check(self) -> None:
        """It answers."""

    async def close(self) -> None:
        self.alive = False


def _make(*_: object) -> FakeLink:
    return FakeLink()


class World:
    """Sessions of one server, and what stands behind them."""

    def __init__(self, **manifest: Any) -> None:
        self.keeper = FakeKeeper()
        self.refuse: Exception | None = None
        self.meeting = asyncio.Event()
        self.meeting.set()
        catalog = Catalog(lambda _: False, lambda _server, _tool: True)
        self.sessions = ClientSessions(
            catalog,
            cast("Any", _make),
            cast("Any", self._meet),
            keeper=lambda: cast("Keeper", self.keeper),
            tells=lambda: None,
        )
        made = Manifest(name="demo", command=("demo",), session="per-client", **manifest)
        self.sessions.adopt([made])

    async def _meet(self, _: object) -> Mapping[str, Any]:
        await self.meeting.wait()
        if self.refuse is not None:
            raise self.refuse
        return {}

    async def link(self, peer: Peer) -> FakeLink:
        return cast("FakeLink", await self.sessions.link("demo", peer))


def peer(transport: Any = "http", connection: object | None = None) -> Peer:
    return Peer(connection, Origin(transport), f"client {next(_numbers)}", "1", b"{}")


async def test_a_server_has_no_more_sessions_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    world = World()
    first = peer()
    await world.link(first)
    await world.link(peer())
    with pytest.raises(HostError, match="2 clients have a session of demo already") as refused:
        await world.link(peer())
    assert refused.value.code == "busy"
    assert await world.link(first), "who has one goes on"
    await world.sessions.close()
    assert world.keeper.ended == world.keeper.opened


async def test_callers_of_one_client_wait_for_one_session() -> None:
    world, one = World(), peer()
    links = await asyncio.gather(*(world.link(one) for _ in range(5)))
    assert len(set(map(id, links))) == 1
    assert len(world.keeper.opened) == 1
    await world.sessions.close()


async def test_a_client_that_goes_while_its_session_is_opened_leaves_none() -> None:
    world, connection = World(), object()
    world.meeting.clear()
    waiting = asyncio.create_task(world.link(peer("stdio", connection)))
    while not world.keeper.opened:  # noqa: ASYNC110 - nothing would set an event here
        await asyncio.sleep(0)
    world.sessions.gone(connection)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await world.sessions.close()
    assert world.keeper.ended == world.keeper.opened


async def test_a_session_that_is_refused_says_why_and_leaves_nothing() -> None:
    world = World()
    world.refuse = RpcError(-32603, "no more")
    with pytest.raises(HostError, match="could not be opened: no more"):
        await world.link(peer())
    await world.sessions.close()
    assert world.keeper.ended == world.keeper.opened


@pytest.mark.parametrize(
    ("transport", "activity", "more", "ends"),
    [
        ("http", Activity(idle_seconds=4_000), {}, True),
        ("http", Activity(idle_seconds=4_000, in_flight=1), {}, False),
        ("http", Activity(idle_seconds=60), {}, False),
        ("stdio", Activity(idle_seconds=4_000), {}, False),
        ("stdio", Activity(idle_seconds=4_000), {"idle_after_seconds": 30.0}, True),
    ],
)
async def test_what_is_idle_for_long_ends_unless_its_client_is_there(
    transport: str,
    activity: Activity,
    more: dict[str, Any],
    ends: bool,
) -> None:
    world, one = World(**more), peer(transport, object())
    link = await world.link(one)
    link.now = activity
    session = world.sessions._open["demo", one]
    session.used -= activity.idle_seconds
    world.sessions._sweep()
    assert (world.sessions.ready("demo", one) is None) is ends
    await world.sessions.close()
