"""A server that is killed again and again under load: sessions stay, nothing is left behind.

The long form (2,000 cycles, and ten minutes of calls) is part of the bench.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from typing import Any

import psutil
import pytest

from .daemon_harness import (
    LINUX,
    MODERN,
    Daemon,
    Era,
    Installation,
    Way,
    failure,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="looks into /proc for what is left")

CYCLES = 40
CLIENTS: tuple[tuple[Way, Era], ...] = (
    *(("stdio", "legacy"), ("stdio", MODERN), ("http", "legacy")),
    *(("http", MODERN), ("socket", "legacy"), ("socket", MODERN)),
)
SPARE_DESCRIPTORS = 6


class Load:
    """Clients that call without a pause, each with words of its own."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()
        self.over = False

    async def work(self, client: Any, number: int) -> None:
        turn = 0
        while not self.over:
            turn += 1
            mark = f"client {number} turn {turn}"
            result = await client.call_tool("read_echo", {"mark": mark}, raise_on_error=False)
            if result.is_error:
                self.outcomes[failure(result)["code"]] += 1
                continue
            assert json.loads(text(result).partition(" ")[2])["mark"] == mark
            self.outcomes["ok"] += 1
            self.answered[number] += 1

    def all_since(self, before: Counter[int]) -> bool:
        """Whether every client was answered twice: what is asked after a kill is killed once."""
        return all(self.answered[number] >= before[number] + 2 for number in range(len(CLIENTS)))


def descriptors(daemon: Daemon) -> int:
    return psutil.Process(daemon.process.pid).num_fds()


def families(home: Installation) -> int:
    """Living processes of this installation."""
    return len(home.processes())


async def kill_again_and_again(home: Installation, daemon: Daemon, load: Load) -> None:
    """So many cycles; in each, every client has been answered since the last kill.

    A call that one kill took away is repeated once, so the next may not come before its answer.
    """
    for _ in range(CYCLES):
        before = load.answered.copy()
        await asyncio.to_thread(
            wait_for,
            lambda before=before: load.all_since(before),
            lambda: f"calls are no longer answered: {load.outcomes}, {daemon.server('mortal')}",
        )
        pid = daemon.server("mortal")["pid"]
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def _soak(home: Installation) -> Load:
    load = Load()
    with home.up() as daemon:
        key = home.token("soak")
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(daemon.client(way, era, server="mortal", token=key))
                for way, era in CLIENTS
            ]
            for client in clients:
                assert text(await client.call_tool("read_echo", {})) == "mortal.read_echo {}"
            processes, open_before = families(home), descriptors(daemon)
            work = [
                asyncio.create_task(load.work(client, number))
                for number, client in enumerate(clients)
            ]
            try:
                await kill_again_and_again(home, daemon, load)
            finally:
                load.over = True
            await asyncio.wait_for(asyncio.gather(*work), 60)
            # The same sessions, every one of them.
            await asyncio.to_thread(daemon.wait_state, "mortal", "ready")
            for client in clients:
                assert text(await client.call_tool("read_echo", {})) == "mortal.read_echo {}"
            assert daemon.server("mortal")["restarts"] >= CYCLES // 2
            await asyncio.to_thread(
                wait_for,
                lambda: families(home) == processes,
                lambda: f"{processes} processes before, now {home.processes()}",
            )
            await asyncio.to_thread(
                wait_for,
                lambda: descriptors(daemon) <= open_before + SPARE_DESCRIPTORS,
                lambda: f"{open_before} descriptors before, now {descriptors(daemon)}",
            )
    assert "Traceback" not in home.log.read_text(), home.log.read_text()[-4_000:]
    return load


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """One soak for all that is asked of it; what must hold during it is asserted there."""
    home = Installation(tmp_path_factory.mktemp("soak"))
    home.without_suite()
    home.third_party("mortal", "--era", "modern", "--tool", "read_echo", breaker=1_000)
    try:
        return asyncio.run(_soak(home))
    finally:
        home.close()


def test_kills_under_load_leave_nothing_behind_and_every_session_alive(soaked: Load) -> None:
    assert set(soaked.outcomes) <= {"ok", "server_ended"}, soaked.outcomes
    assert soaked.outcomes["ok"] >= CYCLES


def test_calls_that_only_read_do_not_fail_when_their_server_is_killed(soaked: Load) -> None:
    assert set(soaked.outcomes) == {"ok"}, soaked.outcomes
