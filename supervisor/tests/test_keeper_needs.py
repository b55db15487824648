"""Who needs whom, and what the machine must have."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.keeper import needs
from hostwright.keeper.machine import State
from hostwright.keeper.needs import Level
from hostwright.keeper.status import ServerReady, ServerStarted, ServerStopped, ServerWaiting
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Conditions
from hostwright_kit.errors import HostError

from .keeper_world import FAST, Open, manifest

GOES_WRONG = "import sys; print('no', file=sys.stderr); sys.exit(3)"


def order(events: list[Any], kind: type[Any]) -> list[str]:
    return [event.name for event in events if isinstance(event, kind)]


async def test_what_is_required_is_ready_first_and_ends_last(suite: Open) -> None:
    s = await suite(
        manifest("a", requires=["b", "c"]), manifest("b", requires=["c"]), manifest("c")
    )
    results = await s.keeper.start_all()
    assert all(result.ok for result in results)
    told = [(type(event), event.name) for event in s.events]
    assert told.index((ServerReady, "c")) < told.index((ServerStarted, "b"))
    assert told.index((ServerReady, "b")) < told.index((ServerStarted, "a"))
    await s.keeper.close()
    assert order(s.events, ServerStopped) == ["a", "b", "c"]


async def test_order_alone_holds_nobody_up_for_ever(suite: Open) -> None:
    s = await suite(
        manifest("a", after=["b"]),
        manifest("b", GOES_WRONG, restart=FAST | {"breaker_failures": 3}),
    )
    results = {result.name: result for result in await s.keeper.start_all()}
    assert results["a"].ok
    assert not results["b"].ok
    kinds = [(type(event).__name__, event.name) for event in s.events]
    assert kinds.index(("ServerCrashed", "b")) < kinds.index(("ServerStarted", "a"))


async def test_a_dependant_waits_while_what_it_needs_is_broken(suite: Open, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.touch()
    source = f"""
        import os, sys
        if not os.path.exists({str(good)!r}): sys.exit(3)
        for line in sys.stdin: print("ok", flush=True)
    """
    s = await suite(
        manifest("top", requires=["base"]),
        manifest("base", source, restart=FAST | {"breaker_failures": 2}),
    )
    await s.keeper.start_all()
    top = s.child("top")
    # A crash that is mended at once is no reason to end whoever needs it.
    os.kill(s.child("base").pid, signal.SIGKILL)
    await s.when("base", lambda row: row.restarts == 1 and row.state is State.READY)
    assert s.child("top") is top
    good.unlink()
    os.kill(s.child("base").pid, signal.SIGKILL)
    await s.until("base", State.BROKEN)
    row = await s.until("top", State.WAITING)
    assert row.why == "needs base, which is broken"
    assert order(s.events, ServerWaiting) == ["top"]
    with pytest.raises(HostError, match=r"top is waiting \(needs base, which is broken\)"):
        await s.keeper.wait_ready("top", timeout_seconds=20)
    refused = await s.keeper.restart("top")
    assert (refused.ok, refused.state) == (False, State.WAITING)
    good.touch()
    assert (await s.keeper.start("base")).ok
    assert (await s.until("top", State.READY)).why is None


async def test_stopping_what_is_needed_ends_its_dependants_first(suite: Open) -> None:
    s = await suite(manifest("top", requires=["base"]), manifest("base"))
    await s.keeper.start_all()
    assert (await s.keeper.stop("base")).ok
    assert s.row("top").state is State.WAITING
    kinds = [(type(event), event.name) for event in s.events]
    assert kinds.index((ServerWaiting, "top")) < kinds.index((ServerStopped, "base"))
    # By hand the dependant is started with what it needs.
    assert (await s.keeper.start("top")).ok
    assert s.row("base").state is State.READY


async def test_a_caller_waits_for_what_waits(suite: Open) -> None:
    s = await suite(manifest("top", requires=["base"]), manifest("base"))
    starting = asyncio.create_task(s.keeper.start_all())
    await s.until("top", State.STARTING, State.WAITING)
    target = await s.keeper.wait_ready("top", timeout_seconds=20)
    assert target is s.keeper.target("top")
    await starting


async def test_conditions_that_are_not_met_disable_and_are_looked_at_again(
    suite: Open, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    when = {
        "path_exists": str(flag),
        "env_set": ["NOT_SET_ANYWHERE"],
        "command_exists": ["sh", "no-such-program-here"],
    }
    s = await suite(manifest("a", when=when), environ={"PATH": os.environ["PATH"]})
    (result,) = await s.keeper.start_all()
    assert (result.ok, result.state) == (False, State.DISABLED)
    for part in ("flag does not exist", "NOT_SET_ANYWHERE is not set", "no-such-program-here is"):
        assert part in str(s.row("a").why)
        assert part in result.message
    await s.keeper.reload([manifest("a", when={"path_exists": str(flag)})])
    await s.when("a", lambda row: row.why is not None and "NOT_SET" not in row.why)
    assert s.row("a").state is State.DISABLED
    flag.touch()
    await s.keeper.reload([manifest("a", when={"path_exists": str(flag)})])
    await s.until("a", State.READY)


def test_conditions_of_this_machine(tmp_path: Path) -> None:
    here = {"linux": "linux", "darwin": "macos"}[sys.platform]
    other = {"linux": "macos", "macos": "linux"}[here]
    met = Conditions(os=(here,), path_exists=(str(tmp_path),), env_set=("A",))
    assert needs.unmet(met, {"A": "1"}) == []
    assert needs.unmet(Conditions(os=(other,)), {}) == [f"the system is {here}, not {other}"]
    assert len(needs.unmet(Conditions(env_set=("A", "B")), {"A": ""})) == 2
    odd = Conditions(path_exists=("~no-such-user/x", "a\0b"))
    assert len(needs.unmet(odd, {})) == 2


NAMES = ["a", "b", "c", "d", "e"]
graphs = st.fixed_dictionaries(
    {
        name: st.tuples(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
        for name in NAMES
    }
)


def build(graph: dict[str, tuple[set[str], set[str]]]) -> dict[str, Manifest]:
    return {
        name: Manifest.model_validate(
            {
                "name": name,
                "command": ["x"],
                "requires": sorted(requires - {name}),
                "after": sorted(after - {name}),
            }
        )
        for name, (requires, after) in graph.items()
    }


@given(graphs)
def test_start_order_and_circles_agree(graph: dict[str, tuple[set[str], set[str]]]) -> None:
    manifests = build(graph)
    layers = needs.layers(manifests)
    assert sorted(name for layer in layers for name in layer) == NAMES
    found = needs.faults(manifests)
    position = {name: number for number, layer in enumerate(layers) for name in layer}
    orderly = all(
        position[wish] < position[name]
        for name, one in manifests.items()
        for wish in (*one.requires, *one.after)
    )
    assert orderly == (not found)


@given(graphs, st.fixed_dictionaries({name: st.sampled_from(list(State)) for name in NAMES}))
def test_nobody_is_held_without_cause_and_nobody_for_ever(
    graph: dict[str, tuple[set[str], set[str]]], states: dict[str, State]
) -> None:
    manifests = build(graph)
    for one in manifests.values():
        block = needs.block_of(one, manifests, states)
        if all(states[name] in needs.USABLE for name in one.requires + one.after):
            assert block is None
        if any(states[name] in (State.BROKEN, State.STOPPED) for name in one.requires):
            assert block
            assert block.level is Level.DOWN
    # When nothing is on its way any more, whoever waits does so for something that is down.
    still = {name: state for name, state in states.items() if state in needs.USABLE}
    waiting = {name: still.get(name, State.WAITING) for name in manifests}
    for one in manifests.values():
        block = needs.block_of(one, manifests, waiting)
        assert block is None or block.level is not Level.FAILING


def test_every_unknown_name_and_every_circle_is_told() -> None:
    manifests = build(
        {"a": ({"b"}, set()), "b": (set(), {"a"}), "c": ({"gone"}, {"lost"}), "d": (set(), set())}
    )
    found = needs.faults(manifests)
    assert [(one.name, one.key) for one in found] == [
        ("c", "requires"),
        ("c", "after"),
        ("a", "requires"),
    ]
    assert "'gone'" in found[0].message
    assert "a, b, c, d" in found[0].fix
    assert "a → b → a" in found[2].message
