"""The bus over a real ledger: who listens hears everything that was recorded, whoever wrote it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from hostwright.events.bus import MAX_LISTENERS, Events, Reader, Start, take_all
from hostwright.events.cursor import Cursor, parse_cursor
from hostwright.events.filters import Filter, parse_filter
from hostwright.events.history import PAGE
from hostwright.events.kinds import DURABLE, FIELDS, KINDS, MAX_TEXT_CHARS
from hostwright.keeper.status import ServerEvent
from hostwright_kit.approvals import Approvals, Request
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger

ALL = Filter()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


@asynccontextmanager
async def listening(
    events: Events, start: Start | Cursor = Start.NOW, wanted: Filter = ALL
) -> AsyncGenerator[Reader]:
    async with events.listen(wanted, start) as reader:
        yield reader


async def next_of(events: Events, reader: Reader, count: int = 1) -> list[dict[str, Any]]:
    """The next events, however long they take."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            sent = await reader.take()
            found += [{**json.loads(body), "cursor": str(cursor)} for cursor, body in sent]
            if not sent:
                await events.changed()
    assert len(found) == count, found
    return found


async def test_what_is_emitted_is_heard_in_order_and_valid(ledger: Ledger) -> None:
    events = Events(ledger)
    async with listening(events) as reader:
        events.emit("request.accepted", id="1", server="a", tool="t", caller="c")
        events.emit("request.progress", id="1", progress=0.5, total=1.0)
        events.emit("request.completed", id="1", outcome="ok", duration_ms=1.5)
        found = await next_of(events, reader, 3)
        for one in found:
            one.pop("cursor")
            KINDS[one["kind"]].model_validate(one)
        assert [one["kind"] for one in found] == [
            "request.accepted",
            "request.progress",
            "request.completed",
        ]


async def test_only_declared_fields_of_plain_types_pass_and_texts_are_bounded(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events(ledger)
    async with listening(events) as reader:
        events.emit(
            "request.failed",
            id="1",
            outcome="x" * 10_000,
            arguments={"password": "hunter2"},
            result="hunter2",
            code={"nested": "hunter2"},
            tool="curl -H 'Authorization: Bearer abcdef0123456789'",
            duration_ms=float("inf"),
        )
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                events.emit("request.invented", id="2")
        (found,) = await next_of(events, reader)
        assert set(found) == {"kind", "at", "cursor", "id", "outcome", "tool"}
        assert len(found["outcome"]) == MAX_TEXT_CHARS + 1
        assert "abcdef0123456789" not in found["tool"]
        assert caplog.text.count("request.invented") == 1, "said once, not for every call"


async def test_an_approval_is_heard_although_another_process_wrote_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    events = Events(ledger)
    theirs = Ledger(tmp_path / "ledger.db")
    approvals = Approvals(tmp_path / "approvals.db", theirs, lifetime_seconds=60)
    asked = Request(
        digest="d",
        caller="agent",
        server="system",
        tool="files_write",
        arguments={"content": "hunter2"},
        reason="profile standard",
    )
    async with listening(events) as reader:
        waiting = await asyncio.to_thread(approvals.request, asked)
        await asyncio.to_thread(approvals.grant, waiting.id, via="terminal", by="uid 0")
        pending, granted = await next_of(events, reader, 2)
        assert (pending["kind"], granted["kind"]) == ("approval.pending", "approval.granted")
        assert pending["approval"] == granted["approval"] == waiting.id
        assert granted["via"] == "terminal"
        assert "hunter2" not in json.dumps([pending, granted])
    approvals.close()
    theirs.close()


async def test_a_cursor_of_an_earlier_daemon_gets_what_was_recorded_and_is_told_of_the_rest(
    ledger: Ledger,
) -> None:
    first = Events(ledger)
    async with listening(first) as reader:
        first.emit("server.started", server="a", pid=1)
        (seen,) = await next_of(first, reader)
    first.emit("server.ready", server="a", pid=1)
    first.emit("request.accepted", id="1", server="a", tool="t", caller="c")
    first.close()
    await asyncio.to_thread(ledger.append, Entry(type="server.stopped", server="a"))

    second = Events(ledger)
    second.epoch = first.epoch + 1
    cursor = parse_cursor(seen["cursor"])
    async with listening(second, cursor) as reader:
        second.emit("request.accepted", id="1", server="a", tool="t", caller="c")
        found = await next_of(second, reader, 4)
        kinds = [one["kind"] for one in found]
        assert kinds == ["events.gap", "server.ready", "server.stopped", "request.accepted"]
        assert found[0]["reason"] == "restart"
    durable_only = parse_filter(["server.*"])
    async with listening(second, cursor, durable_only) as reader:
        kinds = [one["kind"] for one in await next_of(second, reader, 2)]
        assert kinds == ["server.ready", "server.stopped"], "nothing that it wants is missing"


async def test_who_is_too_slow_is_told_how_much_is_gone_and_still_gets_what_was_recorded(
    ledger: Ledger,
) -> None:
    events = Events(ledger, max_events=10)
    async with listening(events) as slow, listening(events) as quick:
        events.emit("server.ready", server="a")
        await next_of(events, quick)
        for number in range(30):
            events.emit("request.accepted", id=str(number))
        found = await next_of(events, slow, 12)
        assert found[0]["kind"] == "events.gap"
        assert found[0]["lost"] == 21
        assert found[1]["kind"] == "server.ready"
        assert [one["id"] for one in found[2:]] == [str(number) for number in range(20, 30)]
        assert events.ring.bytes <= 10 * 1_000


async def test_a_long_history_is_replayed_page_by_page(ledger: Ledger) -> None:
    count = 2 * PAGE + 1
    for number in range(count):
        ledger.note(Entry(type="server.ready", server=f"s{number}"))
        ledger.note(Entry(type="call.read", server="s"))
    await asyncio.to_thread(ledger.append, Entry(type="call.read"))
    events = Events(ledger)
    async with listening(events, Cursor(1, 5, 0), parse_filter(["server.*"])) as reader:
        found = await next_of(events, reader, PAGE)
        found += await next_of(events, reader, PAGE)
        found += await next_of(events, reader, 1)
        assert [one["server"] for one in found] == [f"s{number}" for number in range(count)]
        assert await reader.take() == []
    async with listening(events, Start.RECENT) as reader:
        found = await next_of(events, reader, 100)
        assert found[-1]["server"] == f"s{count - 1}"


async def test_a_server_event_that_cannot_be_recorded_is_heard_all_the_same(
    ledger: Ledger,
) -> None:
    events = Events(ledger)
    async with listening(events) as reader:
        ledger.close()
        events.emit("server.broken", server="a", reason="disk full", failures=5)
        (found,) = await next_of(events, reader)
        assert found["reason"] == "disk full"
        assert "not recorded" in str(ledger.health())


async def test_a_ledger_that_was_replaced_is_told(ledger: Ledger) -> None:
    events = Events(ledger)
    async with listening(events, Cursor(events.epoch, 0, 10_000)) as reader:
        (found,) = await next_of(events, reader)
        assert (found["kind"], found["reason"]) == ("events.gap", "ledger")


async def test_nobody_listening_costs_nothing_and_listeners_are_bounded(ledger: Ledger) -> None:
    events = Events(ledger)
    events.emit("server.ready", server="a")
    events.emit("request.accepted", id="1")
    assert not [task for task in asyncio.all_tasks() if "ledger" in task.get_name()]
    async with listening(events):
        assert [task for task in asyncio.all_tasks() if "ledger" in task.get_name()]
        events.readers = MAX_LISTENERS
        with pytest.raises(HostError, match="listen to events already"):
            async with listening(events):
                pytest.fail("one too many")
        events.readers = 1
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if "ledger" in task.get_name()]


