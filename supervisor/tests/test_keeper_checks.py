"""Health beyond the round trip: canaries, wedged and merely busy servers, escalation."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.canary import CanaryFailed, resolve, sing, wrong
from hostwright.keeper.around import CanaryRefused, Target
from hostwright.keeper.machine import State
from hostwright.keeper.status import (
    Activity,
    Health,
    ServerBroken,
    ServerCrashed,
    ServerEscalated,
    ServerSilent,
)
from hostwright.manifest_rules import Canary

from .keeper_world import FAST, Busy, Open, ask, manifest

QUICK: dict[str, Any] = {
    "interval_seconds": 0.1,
    "timeout_seconds": 0.2,
    "failures_before_restart": 2,
}
READS = {"annotations": {"readOnlyHint": True}}


class Said:
    """A link that answers every call with the same result."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.asked: list[tuple[str, Any]] = []

    async def request(self, method: str, params: Any) -> dict[str, Any]:
        self.asked.append((method, params))
        return self.result


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


async def test_a_canary_is_a_call_of_a_tool_that_only_reads() -> None:
    link = Said(text("all is well", structuredContent={"state": "ok", "jobs": [{"n": 1}]}))
    tools: dict[str, Any] = {"look": READS, "act": {"annotations": {"destructiveHint": True}}}
    await sing(link, tools, Canary(tool="look", arguments={"a": 1}, expect="is well"))
    assert link.asked == [("tools/call", {"name": "look", "arguments": {"a": 1}})]
    for tool, why in (("act", "not annotated as read-only"), ("gone", "offers no tool 'gone'")):
        with pytest.raises(CanaryRefused, match=why):
            await sing(link, tools, Canary(tool=tool))
    assert len(link.asked) == 1
    with pytest.raises(CanaryFailed, match="does not contain 'ill': all is well"):
        await sing(link, tools, Canary(tool="look", expect="ill"))


@pytest.mark.parametrize(
    ("pointer", "equals", "fault"),
    [
        ("/structuredContent/state", "ok", ""),
        ("/structuredContent/jobs/0/n", 1, ""),
        ("/structuredContent/jobs/0/n", True, "/structuredContent/jobs/0/n is '1', not True"),
        ("/structuredContent/jobs/01/n", 1, "has nothing at /structuredContent/jobs/01/n"),
        ("/structuredContent/jobs/7", 1, "has nothing at"),
        ("/structuredContent/state/deeper", 1, "has nothing at"),
        ("/structuredContent/state", "bad", "is 'ok', not 'bad'"),
    ],
)
def test_a_canary_may_point_at_one_value(pointer: str, equals: Any, fault: str) -> None:
    rules = Canary.model_validate({"tool": "x", "expect": {"pointer": pointer, "equals": equals}})
    result = text("t", structuredContent={"state": "ok", "jobs": [{"n": 1}]})
    assert (fault in wrong(rules, result)) if fault else wrong(rules, result) == ""


def test_a_result_that_is_an_error_is_never_as_expected() -> None:
    assert "it answered with an error: well" in wrong(
        Canary(tool="x", expect="well"), text("well", isError=True)
    )
    assert wrong(Canary(tool="x"), {"content": "nonsense"}) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values, st.data())
def test_every_value_has_a_pointer_that_finds_it(document: Any, data: st.DataObject) -> None:
    pointer, value = "", document
    while isinstance(value, (dict, list)) and value and data.draw(st.booleans()):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        value = value[key]
        pointer += "/" + str(key).replace("~", "~0").replace("/", "~1")
    assert resolve(pointer, document) == value


