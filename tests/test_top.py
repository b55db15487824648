"""`hostwright top` against a real supervisor: driven by its keys, judged by what it did."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from hostwright.top.app import Top
from hostwright.top.daemon import Daemon as TopDaemon
from hostwright.top.dialogs import ConfirmDialog, DecisionDialog
from hostwright_kit.approvals import Approval, Approvals, Request
from hostwright_kit.ledger import Ledger
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import APPROVALS_FILE

from .daemon_harness import BIN, SUITE, Installation

PIN = "4711-pin"
SECONDS = 60


@pytest.fixture
def world(bare_home: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """This process stands in the installation, as the command does."""
    for name, text in bare_home.marks.items():
        monkeypatch.setenv(name, text)
    # The harness tells the daemon's processes by this; the command is none of them.
    monkeypatch.setenv("HOSTWRIGHT_RUNTIME_DIR", f"{bare_home.runtime}/.")
    bare_home.third_party("alpha")
    bare_home.third_party("beta")
    OperatorPin(bare_home.state).set(PIN)
    return bare_home


def top(home: Installation) -> Top:
    paths = Paths(config_dir=home.config, state_dir=home.state, runtime_dir=home.runtime)
    return Top(TopDaemon(paths))


async def until(pilot: Pilot[None], condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, screen(pilot)
        await pilot.pause(0.05)


def rows(pilot: Pilot[None], name: str) -> list[str]:
    """The rows of one table, as text."""
    table = pilot.app.screen_stack[0].query_one(f"#{name}", DataTable)
    return [" ".join(str(cell) for cell in table.get_row(key)) for key in table.rows]


def words(pilot: Pilot[None], name: str) -> str:
    return str(pilot.app.screen.query_one(f"#{name}", Static).render())


def screen(pilot: Pilot[None]) -> str:
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in lines)


def ask(home: Installation, **arguments: Any) -> str:
    """A request for approval, made as a server's process makes it."""
    with decisions(home) as approvals:
        wanted = Request(
            digest=os.urandom(8).hex(),
            caller="agent",
            server="system",
            tool="files_delete",
            arguments=arguments,
            reason="profile standard",
        )
        return approvals.request(wanted).id


def decision(home: Installation, approval: str) -> Approval:
    with decisions(home) as approvals:
        return approvals.get(approval)


class decisions:  # noqa: N801 - used as a function
    def __init__(self, home: Installation) -> None:
        self._ledger = Ledger(home.ledger)
        self._approvals = Approvals(home.state / APPROVALS_FILE, self._ledger, lifetime_seconds=600)

    def __enter__(self) -> Approvals:
        return self._approvals

    def __exit__(self, *_: object) -> None:
        self._approvals.close()
        self._ledger.close()


async def test_it_shows_servers_and_calls_and_restarts_what_is_confirmed(
    world: Installation,
) -> None:
    with world.up() as daemon:
        app = top(world)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: len(rows(pilot, "servers")) == len(SUITE) + 3)
            await until(pilot, lambda: "● ready" in rows(pilot, "servers")[0])
            await until(pilot, lambda: "ready after" in words(pilot, "log"))
            async with daemon.client(name="slow-caller") as client:
                call = asyncio.create_task(client.call_tool("alpha__echo", {"seconds": 3}))
                await until(pilot, lambda: "slow-caller" in " ".join(rows(pilot, "calls")))
                assert "echo" in rows(pilot, "calls")[0]
                await call
            await until(pilot, lambda: not rows(pilot, "calls"))
            await until(pilot, lambda: app.model.figures("alpha", time.time()).p50_ms)
            shown = screen(pilot)
            for word in (
                "p95",
                "servers",
                "calls in flight (0)",
                "waiting for approval (0)",
                "log of",
            ):
                assert word in shown, shown
            for key in ("start", "stop", "restart", "approve", "deny", "quit"):
                assert key in shown, shown

            name = app.selected_server
            assert name
            pid = daemon.server(name)["pid"]
            await pilot.press("r")
            await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
            await pilot.press("n")
            await until(pilot, lambda: not isinstance(app.screen, ConfirmDialog))
            assert daemon.server(name)["pid"] == pid
            await pilot.press("x")
            await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
            await pilot.press("y")
            await until(pilot, lambda: "○ stopped" in rows(pilot, "servers")[0])
            await pilot.press("s", "y")
            await until(pilot, lambda: "● ready" in rows(pilot, "servers")[0])
            assert daemon.server(name)["pid"] != pid


