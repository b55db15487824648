"""`hostwright up --reexec`: a daemon becomes its successor, and nobody who is connected notices."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .daemon_harness import (
    BIN,
    ERAS,
    LINUX,
    WAYS,
    Daemon,
    Era,
    Installation,
    Way,
    request,
    text,
    wait_for,
)

SUBSCRIBING = str(Path(__file__).with_name("subscribing_server.py"))


def replace(home: Installation, *words: str) -> dict[str, Any]:
    """Replace the daemon; how it is afterwards."""
    return json.loads(home.cli("up", "--reexec", "--json", *words).stdout)


def replaced(daemon: Daemon) -> int:
    return int(daemon.status()["replaced"])


async def test_clients_of_every_kind_keep_their_sessions(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    key = bare_home.token("staying")
    with bare_home.up() as daemon:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(daemon.client(way, era, token=key, server="demo"))
                for way in WAYS
                for era in ERAS
            ]
            for number in (1, 2):
                await everything_works(clients)
                state = await asyncio.to_thread(replace, bare_home)
                assert state["pid"] == daemon.process.pid
                assert state["replaced"] == number
            await everything_works(clients)


async def everything_works(clients: list[Any]) -> None:
    for number, client in enumerate(clients):
        said = text(await client.call_tool("echo", {"n": number}))
        assert said == f'demo.echo {{"n": {number}}}'
        assert "echo" in {tool.name for tool in await client.list_tools()}


def by_new_connections(daemon: Daemon, key: str) -> Callable[[], None]:
    """One call over the port, on a connection of its own."""
    port = int(daemon.origin.rpartition(":")[2])

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        ask_over(connection, key)
        connection.close()

    return call


def by_one_connection(daemon: Daemon, key: str) -> Callable[[], None]:
    """The same on one connection that is kept open."""
    port = int(daemon.origin.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    mine = connection.sock

    def call() -> None:
        ask_over(connection, key)
        # http.client would connect again by itself where it was hung up on.
        assert connection.sock is mine

    return call


def ask_over(connection: http.client.HTTPConnection, key: str) -> None:
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
    }
    body = request(1, "tools/call", name="echo", arguments={})
    connection.request("POST", "/mcp/demo", body, headers)
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == 200, said
    assert b"demo.echo" in said, said


def by_unix_socket(daemon: Daemon, _: str) -> Callable[[], None]:
    """A probe over the owner's socket, on a connection of its own."""

    def call() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(daemon.home.runtime / "gateway.sock"))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")

    return call


def by_connect_socket(daemon: Daemon, _: str) -> Callable[[], None]:
    """What `hostwright connect` does where it copies."""

    def call() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(daemon.home.runtime / "connect.sock"))
            client.sendall(b'{"connect":"demo"}\n')
            lines = client.makefile("rb")
            assert json.loads(lines.readline())["connected"]
            client.sendall(request(1, "tools/call", name="echo", arguments={}))
            assert b"demo.echo" in lines.readline()

    return call


