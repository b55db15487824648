"""The link to one server, against a peer on a socket pair that says what each test wants."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from hostwright.gateway import base_link as base
from hostwright.gateway import codec
from hostwright.gateway import link as module
from hostwright.gateway import opening as eras
from hostwright.gateway.asker import SUPERVISOR, Asker, Origin
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.base_link import Progress
from hostwright.gateway.codec import Fields, RpcError
from hostwright.gateway.lines import Lines, TooLong
from hostwright.gateway.link import Link
from hostwright.gateway.opening import open_link
from hostwright_kit.errors import HostError
from hostwright_kit.vouching import ACTOR_META

LIMIT = 4_000
ASKER = Asker(Origin("http", 7, "laptop"), "claude", "2", b'{"elicitation":{}}')


class Peer:
    """The other end: what it received, and what it says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def next(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._reader.readline(), 5)
        assert line, "the link hung up"
        return json.loads(line)

    def say(self, message: Mapping[str, Any] | bytes) -> None:
        if not isinstance(message, bytes):
            message = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.writer.write(message + b"\n")

    def answer(self, asked: Mapping[str, Any], **result: Any) -> None:
        self.say({"id": asked["id"], "result": result})

    async def refuse(self) -> dict[str, Any]:
        asked = await self.next()
        self.say({"id": asked["id"], "error": {"code": -32601, "message": "no"}})
        return asked


@asynccontextmanager
async def linked(**options: Any) -> AsyncGenerator[tuple[Link, Peer]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=LIMIT)
    peer_reader, peer_writer = await asyncio.open_connection(sock=theirs, limit=1 << 25)
    link = Link("demo", reader, writer, **options)
    link._lines = Lines(LIMIT)
    try:
        yield link, Peer(peer_reader, peer_writer)
    finally:
        await link.close()
        writer.close()
        peer_writer.close()


def ask(
    link: Link,
    method: str = "tools/call",
    *,
    params: Mapping[str, Any] | None = None,
    asker: Asker = SUPERVISOR,
    progress: Progress | None = None,
) -> asyncio.Task[dict[str, Any]]:
    """A request of a client's, waited for."""
    ready = {key: Raw(codec.encode(one)) for key, one in (params or {}).items()}
    return asyncio.create_task(
        link.awaited(lambda done: link.send(method, ready, asker, done, progress), link.cancel)
    )


async def test_a_server_of_the_new_era_is_asked_nothing_but_what_it_can() -> None:
    async with linked() as (link, peer):
        opening = asyncio.create_task(open_link(link, "auto"))
        asked = await peer.next()
        assert asked["method"] == "server/discover"
        peer.answer(asked, capabilities={"tools": {}})
        assert await opening == {"tools": {}}
        checking = asyncio.create_task(link.check())
        again = await peer.next()
        assert again["method"] == "server/discover"
        peer.answer(again)
        await checking


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_server_of_the_handshake_era_gets_its_handshake(era: Any) -> None:
    async with linked(link_key="k" * 64) as (link, peer):
        opening = asyncio.create_task(open_link(link, era))
        if era == "auto":
            assert (await peer.refuse())["method"] == "server/discover"
        asked = await peer.next()
        assert asked["method"] == "initialize"
        assert "_meta" not in asked["params"]
        peer.answer(asked, capabilities={"tools": {}}, protocolVersion="2025-11-25")
        assert await opening == {"tools": {}}
        assert (await peer.next())["method"] == "notifications/initialized"
        call = ask(link, params={"name": "x", "_meta": {"a": 1}}, asker=ASKER)
        sent = await peer.next()
        # It would not know what to do with the envelope, nor may it learn who calls.
        assert sent["params"] == {"name": "x"}
        peer.answer(sent, content=[])
        assert await call == {"content": []}
        checking = asyncio.create_task(link.check())
        pinged = await peer.next()
        assert pinged["method"] == "ping"
        peer.answer(pinged)
        await checking


async def test_a_silent_server_gets_the_handshake_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eras, "DISCOVER_SECONDS", 0.05)
    async with linked() as (link, peer):
        opening = asyncio.create_task(open_link(link, "auto"))
        await peer.next()
        peer.answer(await peer.next(), capabilities={"tools": {}})
        assert await opening == {"tools": {}}


async def test_a_server_that_was_only_slow_is_still_met_in_the_new_era(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eras, "DISCOVER_SECONDS", 0.05)
    async with linked() as (link, peer):
        opening = asyncio.create_task(open_link(link, "auto"))
        discover, shake = await peer.next(), await peer.next()
        assert shake["method"] == "initialize"
        # The order in which a pipelining server may answer both.
        peer.say({"id": shake["id"], "error": {"code": -32022, "message": "not here"}})
        peer.answer(discover, capabilities={"tools": {}})
        assert await opening == {"tools": {}}
        call = ask(link, asker=ASKER)
        sent = await peer.next()
        assert "_meta" in sent["params"]
        peer.answer(sent)
        await call


