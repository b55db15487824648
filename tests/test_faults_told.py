"""A server that is killed under a call: what may be repeated is, of the rest is told what is known.

Over every way in and in both eras, because each of them carries answers on its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .daemon_harness import (
    ERAS,
    LINUX,
    SUITE,
    WAYS,
    Daemon,
    Era,
    Installation,
    Way,
    failure,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="stops processes by their pid")
every_way = pytest.mark.parametrize(("way", "era"), [(way, era) for way in WAYS for era in ERAS])


@pytest.fixture(scope="module")
def told_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("told"))
    for name in SUITE:
        if name != "system":
            home.manifest(name, f'entry_point = "{name}"\nenabled = false')
    # A stopped process is not to be found out by its checks before the test kills it.
    checks = "\n[health]\ninterval_seconds = 60\ntimeout_seconds = 60\n"
    home.manifest("system", 'entry_point = "system"', more=checks)
    home.third_party("demo", "--tool", "read_slowly", more=checks)
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def daemon(told_home: Installation) -> Iterator[Daemon]:
    with told_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(told_home: Installation) -> str:
    return told_home.token("caller")


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_for, condition)


async def stopped(daemon: Daemon, server: str) -> int:
    """The pid of a server that reads nothing from now on."""
    pid = int((await asyncio.to_thread(daemon.wait_state, server, "ready"))["pid"])
    os.kill(pid, signal.SIGSTOP)
    return pid


async def killed_with_a_call(daemon: Daemon, server: str, pid: int) -> None:
    """Kill it once a call is on its way to it."""
    await until(lambda: daemon.server(server)["in_flight"] >= 1)
    os.kill(pid, signal.SIGKILL)


@every_way
async def test_a_read_is_asked_once_more_and_not_twice(
    daemon: Daemon, key: str, way: Way, era: Era
) -> None:
    async with (
        daemon.client(way, era, server="demo", token=key) as client,
        daemon.client(server="demo") as other,
    ):

        async def seen() -> bool:
            said = json.loads(text(await other.call_tool("seen", {})))
            return "read_slowly" in json.dumps(said)

        async def begun(seconds: float) -> asyncio.Task[Any]:
            given = {"seconds": seconds}
            call = asyncio.create_task(client.call_tool("read_slowly", given, raise_on_error=False))
            async with asyncio.timeout(30):
                while not await seen():
                    pass
            return call

        pid = await asyncio.to_thread(daemon.kill, "demo")
        await until(lambda: daemon.server("demo")["pid"] not in (pid, None))
        reading = await begun(1)
        pid = await asyncio.to_thread(daemon.kill, "demo")
        async with asyncio.timeout(30):
            assert text(await reading).startswith("demo.read_slowly")
        assert daemon.server("demo")["pid"] != pid
        assert await seen()

        pid = await asyncio.to_thread(daemon.kill, "demo")
        await until(lambda: daemon.server("demo")["pid"] not in (pid, None))
        reading = await begun(30)
        for _ in range(2):
            async with asyncio.timeout(30):
                while not await seen():
                    pass
            pid = await asyncio.to_thread(daemon.kill, "demo")
            await until(lambda pid=pid: daemon.server("demo")["pid"] not in (pid, None))
        async with asyncio.timeout(30):
            found = failure(await reading)
        assert found["code"] == "server_ended"
        assert "The call was sent; whether it took effect is not known." in found["message"]


@every_way
async def test_a_read_of_ours_is_asked_once_more(
    daemon: Daemon, key: str, way: Way, era: Era
) -> None:
    async with daemon.client(way, era, token=key) as client:
        pid = await stopped(daemon, "system")
        call = asyncio.create_task(client.call_tool("system_health", {}))
        await killed_with_a_call(daemon, "system", pid)
        async with asyncio.timeout(30):
            assert not (await call).is_error


@every_way
async def test_an_act_of_ours_that_had_not_begun_is_safe_to_repeat(
    daemon: Daemon, told_home: Installation, key: str, way: Way, era: Era
) -> None:
    path = told_home.work / f"not-{way}-{era}.txt"
    given = {"argv": ["touch", str(path)]}
    async with daemon.client(way, era, token=key) as client:
        pid = await stopped(daemon, "system")
        call = asyncio.create_task(client.call_tool("shell_exec", given, raise_on_error=False))
        await killed_with_a_call(daemon, "system", pid)
        async with asyncio.timeout(30):
            found = failure(await call)
        assert found["code"] == "server_ended"
        assert "No intent of it is on record, so it had not begun." in found["message"]
        assert "safe to repeat" in found["fix"]
        assert not path.exists()


@every_way
async def test_an_act_of_ours_that_had_begun_is_named(
    daemon: Daemon, told_home: Installation, way: Way, era: Era
) -> None:
    # The ledger is asked by caller: acts of the same second would be named as well.
    name = f"{way}-{era}"
    key = told_home.token(name)
    async with daemon.client(way, era, token=key, name=name) as client:
        await asyncio.to_thread(daemon.wait_state, "system", "ready")
        word = f"161.{WAYS.index(way)}{ERAS.index(era)}"
        given = {"argv": ["sleep", word], "timeout_seconds": 50}
        call = asyncio.create_task(client.call_tool("shell_exec", given, raise_on_error=False))

        def intents() -> list[Any]:
            found = told_home.events(type="call.intent", tool="shell_exec")
            return [one for one in found if word in str(one.detail)]

        await until(intents)
        pid = await asyncio.to_thread(daemon.kill, "system")
        async with asyncio.timeout(30):
            found = failure(await call)
        assert found["code"] == "server_ended"
        [intent] = intents()
        assert f"without an outcome ({intent.id}): it may have taken effect" in found["message"]
        assert "receipt_list" in found["fix"]
        await until(lambda: daemon.server("system")["pid"] not in (pid, None))
