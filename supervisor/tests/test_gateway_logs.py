"""Log messages on their way from a server to whoever asked for them, and to nobody else."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

from hostwright.gateway import codec, logs
from hostwright.gateway.asker import CAPABILITIES_META, MODERN, VERSION_META, Origin
from hostwright.gateway.codec import Fields, RpcError
from hostwright.gateway.envelope import open_envelope
from hostwright.gateway.link import Link
from hostwright.gateway.peer import Peer as Client
from hostwright.gateway.questions import Question

from .test_gateway_link import ASKER, Peer, linked


class Hearer:
    """One client, with one request that runs."""

    def __init__(self, level: str | None) -> None:
        self.hearer = self
        self.log_level = level
        self.heard: list[str] = []

    attentive = True
    peer = Client(None, Origin("http"), "tester", "1", b"{}")

    def asked(self, question: Question) -> None:
        raise AssertionError(question.method)

    def logged(self, params: Raw) -> None:
        self.heard.append(codec.value(params)["data"])


def call(link: Link, hearer: Hearer) -> int:
    params: Fields = {"name": Raw(b'"x"')}
    return link.send("tools/call", params, ASKER, lambda _result, _error: None, None, hearer)


async def sent_level(peer: Peer) -> str | None:
    return (await peer.next())["params"]["_meta"].get(logs.LOG_META)


async def say(link: Link, peer: Peer, data: str) -> None:
    params = {"level": "info", "data": data}
    peer.say({"method": logs.MESSAGE, "params": params})
    # What comes back afterwards shows that it was read.
    asking = asyncio.create_task(link.request("ping", {}))
    peer.answer(await peer.next())
    await asking


async def test_a_server_logs_for_one_client_at_a_time() -> None:
    first, second, silent = Hearer("debug"), Hearer("info"), Hearer(None)
    async with linked() as (link, peer):
        running = call(link, first)
        assert await sent_level(peer) == "debug"
        call(link, silent)
        assert await sent_level(peer) is None
        call(link, second)
        assert await sent_level(peer) is None, "nobody could tell whose messages come"
        await say(link, peer, "of the first")
        peer.say({"id": running, "result": {}})
        await say(link, peer, "of nobody that runs")
        call(link, second)
        assert await sent_level(peer) == "info"
        await say(link, peer, "of the second")
    assert first.heard == ["of the first"]
    assert second.heard == ["of the second"]
    assert not silent.heard


async def test_calls_of_one_session_may_be_logged_together() -> None:
    session, again = Hearer("debug"), Hearer("debug")
    again.hearer = session
    async with linked() as (link, peer):
        call(link, session)
        call(link, again)
        assert [await sent_level(peer), await sent_level(peer)] == ["debug", "debug"]


async def test_what_a_server_of_the_handshake_era_logs_belongs_to_no_request() -> None:
    heard: list[str] = []

    def note(method: str, params: Raw) -> None:
        heard.append(f"{method} {codec.value(params)['data']}")

    hearer = Hearer("debug")
    async with linked(notified=note) as (link, peer):
        link.legacy = True
        call(link, hearer)
        assert "_meta" not in (await peer.next())["params"]
        await say(link, peer, "something")
    assert heard == ["notifications/message something"]
    assert not hearer.heard


@pytest.mark.parametrize(
    ("level", "said", "heard"),
    [
        ("info", "info", True),
        ("info", "emergency", True),
        ("info", "debug", False),
        ("info", "loud", False),
        (None, "emergency", False),
    ],
)
def test_a_level_lets_through_what_is_as_grave(level: str | None, said: str, heard: bool) -> None:
    params = Raw(codec.encode({"level": said, "data": 1}))
    assert logs.is_wanted(params, level) is heard


@pytest.mark.parametrize("params", [b"", b"[]", b"null", b"{}", b'{"level":7}'])
def test_what_is_no_log_message_is_not_heard(params: bytes) -> None:
    assert not logs.is_wanted(Raw(params), "debug")


def test_many_sessions_set_the_lowest_level() -> None:
    assert logs.lowest(["error", None, "notice"]) == "notice"
    assert logs.lowest([None]) is None


def envelope(level: bytes) -> Fields:
    meta = {VERSION_META: MODERN, CAPABILITIES_META: {}, logs.LOG_META: Raw(level)}
    return {"_meta": Raw(codec.encode(meta))}


def test_a_request_says_its_level_in_its_envelope() -> None:
    assert open_envelope("ping", envelope(b'"alert"'), Origin("http")).log_level == "alert"
    assert open_envelope("ping", envelope(b"null"), Origin("http")).log_level is None
    with pytest.raises(RpcError, match="logLevel is one of"):
        open_envelope("ping", envelope(b'"loud"'), Origin("http"))