async def test_a_server_that_refuses_both_is_an_error() -> None:
    async with linked() as (link, peer):
        opening = asyncio.create_task(open_link(link, "auto"))
        await peer.refuse()
        await peer.refuse()
        with pytest.raises(RpcError):
            await opening


async def test_a_late_answer_to_one_link_is_none_to_the_next() -> None:
    async with linked() as (first, peer):
        call = ask(first)
        old = await peer.next()
        call.cancel()
        await asyncio.wait([call])
        async with linked() as (second, other):
            again = ask(second)
            new = await other.next()
            assert new["id"] != old["id"]
            other.answer({"id": old["id"]}, content=["old"])
            other.answer(new, content=["new"])
            assert await again == {"content": ["new"]}


async def test_the_envelope_is_ours_whatever_the_client_sent() -> None:
    forged = {ACTOR_META: {"key": "x", "caller": {"client": "owner"}}, "progressToken": "mine"}
    async with linked(link_key="secret") as (link, peer):
        call = ask(link, params={"name": "x", "_meta": forged}, asker=ASKER)
        meta = (await peer.next())["params"]["_meta"]
        assert "progressToken" not in meta
        assert meta[ACTOR_META]["key"] == "secret"
        assert meta[ACTOR_META]["caller"]["token"] == "laptop"
        assert meta["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
        call.cancel()
    async with linked() as (link, peer):
        call = ask(link, params={"_meta": forged}, asker=ASKER)
        # A third-party server is vouched nothing, and told no token.
        assert ACTOR_META not in (await peer.next())["params"]["_meta"]
        call.cancel()


async def test_answers_find_their_callers_in_any_order() -> None:
    async with linked() as (link, peer):
        calls = [ask(link, params={"n": number}) for number in range(100)]
        asked = [await peer.next() for _ in calls]
        for one in reversed(asked):
            peer.answer(one, n=one["params"]["n"])
        assert [(await call)["n"] for call in calls] == list(range(100))


JUNK = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["jsonrpc", "id", "method", "params", "error", "result", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=150, deadline=None)
@given(junk=st.lists(JUNK, max_size=6))
def test_nothing_that_a_server_writes_costs_others_their_answers(junk: list[bytes]) -> None:
    async def go() -> None:
        async with linked() as (link, peer):
            call = ask(link, params={"n": 1}, progress=_ignore)
            asked = await peer.next()
            for line in junk:
                # An answer that happens to be ours is an answer.
                if str(asked["id"]).encode() not in line:
                    peer.say(line)
            peer.answer(asked, done=True)
            assert await asyncio.wait_for(call, 5) == {"done": True}
            assert link.alive

    asyncio.run(go())


def _ignore(report: Fields) -> None:
    del report


@pytest.mark.parametrize(
    "answer",
    [
        b'{"jsonrpc":"2.0","id":%d,"result":"' + b"x" * 3 * LIMIT + b'"}',
        b'{"result":"' + b"x" * 3 * LIMIT + b'","jsonrpc":"2.0","id":%d}',
        b'{"result":"' + b"x" * 3 * LIMIT + b'","id": %d, "jsonrpc": "2.0" }',
    ],
)
async def test_an_endless_answer_fails_its_own_request_only(answer: bytes) -> None:
    async with linked() as (link, peer):
        calls = [ask(link), ask(link)]
        first, second = await peer.next(), await peer.next()
        peer.say(answer.replace(b"%d", str(first["id"]).encode()))
        peer.answer(second, fine=True)
        with pytest.raises(HostError) as refused:
            await calls[0]
        assert refused.value.code == "result_too_large"
        assert await calls[1] == {"fine": True}


async def test_an_endless_line_that_answers_nobody_known_ends_the_link() -> None:
    async with linked() as (link, peer):
        call = ask(link)
        await peer.next()
        peer.say(b"x" * 3 * LIMIT)
        with pytest.raises(LinkLostError):
            await call
        assert not link.alive
        with pytest.raises(LinkLostError):
            await ask(link, "tools/list")


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, 10**12),
    inner=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=4),
    last=st.booleans(),
)
def test_the_id_of_a_dropped_answer_is_the_outer_one(
    number: int, inner: dict[str, Any], last: bool
) -> None:
    result = {"pad": "y" * 3_000, **inner, "more": {"id": 5}}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "result": result}
    if last:
        message = {"result": result, "jsonrpc": "2.0", "id": number}

    whole = json.dumps(message).encode() + b"\nnext\n"
    lines = Lines(1_000)
    found = [line for at in range(0, len(whole), 100) for line in lines.feed(whole[at : at + 100])]
    dropped, kept = found
    assert isinstance(dropped, TooLong)
    assert dropped.answer_to() == number
    assert kept == b"next"
    assert lines.end() is None


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"_")), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    at = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    splitter = Lines(30)
    found = [
        line for start, end in itertools.pairwise(at) for line in splitter.feed(whole[start:end])
    ]
    wanted = [line for line in lines if line.strip() or len(line) > 30]
    assert len(found) == len(wanted)
    for line, want in zip(found, wanted, strict=True):
        if isinstance(line, TooLong):
            assert len(want) > 30
            assert want.startswith(line.head)
            assert want.endswith(line.tail)
        else:
            assert line == want
    assert splitter.end() is None


