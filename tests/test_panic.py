"""The emergency stop through the front door: who may, what ends, what is refused, who lifts it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.panic import FILE, declare, read_panic

from .daemon_harness import (
    BIN,
    LINUX,
    Daemon,
    Installation,
    failure,
    processes_running,
    settle,
    structured,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="looks for processes by what they run")
PIN = "4711-pin"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    home = Installation(tmp_path)
    home.third_party("demo", "--tool", "read_slowly")
    OperatorPin(home.state).set(PIN)
    try:
        yield home
    finally:
        home.close()


def lift(home: Installation, pin: str = PIN) -> tuple[int, str]:
    """The owner at a terminal."""
    ours, theirs = pty.openpty()
    script = 'terminal=$1; shift; exec "$@" <>"$terminal" >&0 2>&1'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", os.ttyname(theirs), str(BIN / "hostwright"), "lift"],
        env={**home.env, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    screen, typed = b"", False
    deadline = time.monotonic() + 60
    while True:
        ready, _, _ = select.select([ours], [], [], 0.1)
        if ready:
            screen += os.read(ours, 65_536)
        elif process.poll() is not None:
            break
        if b"PIN: " in screen and not typed:
            os.write(ours, pin.encode() + b"\n")
            typed = True
        assert time.monotonic() < deadline, screen
    os.close(ours)
    os.close(theirs)
    return process.returncode, screen.decode()


def states(daemon: Daemon) -> dict[str, str]:
    return {row["name"]: row["state"] for row in daemon.status()["servers"]}


def panic_kinds(home: Installation) -> list[tuple[str, str | None]]:
    return [(one.type, one.caller) for one in home.events(type="safety.*")]


async def refused(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    found = failure(await client.call_tool(tool, arguments, raise_on_error=False))
    assert found["code"] == "panic", found
    assert "hostwright lift" in found["fix"]
    return found


async def test_an_agent_stops_everything_and_only_the_owner_lifts_it(home: Installation) -> None:
    # The strictest profile: stopping is allowed in every one of them.
    home.configure("observe")
    with home.up() as daemon:
        async with daemon.client("stdio", name="claude") as client:
            result = await client.call_tool("safety_panic", {"reason": "it deletes\n my files"})
            stopped = structured(result)
            assert stopped["new"] is True
            assert stopped["panic"]["by"] == "claude"
            assert stopped["panic"]["reason"] == "it deletes my files"
            assert {"system", "demo", "hostwright"} <= set(stopped["stopped"])
            assert (stopped["left"], stopped["problems"]) == ([], [])
            assert read_panic(home.state) is not None
            for name in ("system_health", "demo__read_slowly", "nobody_offers_this"):
                found = await refused(client, name)
                assert "claude stopped everything" in found["message"]
                assert "it deletes my files" in found["message"]
            status = structured(await client.call_tool("safety_status", {}))
            assert status["panic"]["id"] == stopped["panic"]["id"]
            assert status["lifted_by"] == "hostwright lift"
            again = structured(await client.call_tool("safety_panic", {"reason": "once more"}))
            assert (again["new"], again["panic"]["id"]) == (False, stopped["panic"]["id"])
        # It has no further process and no work of before; the others have none at all.
        wait_for(lambda: states(daemon)["guard"] == "ready")
        assert {state for name, state in states(daemon).items() if name != "guard"} == {"waiting"}
        shown = home.cli("status").stdout
        assert "STOPPED" in shown
        assert "claude stopped everything" in shown
        start = home.cli("start", "system", ok=False)
        assert start.returncode == 1
        assert "stopped everything" in start.stderr

        code, said = lift(home, "wrong")
        assert (code, "PIN is wrong" in said) == (1, True), said
        assert daemon.status()["panic"]["by"] == "claude"
        code, said = lift(home)
        assert code == 0, said
        wait_for(lambda: set(states(daemon).values()) == {"ready"}, lambda: str(states(daemon)))
        assert not (home.state / FILE).exists()
        async with daemon.client("socket") as client:
            assert not (await client.call_tool("system_health", {})).is_error
        code, said = lift(home)
        assert (code, "Nothing is stopped" in said) == (1, True), said
    assert panic_kinds(home) == [("safety.panic", "claude"), ("safety.lifted", "owner")]
    denied = [one for one in home.events(type="call.denied") if one.tool == "system_health"]
    assert [one.detail["denied_by"] for one in denied] == ["the panic of claude"]
    home.assert_ledger_holds()


async def test_what_runs_is_ended_and_stays_so_over_a_killed_daemon(home: Installation) -> None:
    with home.up() as daemon:
        async with daemon.client("socket") as client:
            job = structured(await client.call_tool("shell_start", {"argv": ["sleep", "600.25"]}))
            waiting = asyncio.ensure_future(
                client.call_tool("shell_exec", {"argv": ["sleep", "600.5"]}, raise_on_error=False)
            )
            words = ("600.25", "600.5")
            await asyncio.to_thread(
                wait_for, lambda: all(processes_running(f"sleep\0{one}") for one in words)
            )
            done = json.loads(home.cli("panic", "too loud", "--json").stdout)
            assert {"system", "guard", "demo"} <= set(done["stopped"])
            assert done["panic"]["by"] == "owner"
            assert not settle(
                lambda: [pid for one in words for pid in processes_running(f"sleep\0{one}")]
            )
            cut = await asyncio.wait_for(waiting, 60)
            assert cut.is_error or structured(cut)["signal"], cut
        daemon.kill_daemon()
    # A new daemon, and nothing but the file to know it from.
    with home.up() as daemon:
        wait_for(lambda: states(daemon)["guard"] == "ready")
        assert {state for name, state in states(daemon).items() if name != "guard"} == {"waiting"}
        async with daemon.client("socket", "legacy") as client:
            found = await refused(client, "system_health")
            assert "too loud" in found["message"]
            with pytest.raises(Exception, match="stopped everything"):
                await client.read_resource("system://health")
        # Whoever removes the file has not lifted anything.
        (home.state / FILE).unlink()
        wait_for((home.state / FILE).exists)
        assert read_panic(home.state) is not None
        code, said = lift(home)
        assert code == 0, said
        wait_for(lambda: set(states(daemon).values()) == {"ready"}, lambda: str(states(daemon)))
        async with daemon.client("socket") as client:
            lost = structured(await client.call_tool("job_status", {"job_id": job["id"]}))
            assert lost["state"] in ("cancelled", "lost"), lost
    home.assert_ledger_holds()


async def test_without_a_daemon_the_record_alone_stops_every_server(home: Installation) -> None:
    home.configure("autonomous")
    done = json.loads(home.cli("panic", "--json").stdout)
    assert (done["new"], done["stopped"], done["problems"]) == (True, [], [])
    found = await _alone(home, "system", "system_health")
    assert failure(found)["code"] == "panic"
    status = structured(await _alone(home, "guard", "safety_status"))
    assert (status["daemon"], status["panic"]["by"]) == ("none", "owner")
    (home.state / FILE).write_bytes(b"")
    assert "cannot be read" in text(await _alone(home, "system", "system_health"))
    code, said = lift(home)
    assert code == 0, said
    assert not (await _alone(home, "system", "system_health")).is_error
    assert [kind for kind, _ in panic_kinds(home)] == ["safety.panic", "safety.lifted"]


async def _alone(home: Installation, server: str, tool: str) -> Any:
    """A call to a server that no daemon runs."""
    transport = StdioTransport(
        str(BIN / f"hostwright-{server}"), [], env=home.env, keep_alive=False, cwd=str(home.work)
    )
    async with Client(transport) as client:
        return await client.call_tool(tool, {}, raise_on_error=False)


async def test_a_server_is_restarted_and_a_stop_from_elsewhere_found(home: Installation) -> None:
    with home.up() as daemon:
        before = daemon.server("demo")["pid"]
        async with daemon.client("socket") as client:
            done = structured(await client.call_tool("safety_restart", {"name": "demo"}))
            assert (done["state"], done["pid"] != before) == ("ready", True)
            for name, code in (("guard", "invalid_argument"), ("nosuch", "not_found")):
                result = await client.call_tool(
                    "safety_restart", {"name": name}, raise_on_error=False
                )
                assert failure(result)["code"] == code
        declare(home.state, by="somebody else", via="tool", reason="")
        wait_for(lambda: daemon.status()["panic"] is not None)
        wait_for(lambda: states(daemon)["system"] == "waiting", lambda: str(states(daemon)))
        wait_for(lambda: ("safety.panic", "somebody else") in panic_kinds(home))
        events = home.cli("events", "--json", "--filter", "safety.*").stdout
        assert '"safety.panic"' in events
        metrics = daemon._control.get("/metrics").text
        assert "hostwright_panic 1.0" in metrics
        # Whatever is added or asked for meanwhile is not started.
        home.third_party("late")
        wait_for(lambda: states(daemon).get("late") == "waiting", lambda: str(states(daemon)))
        restart = daemon.act("system", "restart").json()
        assert restart["ok"] is False
