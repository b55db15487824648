"""Servers that die, hang, start slowly or not at all: calls end, clients stay, others go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from .daemon_harness import (
    ERAS,
    LINUX,
    WAYS,
    Era,
    Installation,
    failure,
    processes_running,
    settle,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="looks into /proc for what is left")


async def test_killing_a_server_under_fifty_calls_loses_none_of_them(home: Installation) -> None:
    with home.up() as daemon:
        outcomes: Counter[str] = Counter()

        async def one(client: Any, number: int) -> None:
            # Longer than the whole test takes: what is gone at its end has been ended.
            arguments = {"argv": ["sh", "-c", f"sleep 149.{number:03}"], "timeout_seconds": 50}
            try:
                result = await client.call_tool("shell_exec", arguments, raise_on_error=False)
            except MCPError as error:
                outcomes[f"protocol {error.error.message}"] += 1
                return
            outcomes["ok" if not result.is_error else failure(result)["code"]] += 1
            if result.is_error:
                assert "receipt_list" in failure(result)["fix"]

        async with contextlib.AsyncExitStack() as stack:
            key = home.token("clients")
            clients = [
                await stack.enter_async_context(daemon.client(way, era, token=key))
                for way in WAYS
                for era in ERAS
            ]
            calls = [
                asyncio.create_task(one(clients[number % len(clients)], number))
                for number in range(50)
            ]
            await asyncio.to_thread(
                wait_for, lambda: len(home.events(type="call.intent")) >= 30, seconds=40
            )
            pid = await asyncio.to_thread(daemon.kill, "system")
            await asyncio.wait_for(asyncio.gather(*calls), 40)
            assert set(outcomes) <= {"ok", "server_ended"}, outcomes
            assert outcomes["server_ended"] >= 30, outcomes
            # The same sessions go on, on the next process, and what the last one ran is gone.
            for client in clients:
                assert not (await client.call_tool("system_health", {})).is_error
                await client.call_tool("shell_exec", {"argv": ["true"]})
            assert daemon.server("system")["pid"] != pid
            assert daemon.server("system")["restarts"] == 1
        home.assert_ledger_holds()
        # What was cut off shows as begun without an end, and nothing of it runs on.
        finished = {one.intent_id for one in home.events(type="call.outcome")}
        cut = [one for one in home.events(type="call.intent") if one.id not in finished]
        assert len(cut) >= 30
    assert settle(lambda: processes_running("sleep\000149.0")) == []


async def test_calls_wait_while_a_server_restarts(bare_home: Installation) -> None:
    bare_home.third_party("slow", "--slow-start", "1")
    with bare_home.up() as daemon:
        async with daemon.client("stdio", server="slow") as client:
            for _ in range(2):
                daemon.kill("slow")
                started = time.monotonic()
                results = await asyncio.gather(
                    *(client.call_tool("echo", {"n": n}, raise_on_error=False) for n in range(10))
                )
                # At most the ones that met the dying process are errors; the rest waited.
                for result in results:
                    assert not result.is_error or failure(result)["code"] == "server_ended"
                assert text(await client.call_tool("echo", {})) == "slow.echo {}"
                assert time.monotonic() - started < 60
                # Lists are answered from memory meanwhile, health and status too.
                daemon.kill("slow")
                assert "echo" in {tool.name for tool in await client.list_tools()}
                assert daemon.server("slow")["tools"]
                # Whoever calls before the daemon has seen the death is told so, as above.
                met = await client.call_tool("echo", {}, raise_on_error=False)
                assert not met.is_error or failure(met)["code"] == "server_ended"
                assert text(await client.call_tool("echo", {})) == "slow.echo {}"


async def test_a_stopped_server_is_an_error_at_once_and_a_started_one_answers(
    bare_home: Installation,
) -> None:
    bare_home.third_party("off", more="enabled = false")
    bare_home.third_party("other", "--resources")
    with bare_home.up() as daemon:
        async with daemon.client() as client, daemon.client(era="legacy") as old:
            assert (await client.call_tool("mcp_server_stop", {"name": "other"})).structured_content
            for one in (client, old):
                result = await one.call_tool("other__echo", {}, raise_on_error=False)
                assert failure(result)["code"] == "server_unavailable"
                assert "hostwright start other" in failure(result)["fix"]
                # What has no isError says the same as a protocol error.
                for question in (
                    one.get_prompt("other__hello"),
                    one.read_resource("other+note://one"),
                ):
                    with pytest.raises(MCPError, match="hostwright start other"):
                        await question
            ready = httpx2.get(f"{daemon.origin}/readyz")
            assert ready.json()["servers"]["other"] == "stopped"
            await client.call_tool("mcp_server_start", {"name": "other"})
            assert text(await old.call_tool("other__echo", {})) == "other.echo {}"
            # Never started: not offered, and startable.
            names = {tool.name for tool in await client.list_tools()}
            assert "off__echo" not in names
            await client.call_tool("mcp_server_start", {"name": "off"})
            assert text(await client.call_tool("off__echo", {})) == "off.echo {}"
            again = await client.call_tool("mcp_server_restart", {"name": "off"})
            assert again.structured_content
            assert again.structured_content["ok"] is True
            for tool in ("mcp_server_start", "mcp_server_stop", "mcp_server_logs"):
                missing = await client.call_tool(tool, {"name": "no-such"}, raise_on_error=False)
                assert failure(missing)["code"] == "not_found"


async def test_a_crash_loop_opens_the_breaker_and_disturbs_nobody(bare_home: Installation) -> None:
    bare_home.third_party("bad", "--crash-on-start", breaker=3)
    bare_home.third_party("good")
    bare_home.manifest("absent", 'command = ["/no/such/program"]', breaker=2)
    bare_home.manifest("unset", 'command = ["true"]\nenv = { KEY = "${NO_SUCH_VARIABLE_HERE}" }')
    with bare_home.up(settled=False) as daemon:
        # Also while it backs off, when the time of its next start is shown.
        async with daemon.client() as client:
            bad = daemon.wait_state("bad", "broken")
            assert "exited with code 3" in bad["last_error"]
            assert any("licence" in line for line in bad["last_stderr"])
            daemon.wait_state("absent", "broken")
            for _ in range(20):
                assert text(await client.call_tool("good__echo", {})) == "good.echo {}"
            shown = str((await client.call_tool("mcp_servers", {})).structured_content)
            assert "cannot find my licence file" in shown
            assert "/no/such/program" in shown
            logs = await client.call_tool("mcp_server_logs", {"name": "bad"})
            assert "cannot find my licence file" in str(logs.structured_content)
            ready = httpx2.get(f"{daemon.origin}/readyz")
            assert ready.status_code == 503
            assert ready.json()["servers"]["bad"] == "broken"
            started = await client.call_tool(
                "mcp_server_start", {"name": "bad"}, raise_on_error=False
            )
            assert failure(started)["code"] == "start_failed"
        async with daemon.client(server="bad") as client:
            assert await client.list_tools() == []
        assert daemon.server("good")["restarts"] == 0
    broken = {event.server for event in bare_home.events(type="server.broken")}
    assert {"bad", "absent"} <= broken


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_ends_its_server_is_an_error_and_the_next_one_works(
    bare_home: Installation, era: Era
) -> None:
    bare_home.third_party("mortal")
    with bare_home.up() as daemon:
        async with daemon.client("socket", era, server="mortal") as client:
            for _ in range(3):
                beside = asyncio.create_task(
                    client.call_tool("echo", {"seconds": 5}, raise_on_error=False)
                )
                await asyncio.sleep(0.1)
                result = await client.call_tool("die", {}, raise_on_error=False)
                assert failure(result)["code"] == "server_ended"
                assert failure(await beside)["code"] == "server_ended"
                assert text(await client.call_tool("echo", {})) == "mortal.echo {}"
        assert daemon.server("mortal")["restarts"] == 3


HEALTH = """
stop_timeout_seconds = 1
[health]
interval_seconds = 0.2
timeout_seconds = 0.5
failures_before_restart = 2
"""


@pytest.mark.parametrize("fault", ["deaf", "close_stdout", "stopped"])
async def test_a_server_that_lives_and_does_not_answer_is_replaced(
    bare_home: Installation, fault: str
) -> None:
    bare_home.third_party("wedged", more=HEALTH)
    with bare_home.up() as daemon:
        async with daemon.client(server="wedged") as client:
            first = int(text(await client.call_tool("pid", {})))
            if fault == "stopped":
                os.kill(first, signal.SIGSTOP)
                call = asyncio.create_task(client.call_tool("echo", {}, raise_on_error=False))
            else:
                call = asyncio.create_task(client.call_tool(fault, {}, raise_on_error=False))
            big = [
                asyncio.create_task(
                    client.call_tool("echo", {"x": "y" * 200_000}, raise_on_error=False)
                )
                for _ in range(5)
            ]
            for result in await asyncio.wait_for(asyncio.gather(call, *big), 40):
                if result.is_error:
                    assert failure(result)["code"] in ("server_ended", "server_not_ready")
            assert int(text(await client.call_tool("pid", {}))) != first


async def test_a_hanging_call_holds_up_no_other(bare_home: Installation) -> None:
    bare_home.third_party("patient")
    with bare_home.up() as daemon:
        async with daemon.client(server="patient") as client:
            hanging = [asyncio.create_task(client.call_tool("hang", {})) for _ in range(20)]
            for number in range(50):
                assert text(await client.call_tool("echo", {"n": number})).endswith(
                    f'{{"n": {number}}}'
                )
            assert not any(call.done() for call in hanging)
            for call in hanging:
                call.cancel()
            await asyncio.wait(hanging)
        assert daemon.server("patient")["restarts"] == 0


async def test_a_slow_or_silent_start_is_waited_for(bare_home: Installation) -> None:
    """As `npx` and `uvx` are when they first download what they are to run."""
    bare_home.third_party("modern", "--era", "modern", "--slow-start", "6")
    bare_home.third_party("legacy", "--era", "legacy", "--slow-start", "6")
    bare_home.third_party("silent", "--era", "legacy", "--silent")
    with bare_home.up(settled=False) as daemon:
        async with daemon.client() as client:
            for name in ("modern", "legacy", "silent"):
                await asyncio.to_thread(daemon.wait_state, name, "ready")
                assert text(await client.call_tool(f"{name}__echo", {})) == f"{name}.echo {{}}"
                assert daemon.server(name)["restarts"] == 0


async def test_a_server_without_tools_is_healthy_only_while_it_answers(
    bare_home: Installation,
) -> None:
    bare_home.third_party("quiet", "--no-tools", "--resources", more=HEALTH)
    bare_home.third_party("modest", "--no-tools", "--era", "modern", more=HEALTH)
    with bare_home.up() as daemon:
        async with daemon.client() as client:
            found = await client.read_resource("quiet+note://one")
            assert "quiet reads" in str(found)
        for name in ("quiet", "modest"):
            pid = daemon.wait_state(name, "ready")["pid"]
            os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + 20
            while daemon.server(name)["pid"] == pid:
                assert time.monotonic() < deadline, daemon.server(name)
                await asyncio.sleep(0.1)


async def test_what_the_owner_excluded_cannot_be_called(bare_home: Installation) -> None:
    bare_home.third_party("cut", more='[tools]\ninclude = ["e*", "p*"]\nexclude = ["pid"]\n')
    with bare_home.up() as daemon:
        for server, prefix in (("", "cut__"), ("cut", "")):
            async with daemon.client(server=server) as client:
                names = {tool.name for tool in await client.list_tools()}
                assert f"{prefix}echo" in names
                assert not {f"{prefix}pid", f"{prefix}die"} & names
                for name in ("pid", "die", "cut__pid"):
                    result = await client.call_tool(name, {}, raise_on_error=False)
                    assert failure(result)["code"] == "unknown_tool"
        assert daemon.server("cut")["restarts"] == 0


async def test_a_remote_server_that_comes_and_goes(bare_home: Installation, tmp_path: Any) -> None:
    """A manifest with a url: another supervisor's own server, over HTTP with a token."""
    far = Installation(tmp_path / "far")
    far.without_suite()
    far.third_party("distant", "--resources")
    try:
        with far.up() as upstream:
            port = httpx2.URL(upstream.url).port or 0
            token = far.token("near")
            bare_home.manifest(
                "remote",
                f'url = "{upstream.url}/distant"\nheaders = {{ Authorization = "Bearer {token}" }}',
                more=HEALTH,
            )
            with bare_home.up() as daemon:
                daemon.wait_state("remote", "ready")
                async with (
                    daemon.client(server="remote") as client,
                    daemon.client(era="legacy", server="remote") as old,
                ):
                    for one in (client, old):
                        answer = text(await one.call_tool("echo", {"a": None}))
                        assert answer == 'distant.echo {"a": null}'
                        assert "distant reads" in str(await one.read_resource("note://one"))
                    upstream.end()
                    waiting = asyncio.create_task(
                        client.call_tool("echo", {}, raise_on_error=False)
                    )
                    far.port = port
                    with far.up():
                        result = await asyncio.wait_for(waiting, 30)
                        if result.is_error:
                            assert failure(result)["code"] in ("server_ended", "server_not_ready")
                        await asyncio.to_thread(daemon.wait_state, "remote", "ready")
                        for one in (client, old):
                            assert text(await one.call_tool("echo", {})) == "distant.echo {}"
    finally:
        far.close()