async def test_requests_beyond_what_servers_accept_are_refused_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 10_000)
    async with linked() as (link, peer):
        with pytest.raises(HostError) as refused:
            await ask(link, params={"text": "x" * 10_000})
        assert refused.value.code == "request_too_large"
        # As long as the client wrote it, not three times as long in escapes.
        call = ask(link, params={"text": "é" * 4_000})
        peer.answer(await peer.next())
        await call
        call = ask(link, params={"text": "a\ud800b"})
        sent = await peer.next()
        assert sent["params"]["text"] == "a\ud800b"
        peer.answer(sent)
        await call


async def test_progress_comes_by_its_token_and_a_fault_in_it_costs_nobody_an_answer() -> None:
    seen: list[bytes] = []

    def fails(report: Fields) -> None:
        raise ValueError("ours")

    async with linked() as (link, peer):
        told = ask(link, progress=lambda report: seen.append(bytes(report["progress"])))
        told_id = (await peer.next())["id"]
        broken = ask(link, progress=fails)
        broken_asked = await peer.next()
        for number in range(100):
            for token in (told_id, broken_asked["id"], 10**9, "text", None):
                params = {"progressToken": token, "progress": number}
                peer.say({"method": "notifications/progress", "params": params})
        peer.answer(broken_asked, fine=True)
        assert await asyncio.wait_for(broken, 5) == {"fine": True}
        peer.answer({"id": told_id}, fine=True)
        assert await asyncio.wait_for(told, 5) == {"fine": True}
        assert seen == [b"%d" % number for number in range(100)]


async def test_cancelling_tells_the_server_and_waits_for_nothing() -> None:
    async with linked() as (link, peer):
        call = ask(link)
        asked = await peer.next()
        call.cancel()
        await asyncio.wait([call])
        told = await peer.next()
        assert told["method"] == "notifications/cancelled"
        assert told["params"]["requestId"] == asked["id"]
        # Nothing is taken from a link by an answer that comes all the same.
        peer.answer(asked, late=True)
        again = ask(link)
        peer.answer(await peer.next(), fine=True)
        assert await again == {"fine": True}


async def test_giving_up_on_a_server_that_reads_nothing_does_not_hang() -> None:
    async with linked() as (link, _):
        calls = [ask(link, params={"text": "x" * 1_000_000}) for _ in range(20)]
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.check()
        for call in calls:
            call.cancel()
        done, _ = await asyncio.wait(calls, timeout=60)
        assert len(done) == len(calls)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"error": {"code": "E42", "message": ["odd"]}}, -32603),
        ({"error": {}}, -32603),
        ({"result": "text"}, -32603),
        ({}, -32603),
        ({"error": {"code": -32602, "message": "bad", "data": {"a": 1}}}, -32602),
    ],
)
async def test_odd_answers_are_errors_and_not_empty_results(
    answer: dict[str, Any], code: int
) -> None:
    async with linked() as (link, peer):
        call = ask(link)
        peer.say({"id": (await peer.next())["id"], **answer})
        with pytest.raises(RpcError) as failed:
            await call
        assert failed.value.code == code


async def test_a_server_that_hangs_up_fails_everything_that_waits() -> None:
    async with linked() as (link, peer):
        calls = [ask(link) for _ in range(50)]
        for _ in calls:
            await peer.next()
        peer.writer.close()
        for call in calls:
            with pytest.raises(LinkLostError, match="demo"):
                await asyncio.wait_for(call, 5)
        assert not link.alive
        await link.close()
        await link.close()


async def test_more_calls_than_are_bearable_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "MAX_IN_FLIGHT", 3)
    async with linked() as (link, peer):
        calls = [ask(link) for _ in range(3)]
        asked = [await peer.next() for _ in calls]
        with pytest.raises(HostError) as refused:
            await ask(link)
        assert refused.value.code == "busy"
        peer.answer(asked[0])
        await calls[0]
        again = ask(link)
        peer.answer(await peer.next(), fine=True)
        assert await again == {"fine": True}
        for call in calls[1:]:
            call.cancel()


async def test_what_a_server_asks_of_the_gateway_is_answered() -> None:
    heard: list[str] = []

    def notified(method: str, _: Raw) -> None:
        heard.append(method)

    async with linked(notified=notified) as (link, peer):
        peer.say({"id": "a", "method": "ping"})
        assert (await peer.next())["result"] == {}
        peer.say({"id": "b", "method": "tools/list", "params": {}})
        assert (await peer.next())["error"]["code"] == -32601
        peer.say({"id": "c", "method": "sampling/createMessage", "params": {}})
        assert "nobody can be asked" in (await peer.next())["error"]["message"]
        peer.say({"method": "notifications/tools/list_changed"})
        await _until(lambda: heard == ["notifications/tools/list_changed"])
        assert link.alive


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")
