"""Resuming, for every interleaving: nothing twice, nothing recorded is lost, the rest is told.

One client reads, is cut off in the middle of what was sent to it, comes back with its cursor, now
and then to another daemon, while things happen in this and in other processes and the memory is
far too small.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hostwright.events.bus import Events, Reader, Start
from hostwright.events.cursor import Cursor
from hostwright.events.filters import Filter
from hostwright.events.history import PAGE, History, Recorded
from hostwright_kit.ledger import Entry, Ledger, Receipt

Result = TypeVar("Result")


class FakeLedger:
    """Entries of all processes; every other one is none of ours."""

    path = Path("nowhere")

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.head = 0

    def add(self, kind: str, fields: dict[str, Any]) -> Receipt:
        self.head += 2
        self.recorded.append(Recorded(self.head, time.time(), kind, fields, 10))
        return Receipt(seq=self.head, id="", time="", hash="")

    def submit(self, entry: Entry) -> Future[Receipt]:
        done: Future[Receipt] = Future()
        done.set_result(self.add(entry.type, {"server": entry.server}))
        return done


class FakeHistory:
    """What `History` answers, of a `FakeLedger`. The follower sees entries up to `visible` only, so
    that what a reader finds depends on the steps taken and not on threads."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger
        self.visible = 0

    def head(self) -> int:
        return self._ledger.head + 1

    def between(self, above: int, upto: int) -> Sequence[Recorded]:
        return [one for one in self._ledger.recorded if above < one.ledger <= upto][:PAGE]

    def new(self, above: int) -> Sequence[Recorded]:
        return self.between(above, self.visible)

    def close(self) -> None:
        """Nothing is open."""


class Resuming(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ledger = FakeLedger()
        self.number = 0
        self.stack: AsyncExitStack | None = None
        self.other: AsyncExitStack | None = None
        self.reader: Reader | None = None
        self.cursor: Cursor | None = None
        self.got: list[dict[str, Any]] = []

    @initialize(
        size=st.integers(1, 6),
        room=st.sampled_from([400, 2_000, 100_000]),
        before=st.integers(0, 3),
    )
    def begin(self, size: int, room: int, before: int) -> None:
        self.size, self.room = size, room
        self.epoch = 0
        self.events = self.daemon()
        for _ in range(before):
            self.server()
            self.request()
        self.since = len(self.ledger.recorded)
        self.first = self.number + 1
        self.connect()

    def daemon(self) -> Events:
        events = Events(cast("Ledger", self.ledger), max_events=self.size, max_bytes=self.room)
        self.epoch += 1
        events.epoch = self.epoch
        self.history = FakeHistory(self.ledger)
        events.history = cast("History", self.history)
        return events

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    # -- what happens ----------------------------------------------------------------------------

    @rule()
    def request(self) -> None:
        self.number += 1
        self.run(self._emit("request.accepted", id=str(self.number)))

    @rule()
    def server(self) -> None:
        self.run(self._emit("server.ready", server=f"s{len(self.ledger.recorded)}"))

    @rule()
    def approval(self) -> None:
        """In another process; the daemon finds it when it looks."""
        self.ledger.add("approval.pending", {"server": f"s{len(self.ledger.recorded)}"})

    @precondition(lambda self: self.reader is not None or self.other is not None)
    @rule()
    def look(self) -> None:
        self.run(self._look())

    # -- the client ------------------------------------------------------------------------------

    @precondition(lambda self: self.reader is None)
    @rule()
    def connect(self) -> None:
        self.stack = AsyncExitStack()
        start = self.cursor or Start.NOW
        self.reader = self.run(self.stack.enter_async_context(self.events.listen(Filter(), start)))
        if self.cursor is None:
            self.cursor = self.reader.cursor

    @precondition(lambda self: self.reader is not None)
    @rule(arriving=st.integers(1, 8))
    def read(self, arriving: int) -> None:
        """One batch. Of a long one only the beginning arrives before the connection breaks."""
        assert self.reader is not None
        sent = self.run(self.reader.take())
        for cursor, body in sent[:arriving]:
            assert self.cursor is None or cursor >= self.cursor, "cursors only grow"
            self.cursor = cursor
            self.got.append(json.loads(body))
        if len(sent) > arriving:
            self.disconnect()
        elif not sent:
            self.cursor = self.reader.cursor  # as a heartbeat tells

    @precondition(lambda self: self.reader is not None)
    @rule()
    def disconnect(self) -> None:
        assert self.stack is not None
        self.run(self.stack.aclose())
        self.stack = self.reader = None

    @precondition(lambda self: self.other is None)
    @rule()
    def another_comes(self) -> None:
        self.other = AsyncExitStack()
        self.run(self.other.enter_async_context(self.events.listen(Filter(), Start.NOW)))

    @precondition(lambda self: self.other is not None)
    @rule()
    def another_goes(self) -> None:
        assert self.other is not None
        self.run(self.other.aclose())
        self.other = None

    @rule()
    def restart(self) -> None:
        for stack in (self.stack, self.other):
            if stack is not None:
                self.run(stack.aclose())
        self.stack = self.other = self.reader = None
        self.events.close()
        self.events = self.daemon()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_twice_and_in_order(self) -> None:
        durable = [one["server"] for one in self.got if "server" in one]
        expected = [str(one.fields["server"]) for one in self.ledger.recorded[self.since_or_0 :]]
        assert durable == expected[: len(durable)]
        requests = [int(one["id"]) for one in self.got if "id" in one]
        assert requests == sorted(set(requests))

    @property
    def since_or_0(self) -> int:
        return getattr(self, "since", 0)

    def teardown(self) -> None:
        try:
            if hasattr(self, "events"):
                self._finish()
        finally:
            for stack in (self.stack, self.other):
                if stack is not None:
                    self.run(stack.aclose())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()

    def _finish(self) -> None:
        """Read to the end: all that is recorded came, and whatever did not was told."""
        while True:
            if self.reader is None:
                self.connect()
            self.run(self._look())
            before = self.cursor, len(self.got)
            self.read(1_000)
            if (self.cursor, len(self.got)) == before and self.reader is not None:
                break
        self.nothing_twice_and_in_order()
        durable = [one for one in self.got if "server" in one]
        assert len(durable) == len(self.ledger.recorded) - self.since
        expected, told, lost = self.first, False, 0
        end: dict[str, Any] = {"id": str(self.number + 1)}
        for one in [*self.got, end]:
            if one.get("kind") == "events.gap":
                told = True
                lost += one.get("lost", 10**9)
            elif "id" in one:
                missing = int(one["id"]) - expected
                assert not missing or (told and lost >= missing), (missing, self.got)
                expected, told, lost = int(one["id"]) + 1, False, 0

    async def _emit(self, kind: str, **fields: Any) -> None:
        self.events.emit(kind, **fields)
        await asyncio.sleep(0)

    async def _look(self) -> None:
        self.history.visible = self.ledger.head
        async with asyncio.timeout(30):
            while self.ledger.recorded and self.events.read_upto < self.ledger.recorded[-1].ledger:
                self.events._look.set()
                await asyncio.sleep(0.001)


Resuming.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestResuming = Resuming.TestCase