async def test_a_failing_canary_counts_and_a_refused_one_is_only_told(suite: Open) -> None:
    fails, refused = [False], [False]

    async def canary(target: Target, rules: Canary) -> None:
        assert rules.tool == "look"
        if refused[0]:
            raise CanaryRefused("it writes")
        if fails[0]:
            raise CanaryFailed("its heart does not beat")

    s = await suite(
        manifest("a", health=QUICK, canary={"tool": "look", "interval_seconds": 0.1}),
        canary=canary,
    )
    await s.keeper.start_all()
    pid = s.child("a").pid
    refused[0] = True
    row = await s.when("a", lambda row: row.why is not None)
    assert row.why == "the canary is not sent: it writes"
    assert row.state is State.READY
    refused[0], fails[0] = False, True
    await s.when("a", lambda row: row.pid not in (None, pid))
    fails[0] = False
    assert "the canary look failed: its heart does not beat" in s.of(ServerCrashed)[0].reason
    await s.until("a", State.READY)


async def test_a_server_whose_calls_show_progress_is_busy_and_not_wedged(suite: Open) -> None:
    mute = [False]

    async def probe(target: Target) -> Health:
        if mute[0]:
            await asyncio.sleep(600)
        return await ask(target)

    busy = Busy()
    s = await suite(manifest("a", health=QUICK), probe=probe, activity=busy)
    await s.keeper.start_all()
    pid = s.child("a").pid
    busy.of["a"] = Activity(in_flight=1, silent_seconds=0.05)
    mute[0] = True
    row = await s.when("a", lambda row: "but a running call" in (row.last_error or ""))
    assert (row.state, row.pid, row.health) == (State.UNHEALTHY, pid, "failing")
    # Now nothing moves any more.
    busy.of["a"] = Activity(in_flight=1, silent_seconds=60)
    await s.when("a", lambda row: row.restarts == 1)
    assert "health checks in a row failed" in s.of(ServerCrashed)[0].reason


async def test_new_calls_do_not_keep_a_wedged_server_for_ever(suite: Open) -> None:
    mute = [False]

    async def probe(target: Target) -> Health:
        if mute[0]:
            await asyncio.sleep(600)
        return await ask(target)

    busy = Busy()
    s = await suite(manifest("a", health=QUICK, wedge_after_seconds=1), probe=probe, activity=busy)
    await s.keeper.start_all()
    busy.of["a"] = Activity(in_flight=1, silent_seconds=0.0)
    mute[0] = True
    began = time.monotonic()
    await s.when("a", lambda row: row.restarts == 1)
    assert time.monotonic() - began > 0.5


async def test_a_silent_call_is_reported_once_and_nobody_is_killed(suite: Open) -> None:
    busy = Busy()
    s = await suite(manifest("a", health=QUICK, wedge_after_seconds=5), activity=busy)
    await s.keeper.start_all()
    pid = s.child("a").pid
    busy.of["a"] = Activity(in_flight=2, silent_seconds=6)
    row = await s.when("a", lambda row: row.why is not None)
    assert row.why == "it answers its checks, but a call has shown no progress for over 5 s"
    assert (row.in_flight, row.silent_seconds, row.state) == (2, 6, State.READY)
    answered = s.row("a").health_age_seconds or 0
    await s.when("a", lambda row: (row.health_age_seconds or 9) < answered)
    assert [event.silent_seconds for event in s.of(ServerSilent)] == [6]
    del busy.of["a"]
    await s.when("a", lambda row: row.why is None)
    assert s.child("a").pid == pid


async def test_the_last_failure_is_escalated_with_what_to_do(suite: Open) -> None:
    source = "import sys; print('no disk', file=sys.stderr); sys.exit(4)"
    s = await suite(manifest("a", source, restart=FAST | {"breaker_failures": 2}))
    await s.keeper.start("a")
    await s.until("a", State.BROKEN)
    (event,) = s.of(ServerEscalated)
    assert len(s.of(ServerBroken)) == 1
    assert event.reason == "exited with code 4 before it was ready"
    assert event.last_stderr[-1] == "no disk"
    assert "hostwright logs a" in event.what_to_do
    assert "hostwright restart a" in event.what_to_do
