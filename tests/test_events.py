"""Events through the front door: a real daemon, its real deaths, and who listens to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import httpx2

from hostwright.events.client import Connected, Happened, Lost, Message, Wanted, listen
from hostwright.events.kinds import KINDS

from .daemon_harness import BIN, Installation, wait_for

SECONDS = 60


class Listener:
    """Everything that a client of the socket was told."""

    def __init__(self, home: Installation, *kinds: str, cursor: str = "now") -> None:
        self.socket = home.runtime / "gateway.sock"
        self.kinds = kinds
        self.cursor = cursor
        self.told: list[Message] = []
        self._new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._listen())
        await self.until(lambda: any(isinstance(one, Connected) for one in self.told))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def events(self) -> list[Happened]:
        return [one for one in self.told if isinstance(one, Happened)]

    @property
    def names(self) -> list[str]:
        return [one.kind for one in self.events]

    async def until(self, condition: Callable[[], bool]) -> None:
        assert self._task
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._new.clear()
                waiting = asyncio.create_task(self._new.wait())
                await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self._task.done():
                    self._task.result()

    async def until_kinds(self, *kinds: str) -> None:
        """These kinds came, in this order, with others between them."""
        await self.until(lambda: _in_order(kinds, self.names))

    async def _listen(self) -> None:
        wanted = Wanted(self.kinds, servers=("alpha",))
        async with aclosing(listen(self.socket, wanted, cursor=self.cursor)) as found:
            async for message in found:
                self.told.append(message)
                self._new.set()


def _in_order(wanted: Sequence[str], there: Sequence[str]) -> bool:
    rest = iter(there)
    return all(one in rest for one in wanted)


async def test_the_death_of_a_server_is_told_in_order_and_so_are_calls(
    bare_home: Installation,
) -> None:
    bare_home.third_party("alpha")
    with bare_home.up() as daemon:
        async with Listener(bare_home) as listener:
            daemon.kill("alpha")
            await listener.until_kinds("server.crashed", "server.started", "server.ready")
            daemon.wait_state("alpha", "ready")
            async with daemon.client(name="caller-one") as client:
                await client.call_tool("alpha__echo", {"word": "hunter2"})
            await listener.until_kinds("server.ready", "request.accepted", "request.completed")
        for one in listener.events:
            KINDS[one.kind].model_validate({"kind": one.kind, "at": one.at, **one.fields})
        accepted, completed = (one for one in listener.events if one.kind.startswith("request."))
        assert accepted.fields["id"] == completed.fields["id"]
        assert completed.fields["outcome"] == "ok"
        assert accepted.fields["server"] == "alpha"
        assert accepted.fields["caller"] == "caller-one"
        assert "hunter2" not in json.dumps([one.fields for one in listener.events])


async def test_a_listener_comes_back_after_the_daemon_was_killed_and_knows_what_is_missing(
    bare_home: Installation,
) -> None:
    bare_home.third_party("alpha")
    async with contextlib.AsyncExitStack() as stack:
        with bare_home.up() as daemon:
            listener = await stack.enter_async_context(Listener(bare_home))
            daemon.act("alpha", "restart")
            await listener.until_kinds("server.started", "server.ready")
            daemon.kill_daemon()
            await listener.until(lambda: any(isinstance(one, Lost) for one in listener.told))
        # Nobody listens while this one starts.
        before = len(listener.events)
        with bare_home.up():
            await listener.until_kinds("events.gap", "server.started", "server.ready")
            new = listener.events[before:]
            assert new[0].fields == {"reason": "restart"}
            assert [one.kind for one in new].count("server.ready") == 1
            cursors = [one.cursor for one in listener.events]
            assert len(set(cursors)) == len(cursors)
    with bare_home.up():
        # What happened between the two, and when the second ended, is told from the ledger.
        late = Listener(bare_home, "server.*", cursor=new[0].cursor)
        async with late:
            await late.until_kinds(
                "server.started", "server.ready", "server.stopped", "server.started"
            )
            assert "events.gap" not in late.names


async def test_a_stream_on_the_port_needs_a_token_and_ends_with_the_daemon(
    bare_home: Installation,
) -> None:
    bare_home.third_party("alpha")
    token = bare_home.token("watcher")
    with bare_home.up() as daemon:
        url = f"{daemon.origin}/events"
        assert httpx2.get(url).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        for query, word in (
            ({"filter": "nothing.*"}, "bad_filter"),
            ({"cursor": "yesterday"}, "bad_cursor"),
            ({"follow": "maybe"}, "bad_parameter"),
            ({"fitler": "x"}, "bad_parameter"),
        ):
            answer = httpx2.get(url, params=query, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == word
        query = {"cursor": "recent", "filter": "server.ready", "follow": "false"}
        query["server"] = "alpha"
        answer = httpx2.get(url, params=query, headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.count("event: server.ready\n") == 1
        with httpx2.stream("GET", url, headers=headers, timeout=SECONDS) as open_stream:
            lines = open_stream.iter_lines()
            assert next(lines) == "retry: 1000"
            daemon.process.send_signal(signal.SIGTERM)
            rest = list(lines)  # it ends, and not by a broken connection
        assert rest
        assert daemon.process.wait(SECONDS) == 0
    assert "Traceback" not in daemon.said(), daemon.said()
    assert "ASGI" not in daemon.said(), daemon.said()


def test_a_listener_that_stops_reading_is_no_burden(bare_home: Installation) -> None:
    """It is stopped in the middle of a stream; the daemon goes on, answers and ends in time."""
    bare_home.third_party("alpha")
    with bare_home.up() as daemon:
        frozen = _follow(bare_home)
        try:
            os.kill(frozen.pid, signal.SIGSTOP)
            for _ in range(3):
                old = daemon.kill("alpha")
                wait_for(lambda old=old: daemon.server("alpha")["pid"] not in (old, None))
                daemon.wait_state("alpha", "ready")
        finally:
            os.kill(frozen.pid, signal.SIGKILL)
            frozen.communicate()


def test_the_command_prints_lines_goes_on_after_a_restart_and_takes_a_cursor(
    bare_home: Installation,
) -> None:
    bare_home.third_party("alpha")
    assert bare_home.cli("events", ok=False).returncode == 3
    # From the beginning: it may find the daemon only after the server has become ready.
    following = _follow(bare_home, "--since", "0-0-0")
    try:
        with bare_home.up():
            first = _until(following, "server.ready")
        with bare_home.up():
            again = _until(following, "server.ready")
    finally:
        following.kill()
        following.communicate()
    assert {"server.stopped", "server.started"} <= {one["kind"] for one in again}
    with bare_home.up():
        spoken = bare_home.cli("events", "--filter", "server.ready", "--server", "alpha").stdout
        assert spoken.count("server.ready") == 3
        assert "alpha" in spoken
        since = bare_home.cli(
            *("events", "--since", first[-1]["cursor"], "--filter", "server.ready"),
            *("--server", "alpha", "--json"),
        )
        found = [json.loads(line) for line in since.stdout.splitlines()]
        assert [one["kind"] for one in found] == ["server.ready"] * 2
        wrong = bare_home.cli("events", "--filter", "nothing.*", "--json", ok=False)
        assert wrong.returncode == 1
        assert json.loads(wrong.stdout)["error"]["code"] == "bad_filter"


def _follow(home: Installation, *more: str) -> subprocess.Popen[str]:
    # The same folder in other words, so that it is not taken for something the daemon left behind.
    env = {**home.env, "HOSTWRIGHT_RUNTIME_DIR": f"{home.runtime}/."}
    return subprocess.Popen(
        [str(BIN / "hostwright"), "events", "-f", "--json", "--server", "alpha", *more],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _until(following: subprocess.Popen[str], kind: str) -> list[dict[str, Any]]:
    """Its lines up to one of this kind."""
    assert following.stdout
    found: list[dict[str, Any]] = []
    for line in following.stdout:
        found.append(json.loads(line))
        if found[-1]["kind"] == kind:
            return found
    raise AssertionError(f"it ended: {found}")
