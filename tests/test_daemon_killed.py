"""The supervisor killed under clients that stay: their sessions go on with the next one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from .daemon_harness import (
    BIN,
    ERAS,
    LINUX,
    Daemon,
    Era,
    Installation,
    failure,
    request,
    text,
    wait_for,
)

DAY = 86_400.0


def kill_and_start(home: Installation, daemon: Daemon, stack: ExitStack) -> Daemon:
    """SIGKILL, then another one on the same folders."""
    daemon.kill_daemon()
    return stack.enter_context(home.up())


def fixed_port(home: Installation, daemon: Daemon) -> None:
    """The next one listens where this one does."""
    home.port = httpx2.URL(daemon.url).port or 0


# -- clients over stdio ----------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_stdio_client_goes_on_with_the_next_daemon(home: Installation, era: Era) -> None:
    """What ran is asked again where that does no harm; else its client hears what is known."""
    home.third_party("demo", "--tool", "read_slowly")
    with ExitStack() as stack:
        daemon = stack.enter_context(home.up())
        async with daemon.client("stdio", era) as client:
            reading = asyncio.create_task(
                client.call_tool("demo__read_slowly", {"seconds": 3}, raise_on_error=False)
            )
            acting = asyncio.create_task(
                client.call_tool("shell_exec", {"argv": ["sleep", "53.5"]}, raise_on_error=False)
            )
            hanging = asyncio.create_task(client.call_tool("demo__hang", {}, raise_on_error=False))
            await until(lambda: home.events(type="call.intent", tool="shell_exec"))
            async with asyncio.timeout(60):
                while True:
                    if "read_slowly" in text(await client.call_tool("demo__seen", {})):
                        break
                    await asyncio.sleep(0.02)
            daemon = await asyncio.to_thread(kill_and_start, home, daemon, stack)
            async with asyncio.timeout(60):
                assert text(await reading).startswith("demo.read_slowly")
                acted = failure(await acting)
                assert acted["code"] == "server_ended"
                assert "shell_exec of system" in acted["message"]
                intent = home.events(type="call.intent", tool="shell_exec")[0]
                assert intent.id in acted["message"]
                hung = failure(await hanging)
                assert "hang of demo" in hung["message"]
                assert "sent" in hung["message"]
                assert text(await client.call_tool("demo__echo", {})).startswith("demo.echo")
                names = {tool.name for tool in await client.list_tools()}
                assert {"demo__echo", "shell_exec"} <= names
        home.assert_ledger_holds()
    assert not LINUX or home.processes() == {}


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_for, condition)


def test_half_a_line_is_not_lost(bare_home: Installation) -> None:
    """Half of a request that the killed daemon had read, and half of an answer that it wrote."""
    bare_home.third_party("demo", "--tool", "read_much")
    line = request("half", "tools/call", name="echo", arguments={"text": "y" * 100_000})
    with ExitStack() as stack:
        daemon = stack.enter_context(bare_home.up())
        wire = stack.enter_context(daemon.wire("demo"))
        assert wire.ask("tools/list")["result"]
        # More than a pipe holds: it leaves by half, as long as nobody reads.
        wire.send(request("big", "tools/call", name="big", arguments={"bytes": 300_000}))
        wire.send(line[:70_000])
        folder = bare_home.runtime / "lines"
        [journal] = folder.iterdir()
        wait_for(lambda: b"y" * 60_000 in journal.read_bytes())
        wait_for(lambda: half_out(journal))
        kill_and_start(bare_home, daemon, stack)
        answered: dict[Any, Any] = {}
        broken = 0

        def read() -> None:
            nonlocal broken
            assert wire.process.stdout
            while {"big", "half"} - answered.keys():
                said = wire.process.stdout.readline()
                assert said
                try:
                    message = json.loads(said)
                except ValueError:
                    broken += 1
                    continue
                answered[message["id"]] = message

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        wire.send(line[70_000:])
        reading.join(60)
        assert not reading.is_alive(), answered.keys()
        assert broken == 1
        assert answered["big"]["result"]["isError"]
        assert "yyy" in answered["half"]["result"]["content"][0]["text"]
        assert wire.ask("tools/list")["result"]["tools"]
        assert [one.name for one in folder.iterdir()] == [journal.name]
    assert list((bare_home.runtime / "lines").iterdir()) == []


def half_out(journal: Any) -> bool:
    with journal.open("rb") as file:
        return file.read(11)[10] == 1


def connect(home: Installation, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(BIN / "hostwright"), "connect", *words],
        env=home.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ensure_starts_the_next_daemon(bare_home: Installation) -> None:
    bare_home.third_party("demo", "--idempotent")
    try:
        with connect(bare_home, "--ensure", "demo") as process:
            assert process.stdin
            assert process.stdout
            for number in range(3):
                line = request(number, "tools/call", name="echo", arguments={})
                process.stdin.write(line)
                process.stdin.flush()
                assert b"demo.echo" in process.stdout.readline()
                if number < 2:
                    pid = int(json.loads(bare_home.cli("status", "--json").stdout)["pid"])
                    subprocess.run(["kill", "-KILL", str(pid)], check=True)
            process.stdin.close()
            assert process.wait(30) == 0
    finally:
        bare_home.cli("down", ok=False)
    assert not LINUX or wait_for(lambda: not bare_home.processes())


def test_who_waits_for_the_next_daemon_ends_with_its_client(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with bare_home.up() as daemon, connect(bare_home, "demo") as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(request(1, "tools/list"))
        process.stdin.flush()
        assert process.stdout.readline()
        daemon.kill_daemon()
        process.stdin.close()
        process.stdout.close()
        assert process.wait(30) == 0


def test_a_session_that_was_ended_is_not_resumed(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with ExitStack() as stack:
        daemon = stack.enter_context(bare_home.up())
        with connect(bare_home, "demo") as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(request(1, "tools/list"))
            process.stdin.flush()
            assert process.stdout.readline()
            daemon.kill_daemon()
            for journal in (bare_home.runtime / "lines").iterdir():
                journal.unlink()
            stack.enter_context(bare_home.up())
            assert process.wait(60) == 1
            assert process.stderr
            assert b"not known any more" in process.stderr.read()


# -- sessions over HTTP ----------------------------------------------------------------------------


async def test_an_http_session_goes_on_with_the_next_daemon(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    bare_home.third_party("other")
    key = bare_home.token("staying")
    with ExitStack() as stack:
        daemon = stack.enter_context(bare_home.up())
        fixed_port(bare_home, daemon)
        async with daemon.client("http", "legacy", token=key) as client:
            before = {tool.name for tool in await client.list_tools()}
            for _ in range(2):
                daemon = await asyncio.to_thread(kill_and_start, bare_home, daemon, stack)
                # The same session, and no second handshake: the client knows of nothing.
                assert "demo.echo" in text(await client.call_tool("demo__echo", {}))
            assert {tool.name for tool in await client.list_tools()} == before


def open_session(daemon: Daemon, key: str, *, server: str = "") -> str:
    said = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": said}
    answer = daemon.post(json.dumps(body).encode(), server=server, token=key)
    assert answer.status_code == 200, answer.text
    session = answer.headers["mcp-session-id"]
    note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    told = daemon.post(note, server=server, token=key, Mcp_Session_Id=session)
    assert told.status_code == 202
    return session


def ask(daemon: Daemon, key: str, session: str, *, server: str = "") -> httpx2.Response:
    body = b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}'
    return daemon.post(body, server=server, token=key, Mcp_Session_Id=session)


def test_the_rules_of_an_http_session_hold_after_a_kill(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    bare_home.third_party("other")
    keys = {name: bare_home.token(name) for name in ("one", "two", "gone")}
    with ExitStack() as stack:
        daemon = stack.enter_context(bare_home.up())
        mine = open_session(daemon, keys["one"])
        narrow = open_session(daemon, keys["one"], server="demo")
        theirs = open_session(daemon, keys["gone"])
        old = open_session(daemon, keys["two"])
        ended = open_session(daemon, keys["two"])
        gone = httpx2.delete(
            daemon.url,
            headers={"Authorization": f"Bearer {keys['two']}", "Mcp-Session-Id": ended},
        )
        assert gone.status_code == 200
        daemon.kill_daemon()
        bare_home.cli("token", "gone", "--revoke")
        expire(bare_home, "two", DAY * 15)
        daemon = stack.enter_context(bare_home.up())
        assert b"demo__echo" in ask(daemon, keys["one"], mine).content
        # Bound to its endpoint and to its token.
        assert ask(daemon, keys["one"], mine, server="demo").status_code == 404
        assert b'"echo"' in ask(daemon, keys["one"], narrow, server="demo").content
        assert ask(daemon, keys["two"], mine).status_code == 404
        # The token is not good any more; nor does its session open to another one's.
        assert ask(daemon, keys["gone"], theirs).status_code == 401
        assert ask(daemon, keys["one"], theirs).status_code == 404
        # Ended by its client; too old; never there.
        for session in (ended, old, "0" * 32):
            assert ask(daemon, keys["two"], session).status_code == 404
        # A token made anew under the same name is another one.
        again = bare_home.token("gone")
        assert ask(daemon, again, theirs).status_code == 404


def expire(home: Installation, token: str, seconds: float) -> None:
    """As if the sessions of this token had been opened so much earlier."""
    with contextlib.closing(sqlite3.connect(home.state / "sessions.db")) as db, db:
        opened = time.time() - seconds
        db.execute("UPDATE sessions SET opened = ? WHERE token = ?", (opened, token))
