"""What the keeper's tests stand on: a tiny server, a way to ask it, and a keeper that tells."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hostwright.keeper import processes
from hostwright.keeper.child import Child
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.server import Target
from hostwright.keeper.status import Activity, Health, ServerEvent, ServerStatus
from hostwright.manifest import Manifest

# Answers each line; "mute" makes it stop answering, "leave" and "fail" end it.
SERVER = """
import sys
for line in sys.stdin:
    word = line.strip()
    if word == "leave": sys.exit(0)
    if word == "fail": print("boom", file=sys.stderr, flush=True); sys.exit(7)
    if word == "mute":
        while True: sys.stdin.readline()
    print("ok", flush=True)
"""
SLEEPER = "import time; time.sleep(600)"
FAST: dict[str, Any] = {"first_delay_seconds": 0.02, "max_delay_seconds": 0.2, "jitter": 0.2}


def manifest(name: str, source: str = SERVER, **extra: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": name,
        "command": [sys.executable, "-c", textwrap.dedent(source)],
        "restart": FAST,
        "health": {"interval_seconds": 0.1, "timeout_seconds": 10},
        "stop_timeout_seconds": 20,
    }
    return Manifest.model_validate(values | extra)


async def ask(target: Target) -> Health:
    assert isinstance(target, Child)
    began = time.monotonic()
    target.stdin.write(b"hello\n")
    if await target.stdout.readline() != b"ok\n":
        raise ConnectionError("it hung up")
    return Health(latency_ms=(time.monotonic() - began) * 1000, tools=3)


def open_files() -> set[str]:
    """What this process's descriptors lead to."""
    found: set[str] = set()
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own, closed since
            found.add(str(handle.readlink()))
    return found


class Busy:
    """What a gateway's links would say of each server."""

    def __init__(self) -> None:
        self.of: dict[str, Activity] = {}

    def __call__(self, name: str) -> Activity:
        return self.of.get(name, Activity(idle_seconds=1_000_000))


class Suite:
    """A keeper and the events that it told."""

    def __init__(self, keeper: Keeper, events: list[ServerEvent]) -> None:
        self.keeper = keeper
        self.events = events

    def row(self, name: str) -> ServerStatus:
        return next(row for row in self.keeper.status() if row.name == name)

    def child(self, name: str) -> Child:
        target = self.keeper.target(name)
        assert isinstance(target, Child)
        return target

    def say(self, name: str, word: str) -> None:
        self.child(name).stdin.write(f"{word}\n".encode())

    def of(self, kind: type[ServerEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, name: str, *states: State) -> ServerStatus:
        return await self.when(name, lambda row: row.state in states)

    async def when(self, name: str, holds: Callable[[ServerStatus], bool]) -> ServerStatus:
        async with asyncio.timeout(30):
            while not holds(row := self.row(name)):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return row


Open = Callable[..., Awaitable[Suite]]


@asynccontextmanager
async def keepers(folder: Path) -> AsyncGenerator[Open]:
    """Makes keepers; at the end all is closed, and no process of theirs is left."""
    opened: list[Keeper] = []

    async def make(*manifests: Manifest, **extra: Any) -> Suite:
        events: list[ServerEvent] = []
        values: dict[str, Any] = {
            "runtime_dir": folder / "run",
            "state_dir": folder / "state",
            "probe": ask,
            "on_event": events.append,
        }
        keeper = Keeper(manifests, **(values | extra))
        await keeper.open()
        opened.append(keeper)
        return Suite(keeper, events)

    yield make
    for keeper in opened:
        pids = [row.pid for row in keeper.status() if row.pid]
        results = await keeper.close()
        assert all(result.ok for result in results)
        assert [pid for pid in pids if processes.identity(pid)] == []
