"""The daemon's commands through the front door, against one daemon with the system server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from hostwright.status import DaemonStatus

from .cli_world import PIN, PROGRAM, SUITE, World, wait_for

Era = Literal["legacy", "2026-07-28"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def running(world: World) -> Generator[DaemonStatus]:
    with world.daemon() as document:
        yield DaemonStatus.model_validate(document)


def server(world: World, name: str = "system") -> dict[str, Any]:
    found = {one["name"]: one for one in world.json("status")["servers"]}
    return found[name]


def client(world: World, era: Era, *name: str) -> Client[Any]:
    """What a client does that was configured by `hostwright install`."""
    transport = StdioTransport(str(PROGRAM), ["connect", *name], env=world.env(), keep_alive=False)
    return Client(transport, mode=era)


def test_up_says_that_all_is_well_and_how_to_connect(world: World, running: DaemonStatus) -> None:
    assert [one.name for one in running.servers] == [*SUITE, "hostwright"]
    assert {(one.state, one.health) for one in running.servers} == {("ready", "ok")}
    assert not running.terminal_approval
    shown = world.ok("status").out
    assert "hostwright init" in shown
    assert running.url in shown
    for words in (("up", "--detach"), ("up",)):
        again = world.run(*words, "--json")
        assert again.code == 1
        assert again.error["code"] == "already_running"
        assert str(running.pid) in again.error["message"]


def test_check_and_doctor_see_our_own_daemon(world: World, running: DaemonStatus) -> None:
    report = world.json("doctor")
    assert report["ok"], report
    found = {one["what"]: one for one in report["findings"]}
    assert "Our own daemon" in found["127.0.0.1:0"]["message"]
    assert found[f"pid {running.pid}"]["state"] == "ok"
    assert found["system"]["message"].startswith("ready, last answered")
    assert "unbroken" in found["chain"]["message"]


def test_a_server_is_stopped_started_and_restarted(world: World, running: DaemonStatus) -> None:
    first = server(world)["pid"]
    stopped = world.json("stop", "system")
    assert (stopped["ok"], stopped["changed"], stopped["state"]) == (True, True, "stopped")
    assert server(world)["pid"] is None
    assert first not in [process.pid for process in world.processes()]
    degraded = {one["what"]: one for one in world.json("doctor")["findings"]}["system"]
    assert degraded["fix"] == "hostwright start system"
    assert "ready" in world.ok("start", "system").out
    second = server(world)["pid"]
    assert world.json("start", "system")["changed"] is False
    assert world.json("restart", "system")["ok"]
    assert len({first, second, server(world)["pid"]}) == 3
    types = [one["type"] for one in world.json("audit", "log", "--type", "owner.*")["events"]]
    assert types[-1] == "owner.server_stop"


@pytest.mark.parametrize("words", [("start",), ("stop",), ("restart",), ("logs",), ("tools",)])
def test_an_unknown_server_is_one_error(
    world: World, running: DaemonStatus, words: tuple[str, ...]
) -> None:
    done = world.run(*words, "nobody", "--json")
    assert done.code == 1
    assert done.error["code"] == "not_found"
    assert "'nobody'" in done.error["message"]


def test_logs_show_the_end_and_go_on(world: World, running: DaemonStatus) -> None:
    log = world.state / "logs" / "system.jsonl"
    with log.open("a") as file:
        file.write("".join(f"line {number}\n" for number in range(5)))
    found = world.json("logs", "system", "-n", "2")
    assert (found["server"], found["lines"]) == ("system", ["line 3", "line 4"])
    assert [record["text"] for record in found["records"]] == ["line 3", "line 4"]
    following = world.start("logs", "system", "-n", "1", "-f")
    try:
        assert following.stdout
        assert following.stdout.readline() == "line 4\n"
        # It follows from where the file ends once it looks, which is a moment later.
        deadline = time.monotonic() + 30
        line = ""
        os.set_blocking(following.stdout.fileno(), False)
        while not line and time.monotonic() < deadline:
            with log.open("a") as file:
                file.write("[red]next\u202e\n")
            time.sleep(0.3)
            line = following.stdout.readline()
        assert line == "[red]next\\u202e\n"
        os.killpg(following.pid, signal.SIGINT)
        assert following.wait(30) == 130
        assert following.stderr
        assert following.stderr.read() == ""
    finally:
        following.kill()
        following.communicate()
    both = world.run("logs", "system", "-f", "--json")
    assert (both.code, both.error["code"]) == (2, "usage")


def test_an_act_waits_for_the_owner_and_runs_once(world: World, running: DaemonStatus) -> None:
    marker = world.work / "acted"
    words = ("call", "system", "shell_exec", f'argv=["touch", "{marker}"]')
    asked = world.run(*words, "--json")
    assert asked.code == 4
    assert asked.error["code"] == "approval_needed"
    assert not marker.exists()
    (waiting,) = world.json("pending")
    assert waiting["id"] in asked.error["message"] + asked.error["fix"]
    assert str(marker) in waiting["arguments"]
    world.set_pin()
    assert world.at_terminal("approve", waiting["id"], answers={"PIN: ": PIN}).code == 0
    assert world.json(*words)["exit_code"] == 0
    assert marker.exists()
    assert world.run(*words, "--json").code == 4, "a grant is used up"
    assert world.json("audit", "verify")["ok"]


def test_tools_and_call_print_what_agents_see(world: World, running: DaemonStatus) -> None:
    listed = world.json("tools", "system")
    assert len(listed) == next(one.tools for one in running.servers if one.name == "system")
    names = {tool["name"] for tool in world.json("tools")}
    assert names >= {tool["name"] for tool in listed} | {"mcp_servers"}
    found = world.json("call", "system", "system_query", "kind=ports", "limit=1")
    assert found["kind"] == "ports"
    bad = world.run("call", "system", "system_query", "kind=colours", "--json")
    assert (bad.code, bad.error["code"]) == (1, "bad_arguments")
    assert world.run("call", "system", "no_such_tool", "--json").code == 1
    assert world.run("call", "system", "system_query", "kind", "--json").code == 1


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("name", [(), ("system",)], ids=["all", "one"])
async def test_connect_joins_a_client_to_the_daemon(
    world: World, running: DaemonStatus, era: Era, name: tuple[str, ...]
) -> None:
    async with client(world, era, *name) as session:
        names = {tool.name for tool in await session.list_tools()}
        result = await session.call_tool("system_query", {"kind": "ports", "limit": 1})
    assert ("mcp_servers" in names) is (not name)
    assert result.structured_content is not None


def test_connect_refuses_what_is_not_there(world: World, running: DaemonStatus) -> None:
    done = world.run("connect", "nobody")
    assert done.code == 1
    assert "'nobody'" in done.err
    assert "fix:" in done.err
    assert world.run("connect", "a", "b").code == 2
    assert "usage" in world.run("connect", "--help").err


def test_connect_answers_what_stands_in_a_file(world: World, running: DaemonStatus) -> None:
    """A plain file as stdin cannot be waited for; its requests are answered all the same."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "file", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    file = world.work / "requests"
    file.write_text(json.dumps(request) + "\n")
    with file.open() as stdin:
        done = subprocess.run(
            [PROGRAM, "connect", "system"],
            env=world.env(),
            stdin=stdin,
            capture_output=True,
            timeout=60,
            check=True,
        )
    assert json.loads(done.stdout)["result"]["tools"]