async def test_closing_wakes_who_waits(ledger: Ledger) -> None:
    events = Events(ledger)
    async with listening(events) as reader:
        waiting = asyncio.ensure_future(asyncio.shield(events.changed()))
        events.close()
        await asyncio.wait_for(waiting, 10)
        assert await reader.take() == []
        await asyncio.wait_for(events.changed(), 10)


def test_filters_choose_by_kind_server_tool_and_caller() -> None:
    wanted = parse_filter(["server.*, approval.pending"], servers=["a,b"])
    assert wanted.matches("server.ready", {"server": "a"})
    assert not wanted.matches("server.ready", {"server": "c"})
    assert not wanted.matches("request.accepted", {"server": "a"})
    assert not wanted.matches("ledger.checkpoint", {})
    assert wanted.only_durable
    by_caller = parse_filter(["request.*"], tools=["t"], callers=["c"])
    assert by_caller.matches("request.failed", {"tool": "t", "caller": "c"})
    assert not by_caller.matches("request.failed", {"tool": "t", "caller": "d"})
    assert not by_caller.wants_durable
    assert parse_filter().kinds == parse_filter(["*"]).kinds == frozenset(KINDS)
    for wrong in ("server", "serve.*", ".*", "request.accepted.*"):
        with pytest.raises(HostError, match="no kind of event"):
            parse_filter([wrong])
    with pytest.raises(HostError, match="words"):
        parse_filter(servers=[","] * 2 + ["a,b"] * 60)


def test_a_cursor_is_read_back_and_nothing_else_is_taken_for_one() -> None:
    cursor = Cursor(1_795_567_890_123, 42, 7)
    assert parse_cursor(str(cursor)) == cursor
    for wrong in (
        "",
        "1",
        "1-2",
        "1-2-3-4",
        "-1-2-3",
        "1-2-x",
        "1-2-٣",
        "9" * 20 + "-1-1",
        "1-2-3\n",
    ):
        with pytest.raises(HostError, match="not one of ours"):
            parse_cursor(wrong)


def test_server_sent_events_name_their_kind() -> None:
    body = b'{"kind":"server.ready","at":"x"}'
    text = take_all([(Cursor(1, 2, 3), body)])
    assert text == b"id: 1-2-3\nevent: server.ready\ndata: " + body + b"\n\n"


def test_the_document_names_every_kind_and_every_field() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "events.md"
    rows = {
        line.split("`")[1]: line for line in document.read_text().splitlines() if line[:3] == "| `"
    }
    for kind, model in KINDS.items():
        for name in FIELDS[kind]:
            assert name in rows[kind], (kind, name)
        for name, field in model.model_fields.items():
            assert name in ("kind", "at") or field.is_required() == (f"**{name}**" in rows[kind])
    assert set(KINDS) == {kind for kind in rows if "." in kind}


def test_everything_that_a_keeper_tells_has_a_kind_and_its_fields() -> None:
    left_out = {"type", "name", "at", "last_stderr", "left"}
    for model in get_args(ServerEvent):
        kind = model.model_fields["type"].default
        assert kind in DURABLE
        assert set(model.model_fields) - left_out == FIELDS[kind] - {"server"}, kind
