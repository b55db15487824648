"""The one subscription to a server of the new era, against a peer on a socket pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec import Raw

from hostwright.gateway import upstream as module
from hostwright.gateway.asker import SUBSCRIPTION_META
from hostwright.gateway.behind import Behind
from hostwright.gateway.codec import RpcError
from hostwright.gateway.link import Link
from hostwright.gateway.peer import Site
from hostwright.gateway.upstream import ACKNOWLEDGED, LISTEN, Upstream

from .test_gateway_link import Peer, linked


class World:
    """One server, and what is watched there."""

    site = Site("demo")

    def __init__(self) -> None:
        self.declared: dict[str, Any] = {"resources": {"subscribe": True}}
        self.watched: list[str] = []
        self.missed: asyncio.Queue[Site] = asyncio.Queue()
        self.upstream = Upstream(
            cast("Behind", self), lambda _: self.watched, self.missed.put_nowait
        )
        self.link_now: Link | None = None
        self.peer: Peer

    def capabilities(self, server: str) -> dict[str, Any]:
        assert server == self.site.server
        return self.declared

    def ready(self, server: str, client: object = None) -> Link | None:
        assert client is None
        assert server == self.site.server
        return self.link_now

    async def link(self, server: str, client: object = None) -> Link:
        found = self.ready(server, client)
        assert found
        return found

    def hear(self, method: str, params: Raw) -> None:
        assert method == ACKNOWLEDGED
        self.upstream.acknowledged(self.site, params)

    def watch(self, uri: str) -> asyncio.Task[None]:
        self.watched.append(uri)
        return asyncio.create_task(self.upstream.watch(self.site, uri))

    def unwatch(self, uri: str) -> None:
        self.watched.remove(uri)
        self.upstream.unwatch(self.site, uri)

    def acknowledge(self, asked: dict[str, Any]) -> None:
        meta = {SUBSCRIPTION_META: asked["id"]}
        self.peer.say({"method": ACKNOWLEDGED, "params": {"notifications": {}, "_meta": meta}})

    async def listened(self) -> dict[str, Any]:
        """The next message, which is a subscription."""
        asked = await self.peer.next()
        assert asked["method"] == LISTEN, asked
        return asked

    async def cancelled(self) -> int:
        told = await self.peer.next()
        assert told["method"] == "notifications/cancelled", told
        return int(told["params"]["requestId"])


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    found = World()
    async with linked(notified=found.hear) as (link, peer):
        found.link_now, found.peer = link, peer
        yield found


def wanted(asked: dict[str, Any]) -> dict[str, Any]:
    return asked["params"]["notifications"]


async def test_the_next_stream_is_open_before_the_last_is_given_up() -> None:
    async with world() as w:
        first_watch = w.watch("x://a")
        first = await w.listened()
        assert wanted(first) == {"resourceSubscriptions": ["x://a"]}
        assert not first_watch.done()
        w.acknowledge(first)
        await first_watch
        second_watch = w.watch("x://b")
        second = await w.listened()
        assert wanted(second) == {"resourceSubscriptions": ["x://a", "x://b"]}
        w.acknowledge(second)
        assert await w.cancelled() == first["id"]
        await second_watch
        for uri in ("x://a", "x://b"):
            w.unwatch(uri)
        # Both are gone before the first of the two is looked at.
        assert await w.cancelled() == second["id"]
        w.watch("x://c")
        assert wanted(await w.listened()) == {"resourceSubscriptions": ["x://c"]}


async def test_who_wants_more_while_a_stream_is_opened_is_in_the_next_one() -> None:
    async with world() as w:
        first_watch = w.watch("x://a")
        first = await w.listened()
        others = [w.watch(f"x://{number}") for number in range(20)]
        w.acknowledge(first)
        await first_watch
        second = await w.listened()
        assert len(wanted(second)["resourceSubscriptions"]) == 21
        w.acknowledge(second)
        await asyncio.gather(*others)
        assert await w.cancelled() == first["id"]


async def test_only_the_acknowledgement_of_this_very_stream_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    async with world() as w:
        watching = w.watch("x://a")
        asked = await w.listened()
        for meta in ({SUBSCRIPTION_META: asked["id"] + 1}, {SUBSCRIPTION_META: "1"}, {}, 7, None):
            w.peer.say({"method": ACKNOWLEDGED, "params": {"_meta": meta}})
        w.peer.say({"method": ACKNOWLEDGED})
        with pytest.raises(RpcError, match="did not acknowledge"):
            await watching
        assert await w.cancelled() == asked["id"]


async def test_a_refusal_is_told_and_the_stream_of_before_stays() -> None:
    async with world() as w:
        first_watch = w.watch("x://a")
        first = await w.listened()
        w.acknowledge(first)
        await first_watch
        watching = w.watch("x://b")
        await w.peer.refuse()
        with pytest.raises(RpcError, match="no"):
            await watching
        w.unwatch("x://b")
        # Nothing is asked: the stream that is open is what is wanted.
        w.unwatch("x://a")
        assert await w.cancelled() == first["id"]


async def test_a_stream_that_ends_is_opened_again_and_what_was_missed_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    async with world() as w:
        w.declared["tools"] = {"listChanged": True}
        watching = w.watch("x://a")
        first = await w.listened()
        w.acknowledge(first)
        await watching
        assert w.missed.empty()
        w.peer.answer(first)
        # It refuses for a while, in its own way.
        asked = await w.listened()
        w.peer.say({"id": asked["id"], "error": {"code": -32603, "message": "later"}})
        again = await w.listened()
        assert wanted(again) == {"toolsListChanged": True, "resourceSubscriptions": ["x://a"]}
        assert w.missed.empty()
        w.acknowledge(again)
        assert await asyncio.wait_for(w.missed.get(), 5) == w.site


async def test_a_server_that_has_nothing_to_tell_is_not_asked() -> None:
    async with world() as w:
        w.upstream.renew(w.site)
        w.declared["tools"] = {"listChanged": False}
        w.upstream.renew(w.site)
        w.declared["prompts"] = {"listChanged": True}
        w.upstream.renew(w.site)
        assert wanted(await w.listened()) == {"promptsListChanged": True}


async def test_of_the_handshake_era_each_resource_is_subscribed_to_once() -> None:
    async with world() as w:
        assert w.link_now
        w.link_now.legacy = True
        watching = w.watch("x://a")
        asked = await w.peer.next()
        assert (asked["method"], asked["params"]["uri"]) == ("resources/subscribe", "x://a")
        w.peer.answer(asked)
        await watching
        await asyncio.create_task(w.upstream.watch(w.site, "x://a"))
        w.unwatch("x://a")
        asked = await w.peer.next()
        assert (asked["method"], asked["params"]["uri"]) == ("resources/unsubscribe", "x://a")
        w.peer.answer(asked)
        w.watch("x://a")
        assert (await w.peer.next())["method"] == "resources/subscribe"