def test_output_that_nobody_reads_to_the_end_is_no_crash(
    world: World, running: DaemonStatus
) -> None:
    piped = subprocess.run(
        ["/bin/sh", "-c", f'"{PROGRAM}" tools --json | head -n 1'],
        env=world.env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert piped.stdout == "[\n"
    assert piped.stderr == ""


def test_watching_goes_on_until_it_is_interrupted(world: World, running: DaemonStatus) -> None:
    done = world.at_terminal("status", "--watch", answers={"gateway http": "\x03"})
    assert done.code == 130
    assert "system" in done.out
    assert world.run("status", "--watch", "--json").code == 2


# Last, with folders of their own: they end their daemons.


def settled(world: World) -> bool:
    """Whether the daemon runs and every server has answered, or is not to be started."""
    shown = world.run("status", "--json")
    if shown.code != 0:
        return False
    found = DaemonStatus.model_validate_json(shown.out)
    return all(one.state not in ("starting", "stopped") for one in found.servers)


def off(folder: Path) -> World:
    """An installation that starts no server but the supervisor's own."""
    found = World(folder)
    found.without_suite()
    return found


def test_in_the_foreground_it_shows_itself_and_ends_on_a_signal(tmp_path: Path) -> None:
    world = off(tmp_path)
    up = world.start("up")
    try:
        wait_for(lambda: up.poll() is not None or settled(world))
        up.send_signal(signal.SIGTERM)
        out, err = up.communicate(timeout=60)
    finally:
        up.kill()
    assert up.returncode == 0, err
    assert "disabled" in out
    # To be copied: each on one line, however long.
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    assert any(line.endswith(f"-- {PROGRAM} connect") for line in lines), out
    assert "Authorization: Bearer" in lines[-1]
    assert not world.processes()


def test_in_the_foreground_as_json_it_is_one_document(tmp_path: Path) -> None:
    world = off(tmp_path)
    up = world.start("up", "--json")
    try:
        wait_for(lambda: up.poll() is not None or settled(world))
        wait_for(lambda: up.poll() is not None or world.run("down").code == 0)
        out, err = up.communicate(timeout=60)
    finally:
        up.kill()
    assert up.returncode == 0, err
    assert DaemonStatus.model_validate(json.loads(out)).servers[0].state == "disabled"


def test_at_a_terminal_it_shows_a_live_table_until_ctrl_c(tmp_path: Path) -> None:
    world = off(tmp_path)
    done = world.at_terminal("up", answers={"policy standard": "\x03"})
    assert done.code == 0, done.out
    assert "claude mcp add" in done.out
    assert "disabled" in done.out
    assert not world.processes()


def test_after_down_nothing_is_left_and_every_command_says_so(tmp_path: Path) -> None:
    world = off(tmp_path)
    world.ok("up", "--detach")
    assert world.json("down")["stopped"]
    assert not world.processes()
    assert not list(world.runtime.glob("*.sock"))
    for words in (
        ("status",), ("down",), ("start", "system"), ("stop", "system"), ("restart", "system"),
        ("tools",), ("call", "system", "system_health"),
    ):  # fmt: skip
        done = world.run(*words, "--json")
        assert (done.code, done.error["code"]) == (3, "no_daemon"), words
    connect = world.run("connect")
    assert connect.code == 3
    assert "hostwright up" in connect.err


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_without_a_daemon_a_named_server_runs_alone(tmp_path: Path, era: Era) -> None:
    world = World(tmp_path)
    async with client(world, era, "system") as session:
        result = await session.call_tool("system_query", {"kind": "ports", "limit": 1})
    assert result.structured_content is not None
    left = await asyncio.to_thread(wait_for, lambda: not world.processes())
    assert left


def test_a_killed_daemon_leaves_traces_that_the_next_one_clears(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.daemon() as first:
        orphan = first["servers"][0]["pid"]
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(lambda: world.run("status").code == 3)
        found = {one["what"]: one for one in world.run("doctor", "--json").document["findings"]}
        assert str(first["pid"]) in found["daemon.pid"]["message"]
        assert found["gateway.sock"]["state"] == "degraded"
        second = DaemonStatus.model_validate(world.json("up", "--detach"))
        assert second.servers[0].state == "ready"
        assert orphan not in [process.pid for process in world.processes()]
        assert world.json("audit", "verify")["ok"]


def test_reload_tells_what_it_did_and_what_is_wrong(world: World, running: DaemonStatus) -> None:
    manifests = world.config / "manifests"
    manifests.mkdir(exist_ok=True)
    file = manifests / "off.toml"
    file.write_text('name = "off"\ncommand = ["sh"]\nenabled = false\n')
    # It may have been noticed by itself a moment earlier.
    world.json("reload")
    names = {one["name"]: one["state"] for one in world.json("status")["servers"]}
    assert names["off"] == "disabled"
    assert "Nothing has changed" in world.ok("reload").out
    file.write_text('name = "off"\ncommand = [')
    wrong = world.run("reload", "--json")
    assert wrong.code == 1
    assert wrong.document["kept"] == ["off"]
    assert f"{file}:" in wrong.document["problems"][0]
    plain = world.run("reload")
    assert (plain.code, "off.toml" in plain.err) == (1, True)
    file.unlink()
    world.json("reload")
    assert "off" not in {one["name"] for one in world.json("status")["servers"]}


def test_a_hangup_reads_the_manifests_again(world: World, running: DaemonStatus) -> None:
    manifests = world.config / "manifests"
    manifests.mkdir(exist_ok=True)
    # Behind a link, so that nothing but the signal tells of a change.
    real, link = world.work / "linked.toml", manifests / "linked.toml"
    text = 'name = "linked"\ncommand = ["sh"]\nenabled = false\n'
    real.write_text(text)
    link.symlink_to(real)
    world.json("reload")
    real.write_text(f'{text}description = "after the signal"\n')
    os.kill(running.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while server(world, "linked")["description"] != "after the signal":
        assert time.monotonic() < deadline
        time.sleep(0.05)
