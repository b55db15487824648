"""The supervisor itself killed in the middle of its work, and ended while clients are there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from .daemon_harness import (
    ERAS,
    LINUX,
    Era,
    Installation,
    processes_running,
    settle,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="looks into /proc for what is left")


GONE = (MCPError, httpx2.HTTPError, RuntimeError, ExceptionGroup)
"""What a client may say whose daemon has gone."""


async def write_on_and_on(client: Any, home: Installation, number: int) -> int:
    """Overwrite one file again and again until the connection ends; how often it was told ok."""
    told = 0
    with contextlib.suppress(*GONE):
        while True:
            arguments = {"path": str(home.work / f"f{number}"), "content": f"{told + 1}\n" * 200}
            result = await client.call_tool("file_write", arguments, raise_on_error=False)
            if result.is_error:
                return told
            told += 1
    return told


async def test_a_killed_daemon_leaves_a_true_record_and_nothing_running(
    home: Installation,
) -> None:
    home.third_party("other")
    old: set[int] = set()
    told: list[int] = []
    with home.up() as daemon, contextlib.suppress(*GONE):
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(daemon.client("socket")) for _ in range(4)]
            sleeper = asyncio.create_task(
                clients[0].call_tool("shell_exec", {"argv": ["sleep", "47.25"]})
            )
            writers = [
                asyncio.create_task(write_on_and_on(client, home, number))
                for number, client in enumerate(clients)
            ]
            await asyncio.to_thread(
                wait_for, lambda: len(home.events(type="call.outcome")) > 40, daemon.said
            )
            assert processes_running("sleep\00047.25")
            old |= set(home.processes())
            daemon.kill_daemon()
            told += await asyncio.wait_for(asyncio.gather(*writers), 30)
            sleeper.cancel()
            await asyncio.wait([sleeper])
    assert len(told) == 4
    assert min(told) > 0
    # What was reported as done is done, and the files are whole.
    for number, count in enumerate(told):
        lines = set((home.work / f"f{number}").read_text().split())
        assert len(lines) == 1
        assert count <= int(lines.pop()) <= count + 1
    home.assert_ledger_holds()
    acts = home.events(type="call.outcome", tool="file_write")
    assert all(one.outcome == "ok" for one in acts)
    # With the daemon went its servers, and with them what they ran.
    assert old
    assert settle(lambda: old & set(home.processes())) == set()
    assert settle(lambda: processes_running("sleep\00047.25")) == []
    with home.up() as daemon:
        async with daemon.client("stdio") as client:
            assert text(await client.call_tool("other__echo", {})).startswith("other.echo")
            receipts = await client.call_tool("receipt_list", {"outcome": "unrecorded"})
            assert "47.25" in str(receipts.structured_content)
        home.assert_ledger_holds()
    assert home.processes() == {}


async def test_ending_the_daemon_ends_what_runs_and_puts_it_on_record(home: Installation) -> None:
    home.third_party("other")
    key = home.token("staying")
    with home.up() as daemon, contextlib.suppress(*GONE):
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(daemon.client("stdio")),
                await stack.enter_async_context(daemon.client("socket", "legacy")),
                await stack.enter_async_context(daemon.client("http", "legacy", token=key)),
                await stack.enter_async_context(daemon.client("http", token=key)),
            ]
            calls = [
                asyncio.create_task(client.call_tool("shell_exec", {"argv": ["sleep", "48.5"]}))
                for client in clients
            ]
            calls += [
                asyncio.create_task(client.call_tool("other__hang", {})) for client in clients
            ]
            await asyncio.to_thread(
                wait_for, lambda: len(processes_running("sleep\00048.5")) >= len(clients)
            )
            ended = await asyncio.to_thread(home.cli, "down")
            assert "ended" in ended.stdout
            assert daemon.process.wait(60) == 0
            done, waiting = await asyncio.wait(calls, timeout=60)
            for call in waiting:
                call.cancel()
            for call in done:
                # Looked at: each is an error or an answer, none is forgotten.
                assert call.cancelled() or call.exception() or call.result()
            assert not waiting
    assert daemon.process.poll() == 0
    assert "Traceback" not in home.log.read_text()
    assert settle(lambda: processes_running("sleep\00048.5")) == []
    assert home.processes() == {}
    assert not list(home.runtime.glob("*.sock"))
    home.assert_ledger_holds()
    finished = {one.intent_id for one in home.events(type="call.outcome")}
    assert all(one.id in finished for one in home.events(type="call.intent"))


@pytest.mark.parametrize("era", ERAS)
async def test_who_comes_at_once_finds_everything(home: Installation, era: Era) -> None:
    """A client that reconnects after a restart of the daemon calls what it knows from before."""
    home.third_party("slow", "--slow-start", "2", "--resources")
    with home.up(settled=False) as daemon:
        async with daemon.client("stdio", era) as client, daemon.client(era=era) as other:
            called, read, names = await asyncio.gather(
                other.call_tool("slow__echo", {}),
                other.read_resource("slow+note://one"),
                client.list_tools(),
            )
            assert text(called) == "slow.echo {}"
            assert "slow reads" in str(read)
            assert {"slow__echo", "system_health"} <= {tool.name for tool in names}


async def test_a_server_that_never_gets_ready_holds_up_no_list(bare_home: Installation) -> None:
    bare_home.third_party("never", "--slow-start", "60", more="stop_timeout_seconds = 1")
    bare_home.third_party("good")
    with bare_home.up(settled=False) as daemon:
        async with daemon.client() as client:
            names = {tool.name for tool in await asyncio.wait_for(client.list_tools(), 15)}
            assert "good__echo" in names
            assert text(await client.call_tool("good__echo", {})) == "good.echo {}"


def test_a_signal_during_the_start_ends_it_cleanly(bare_home: Installation) -> None:
    bare_home.third_party("late", "--slow-start", "30", more="stop_timeout_seconds = 1")
    for number in (signal.SIGTERM, signal.SIGINT):
        with bare_home.up(settled=False) as daemon:
            wait_for(lambda: daemon.server("late")["pid"])
            os.kill(daemon.process.pid, number)
            assert daemon.process.wait(25) == 0, daemon.said()
    assert "Traceback" not in bare_home.log.read_text()


def test_a_second_daemon_is_refused_and_harms_nothing(bare_home: Installation) -> None:
    bare_home.third_party("only")
    with bare_home.up() as daemon:
        pid = daemon.server("only")["pid"]
        second = bare_home.cli("up", ok=False)
        assert second.returncode != 0
        assert "Traceback" not in second.stderr
        assert str(daemon.process.pid) in second.stderr
        assert daemon.server("only")["pid"] == pid
        with daemon.wire("only") as wire:
            assert wire.ask("tools/list")["result"]["tools"]
        # The same for its port.
        port = httpx2.URL(daemon.url).port or 0
        other = Installation(bare_home.folder / "other")
        other.without_suite()
        other.port = port
        try:
            refused = other.cli("up", ok=False)
            assert refused.returncode != 0
            assert str(port) in refused.stderr
            assert "fix" in refused.stderr.lower()
            assert not other.processes()
        finally:
            other.close()


def test_a_wrong_manifest_is_shown_and_takes_nobody_down(bare_home: Installation) -> None:
    bare_home.third_party("fine")
    folder = bare_home.config / "manifests"
    (folder / "broken.toml").write_text('name = "broken"\ncommand = [')
    (folder / "unknown.toml").write_text('name = "unknown"\ncommand = ["true"]\nportt = 1\n')
    (folder / "hostwright.toml").write_text('name = "hostwright"\ncommand = ["true"]\n')
    with bare_home.up() as daemon:
        problems = " ".join(daemon.status()["problems"])
        for word in ("broken.toml", "portt", "hostwright"):
            assert word in problems
        with daemon.wire("fine") as wire:
            assert wire.ask("tools/list")["result"]["tools"]