def by_lines(daemon: Daemon, _: str) -> Callable[[], None]:
    """One `hostwright connect` that stays."""
    with daemon.home.log.open("ab") as log:
        process = subprocess.Popen(
            [str(BIN / "hostwright"), "connect", "demo"],
            env=daemon.home.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    mine, answers = process.stdin, process.stdout
    assert mine
    assert answers

    def call() -> None:
        mine.write(request(1, "tools/call", name="echo", arguments={}))
        mine.flush()
        assert b"demo.echo" in answers.readline()

    return call


CALLERS = (by_new_connections, by_one_connection, by_unix_socket, by_connect_socket, by_lines)


class Loop(threading.Thread):
    """Calls again and again until told to stop; the first failure ends it."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.done = 0
        self.failed: Exception | None = None
        self.over = threading.Event()

    def __repr__(self) -> str:
        return f"{self.call.__qualname__}: {self.done} calls, {self.failed!r}"

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.call()
            except Exception as error:  # noqa: BLE001 - shown by the test
                self.failed = error
                return
            self.done += 1


def gone_on(loops: list[Loop], before: list[int]) -> bool:
    assert all(one.failed is None for one in loops), loops
    return all(one.done > count for one, count in zip(loops, before, strict=True))


def test_nobody_is_refused_and_no_call_fails(bare_home: Installation) -> None:
    bare_home.third_party("demo", "--idempotent")
    key = bare_home.token("looping")
    with bare_home.up() as daemon:
        loops = [Loop(make(daemon, key)) for make in CALLERS]
        for one in loops:
            one.start()
        try:
            for number in (1, 2):
                before = [one.done for one in loops]
                wait_for(lambda b=before: gone_on(loops, b), lambda: str(loops))
                assert replace(bare_home)["replaced"] == number
            after = [one.done for one in loops]
            wait_for(lambda: gone_on(loops, after), lambda: str(loops))
        finally:
            for one in loops:
                one.over.set()
            for one in loops:
                one.join(60)
        assert [one.failed for one in loops] == [None] * len(loops), daemon.said()


async def test_what_runs_is_given_time(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    key = bare_home.token("waiting")
    with bare_home.up() as daemon:
        ways: list[tuple[Way, Era]] = [("stdio", "legacy"), ("http", ERAS[1]), ("http", "legacy")]
        clients = [daemon.client(way, era, token=key, server="demo") for way, era in ways]
        async with clients[0] as one, clients[1] as two, clients[2] as three:
            calls = [
                asyncio.create_task(client.call_tool("echo", {"seconds": 1.5, "n": number}))
                for number, client in enumerate((one, two, three))
            ]
            await seen_by(one, '"seconds": 1.5', 3)
            await asyncio.to_thread(replace, bare_home, "--grace", "60")
            for number, call in enumerate(calls):
                assert f'"n": {number}' in text(await call)
            # It was this very call, not a second one.
            assert str(text(await one.call_tool("echo", {}))).startswith("demo.echo")


async def seen_by(client: Any, what: str, count: int) -> None:
    """Until the server has so many of these calls in its hands."""
    async with asyncio.timeout(60):
        while True:
            if text(await client.call_tool("seen", {})).count(what) >= count:
                return
            await asyncio.sleep(0.02)


async def test_what_does_not_end_in_time_is_told_so(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    key = bare_home.token("hanging")
    with bare_home.up() as daemon:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(daemon.client(way, era, token=key, server="demo"))
                for way in ("stdio", "http")
                for era in ERAS
            ]
            calls = [
                asyncio.create_task(client.call_tool("hang", {"who": "cut"}, raise_on_error=False))
                for client in clients
            ]
            await seen_by(clients[0], '"who": "cut"', len(calls))
            await asyncio.to_thread(replace, bare_home, "--grace", "0.2")
            for call in calls[:2]:
                told = await asyncio.wait_for(call, 60)
                assert told.is_error
                assert "supervisor ended while hang of demo was running" in text(told)
            for call in calls[2:]:
                with pytest.raises(Exception, match=r"cut off|503"):
                    await asyncio.wait_for(call, 60)
            await everything_works(clients)


def test_a_mistake_in_the_configuration_changes_nothing(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with bare_home.up() as daemon:
        before = daemon.server("demo")["pid"]
        config = bare_home.config / "config.toml"
        good = config.read_text()
        config.write_text(good + "\n[gateway]\nrequire_token = 7\n")
        done = bare_home.cli("up", "--reexec", ok=False)
        assert done.returncode == 1
        assert "goes on as it was" in done.stderr
        assert "require_token" in done.stderr
        assert "Traceback" not in done.stderr
        config.write_text(good)
        (bare_home.config / "manifests" / "broken.toml").write_text('name = "broken"\ncommand = [')
        done = bare_home.cli("up", "--reexec", "--json", ok=False)
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "successor_refused"
        assert "broken.toml" in error["message"]
        assert error["fix"]
        assert replaced(daemon) == 0
        assert daemon.server("demo")["pid"] == before


def test_what_is_configured_by_then_holds(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with bare_home.up() as daemon:
        assert daemon.status()["profile"] == "autonomous"
        bare_home.configure("observe")
        bare_home.third_party("later")
        replace(bare_home)
        assert daemon.status()["profile"] == "observe"
        with daemon.wire("later") as wire:
            assert wire.ask("tools/list")["result"]["tools"]


def test_without_a_daemon_it_says_so(bare_home: Installation) -> None:
    done = bare_home.cli("up", "--reexec", ok=False)
    assert done.returncode == 3
    assert "hostwright up" in done.stderr
    assert bare_home.cli("up", "--reexec", "--detach", ok=False).returncode == 2


def test_a_successor_that_fails_all_the_same_is_told(bare_home: Installation) -> None:
    """The check is good, and then something is not there that the check does not look at."""
    bare_home.third_party("demo")
    started = bare_home.cli("up", "--detach", "--json")
    pid = int(json.loads(started.stdout)["pid"])
    try:
        for file in bare_home.state.glob("approvals.db*"):
            file.unlink()
        (bare_home.state / "approvals.db").mkdir()
        done = bare_home.cli("up", "--reexec", ok=False)
        assert done.returncode == 1
        assert f"(pid {pid}) made way" in done.stderr
        assert "approvals.db" in done.stderr
        assert "fix:" in done.stderr
        assert not LINUX or wait_for(lambda: not bare_home.processes())
    finally:
        bare_home.cli("down", ok=False)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "n"))
        receiver.settimeout(60)
        yield receiver


def test_systemd_hears_of_it(
    bare_home: Installation, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_home.third_party("demo")
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.getsockname()))
    with bare_home.up():
        assert manager.recv(4096).startswith(b"READY=1")
        monkeypatch.delenv("NOTIFY_SOCKET")
        replace(bare_home)
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(4096).startswith(b"READY=1")
    assert manager.recv(4096).startswith(b"STOPPING=1")


def test_what_a_client_listens_to_goes_on(bare_home: Installation) -> None:
    command = json.dumps([sys.executable, SUBSCRIBING])
    bare_home.manifest("counted", f'command = {command}\nera = "legacy"')
    uri = "counter://a"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(bare_home.up())
        old, new, other = (stack.enter_context(daemon.wire("counted")) for _ in range(3))
        said = {"protocolVersion": "2025-11-25", "capabilities": {}}
        old.send(plain(1, "initialize", **said, clientInfo={"name": "w", "version": "1"}))
        assert old.answer()["result"]["protocolVersion"] == "2025-11-25"
        old.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        old.send(plain(2, "resources/subscribe", uri=uri))
        assert old.answer()["id"] == 2
        new.begin("subscriptions/listen", notifications={"resourceSubscriptions": [uri]})
        assert new.message()["method"] == "notifications/subscriptions/acknowledged"
        for wire in (old, new):
            told(wire, other, uri)
        replace(bare_home)
        for wire in (old, new):
            told(wire, other, uri)


def plain(number: int, method: str, **params: Any) -> bytes:
    """One line of the handshake era."""
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(body).encode() + b"\n"


def told(wire: Any, other: Any, uri: str) -> None:
    """Somebody changes the resource until the one who watches it hears of it."""
    heard = threading.Event()

    def touch() -> None:
        while not heard.wait(0.05):
            other.ask("tools/call", name="touch", arguments={"uri": uri})

    touching = threading.Thread(target=touch, daemon=True)
    touching.start()
    try:
        while (message := wire.message()).get("method") != "notifications/resources/updated":
            assert "error" not in message, message
        assert message["params"]["uri"] == uri
    finally:
        heard.set()
        touching.join(60)


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_nothing_is_left_open(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with bare_home.up() as daemon, daemon.wire("demo") as wire:
        folder = Path(f"/proc/{daemon.process.pid}/fd")

        def opened() -> dict[str, str]:
            found: dict[str, str] = {}
            for link in folder.iterdir():
                try:
                    found[link.name] = str(link.readlink())
                except FileNotFoundError:
                    continue
            return found

        wire.ask("tools/list")
        counts: list[int] = []
        for _ in range(3):
            replace(bare_home)
            wire.ask("tools/list")
            counts.append(len(opened()))
        assert counts[-1] <= counts[0] + 2, opened()