async def test_a_call_is_approved_with_the_pin_and_denied_with_it_and_not_without(
    world: Installation,
) -> None:
    with world.up():
        app = top(world)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.model.daemon)
            granted = await asyncio.to_thread(ask, world, path="/srv/important")
            denied = await asyncio.to_thread(ask, world, path="/srv/other")
            await until(pilot, lambda: len(rows(pilot, "approvals")) == 2)
            app.screen.query_one("#approvals", DataTable).focus()
            await pilot.press("a")
            await until(pilot, lambda: isinstance(app.screen, DecisionDialog))
            await until(pilot, lambda: isinstance(app.focused, Input))
            assert '"path": "/srv/important"' in screen(pilot)
            await pilot.press(*"guess")
            await pilot.press("enter")
            await until(pilot, lambda: "4 tries are left" in words(pilot, "problem"))
            assert (await asyncio.to_thread(decision, world, granted)).state == "pending"

            await until(pilot, lambda: isinstance(app.focused, Input))
            await pilot.press(*PIN)
            await pilot.pause()
            assert PIN not in app.export_screenshot()
            assert PIN not in screen(pilot)
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(app.screen, DecisionDialog))
            found = await asyncio.to_thread(decision, world, granted)
            assert (found.state, found.via) == ("granted", "terminal")

            await until(pilot, lambda: len(rows(pilot, "approvals")) == 1)
            await pilot.press("d")
            await until(pilot, lambda: isinstance(app.focused, Input))
            await pilot.press(*PIN, "enter")
            await until(pilot, lambda: not rows(pilot, "approvals"))
            assert (await asyncio.to_thread(decision, world, denied)).state == "denied"
    kinds = [event.type for event in world.events(type="approval.*")]
    assert sorted(kinds[-2:]) == ["approval.denied", "approval.granted"]
    for file in world.state.rglob("*"):
        if file.is_file():
            assert PIN.encode() not in file.read_bytes(), file


async def test_wrong_pins_run_into_the_same_wait_as_at_the_command(world: Installation) -> None:
    asked = ask(world, path="/srv/x")
    with world.up():
        app = top(world)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: rows(pilot, "approvals"))
            await pilot.press("a")
            for left in ("4 tries", "3 tries", "2 tries", "1 tries", "0 tries"):
                await until(pilot, lambda: isinstance(app.focused, Input))
                await pilot.press(*"guess", "enter")
                await until(pilot, lambda left=left: left in words(pilot, "problem"))
            await until(pilot, lambda: isinstance(app.focused, Input))
            await pilot.press(*PIN, "enter")
            await until(pilot, lambda: "next try is possible in" in words(pilot, "problem"))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, DecisionDialog))
        assert decision(world, asked).state == "pending"


async def test_a_daemon_that_dies_is_missed_and_found_again(world: Installation) -> None:
    app = top(world)
    with world.up() as daemon:
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: "pid" in words(pilot, "head"))
            daemon.kill_daemon()
            await until(pilot, lambda: "the daemon is away" in words(pilot, "head"))
            with world.up() as second:
                await until(pilot, lambda: f"pid {second.process.pid}" in words(pilot, "head"))
                await until(pilot, lambda: "● ready" in " ".join(rows(pilot, "servers")))


def test_one_snapshot_as_json_and_errors_that_name_the_fix(world: Installation) -> None:
    away = world.cli("top", "--json", ok=False)
    assert away.returncode == 3
    assert json.loads(away.stdout)["error"]["code"] == "no_daemon"
    asked = ask(world, path="/srv/x")
    with world.up():
        found = json.loads(world.cli("top", "--json").stdout)
        assert {row["status"]["name"] for row in found["servers"]} >= {"alpha", "beta", "system"}
        assert found["servers"][0]["figures"]["calls_per_second"] == 0
        assert [one["id"] for one in found["approvals"]] == [asked]
        piped = world.cli("top", ok=False)
        assert piped.returncode == 1
        assert "top --json" in piped.stderr


def test_on_a_terminal_no_debugging_aid_sees_the_keys(world: Installation, tmp_path: Path) -> None:
    ask(world, path="/srv/x")
    spy = tmp_path / "keys.log"
    with world.up():
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(BIN / "hostwright"), "top"],
            env={**os.environ, "TEXTUAL_LOG": str(spy), "TERM": "xterm", "NO_COLOR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        seen = b""
        with closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
            steps = [(b"files_delete", b"a"), (b"PIN", PIN.encode() + b"\r"), (b"granted", b"q")]
            deadline = time.monotonic() + SECONDS
            while process.poll() is None:
                assert time.monotonic() < deadline, seen
                if select.select([terminal], [], [], 0.1)[0]:
                    try:
                        seen += terminal.read(65_536)
                    except OSError:
                        break  # the terminal's other side is closed
                if steps and steps[0][0] in seen:
                    terminal.write(steps.pop(0)[1])
        assert process.wait(SECONDS) == 0, seen
        assert not steps
        assert PIN.encode() not in seen
        assert not spy.exists()
