"""Hibernating and waking, over real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from hostwright.keeper import processes
from hostwright.keeper.child import Child
from hostwright.keeper.machine import State
from hostwright.keeper.status import (
    Activity,
    Health,
    ServerHibernated,
    ServerReady,
    ServerStarted,
    ServerWoken,
)
from hostwright.manifest import Manifest

from .keeper_world import Busy, Open, ask, manifest


def sleeper(name: str, **extra: Any) -> Manifest:
    return manifest(name, idle_after_seconds=0.05, **extra)


async def test_an_idle_server_ends_and_the_next_wish_wakes_it(suite: Open) -> None:
    asleep: list[float] = []
    s = await suite(
        sleeper("a"), activity=Busy(), on_all_asleep=lambda: asleep.append(time.monotonic())
    )
    await s.keeper.start_all()
    pid = s.child("a").pid
    row = await s.until("a", State.HIBERNATED)
    assert processes.identity(pid) is None
    assert (row.pid, row.health, row.tools, row.memory_bytes) == (None, "unknown", 3, None)
    assert row.health_age_seconds is not None
    assert "the next call wakes it" in str(row.why)
    await s.when("a", lambda _: len(asleep) == 1)
    assert s.keeper.target("a") is None

    target = await s.keeper.wait_ready("a", timeout_seconds=20)
    assert isinstance(target, Child)
    assert target.pid != pid
    assert (await ask(target)).tools == 3
    assert s.row("a").why is None
    kinds = [type(event) for event in s.events]
    assert kinds[:3] == [ServerStarted, ServerReady, ServerHibernated]
    assert kinds[3:6] == [ServerStarted, ServerReady, ServerWoken]
    woken = s.of(ServerWoken)[0].milliseconds
    assert 0 < woken < 20_000
    await s.until("a", State.HIBERNATED)
    await s.when("a", lambda _: len(asleep) == 2)


async def test_running_calls_keep_it_awake_and_checks_do_not(suite: Open) -> None:
    busy = Busy()
    busy.of["a"] = Activity(in_flight=1, idle_seconds=100, silent_seconds=1)
    quick = {"interval_seconds": 0.1, "timeout_seconds": 10}
    s = await suite(sleeper("a", health=quick), activity=busy)
    await s.keeper.start_all()
    answered = 0

    def count(row: Any) -> bool:
        nonlocal answered
        answered += (row.health_age_seconds or 9) < 0.05
        return answered > 3

    row = await s.when("a", count)
    assert (row.state, row.in_flight, row.silent_seconds) == (State.READY, 1, 1)
    busy.of["a"] = Activity(idle_seconds=0.0)  # it has just ended
    await asyncio.sleep(0.2)
    assert s.row("a").state is State.READY
    del busy.of["a"]
    await s.until("a", State.HIBERNATED)


@pytest.mark.parametrize(
    "extra",
    [
        {"background": True},
        {"idle_after_seconds": 0},
        {"idle_after_seconds": 0.05, "activity": None},
    ],
)
async def test_who_has_duties_or_is_not_known_to_be_idle_stays(
    suite: Open, extra: dict[str, Any]
) -> None:
    busy = Busy()
    if "activity" in extra:
        busy.of["a"] = Activity()  # as for a server without a link
    s = await suite(
        manifest("a", **{key: value for key, value in extra.items() if key != "activity"}),
        sleeper("b"),
        activity=busy,
    )
    await s.keeper.start_all()
    # The other one shows that the time has come for whoever sleeps.
    await s.until("b", State.HIBERNATED)
    await asyncio.sleep(0.1)
    assert s.row("a").state is State.READY


async def test_a_call_in_the_moment_of_falling_asleep_is_not_lost(suite: Open) -> None:
    s = await suite(sleeper("a"), activity=Busy())
    await s.keeper.start_all()
    caught: set[State] = set()
    for number in range(40):
        # Now and then at once, now and then later: before, while and after it falls asleep.
        await asyncio.sleep(0 if number % 8 == 0 else 0.045 + 0.001 * (number % 25))
        caught.add(s.row("a").state)
        target = await s.keeper.wait_ready("a", timeout_seconds=20)
        assert s.keeper.target("a") is target
        assert isinstance(target, Child)
        # Sent in the same turn of the loop, as the gateway does, it is answered.
        assert (await ask(target)).tools == 3
    assert {State.READY, State.HIBERNATED} <= caught


async def test_a_call_while_it_is_being_ended_gets_the_next_process(suite: Open) -> None:
    slow_to_go = """
        import signal, sys, time
        for line in sys.stdin: print("ok", flush=True)
        time.sleep(0.3)
    """
    s = await suite(manifest("a", slow_to_go, idle_after_seconds=0.05), activity=Busy())
    await s.keeper.start_all()
    old = s.child("a")
    await s.until("a", State.HIBERNATING)
    assert s.keeper.target("a") is None  # nobody may write to what is being ended
    several = (s.keeper.wait_ready("a", timeout_seconds=20) for _ in range(5))
    targets = await asyncio.gather(*several)
    assert set(targets) == {s.child("a")}
    assert s.child("a") is not old
    assert processes.identity(old.pid) is None
    assert s.of(ServerHibernated) == []
    assert len(s.of(ServerWoken)) == 1


async def test_the_owner_comes_first(suite: Open) -> None:
    s = await suite(sleeper("a"), activity=Busy())
    await s.keeper.start_all()
    await s.until("a", State.HIBERNATED)
    stopped = await s.keeper.stop("a")
    assert (stopped.ok, stopped.changed, stopped.state) == (True, True, State.STOPPED)
    started = await s.keeper.start("a")
    assert started.ok
    await s.until("a", State.HIBERNATED)
    assert (await s.keeper.restart("a")).ok
    await s.until("a", State.HIBERNATED)
    assert s.of(ServerWoken) == []


async def test_a_killed_server_is_started_again_at_once(suite: Open) -> None:
    slow = {"first_delay_seconds": 30, "max_delay_seconds": 60, "jitter": 0.0}
    s = await suite(manifest("a", restart=slow))
    await s.keeper.start_all()
    os.kill(s.child("a").pid, signal.SIGKILL)
    await s.when("a", lambda row: row.restarts == 1 and row.state is State.READY)
    os.kill(s.child("a").pid, signal.SIGKILL)
    row = await s.until("a", State.BACKING_OFF)
    assert 0 < (row.retry_in_seconds or 0) <= 30


async def test_a_server_that_fails_to_wake_says_why(suite: Open) -> None:
    broken = [False]

    async def probe(target: Any) -> Health:
        if broken[0]:
            raise ConnectionError("the wrong side of bed")
        return await ask(target)

    s = await suite(
        sleeper("a", start_timeout_seconds=0.3, restart={"policy": "never"}),
        activity=Busy(),
        probe=probe,
    )
    await s.keeper.start_all()
    await s.until("a", State.HIBERNATED)
    broken[0] = True
    with pytest.raises(Exception, match="a is stopped"):
        await s.keeper.wait_ready("a", timeout_seconds=20)
    assert "wrong side" in str(s.row("a").last_error)
