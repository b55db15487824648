"""Kill a server again and again while clients call it, and look at what that leaves.

    soak = await kill_soak(folder, cycles=2_000)

A real keeper over a tiny server that has a child of its own; some clients share its pipe. Each
cycle kills the server (SIGKILL) and is over when a client was answered by the next one. Used by the
tests with few cycles and by the bench with many.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hostwright.keeper import processes
from hostwright.keeper.child import Child
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.server import Target
from hostwright.keeper.status import Health
from hostwright.manifest import Manifest

WARM_UP_CYCLES = 20
PATIENCE_SECONDS = 60.0
SERVER = """
import os, sys, time
if os.fork() == 0:
    while True: time.sleep(600)
for line in sys.stdin: print(line, end="", flush=True)
"""


@dataclass(frozen=True)
class Soak:
    """What it left, and how long each cycle took."""

    cycles: int
    answered: int
    """Calls that clients had answered, in all."""
    interrupted: int
    """Attempts that a kill cut off; each was made again and answered."""
    orphans: tuple[int, ...]
    """Processes of ended servers that still run."""
    descriptors: tuple[int, int]
    """Open in this process: after the warm-up, at the end."""
    memory_bytes: tuple[int, int]
    """Resident, likewise."""
    recovery_ms: tuple[float, ...]
    """From each kill to the first answer of the next process, in order of time."""

    def percentile(self, part: float) -> float:
        """Of the recoveries, in milliseconds."""
        ordered = sorted(self.recovery_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class _Line:
    """Calls over a server's one pipe, one after another."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._turn = asyncio.Lock()
        self.answered = self.interrupted = 0
        self.answer = asyncio.Event()
        self.by: Child | None = None

    async def ask(self, child: Child) -> None:
        async with self._turn:
            word = f"{self.answered}\n".encode()
            child.stdin.write(word)
            await child.stdin.drain()
            if await child.stdout.readline() != word:
                raise ConnectionError("the pipe ended")

    async def call(self) -> None:
        """One call that does not fail: it is made again until it is answered."""
        while True:
            child = await self._keeper.wait_ready("soak", timeout_seconds=PATIENCE_SECONDS)
            assert isinstance(child, Child)
            try:
                await self.ask(child)
            except (ConnectionError, OSError):
                self.interrupted += 1
                await asyncio.sleep(0)
                continue
            self.answered += 1
            self.by = child
            self.answer.set()
            return

    async def client(self) -> None:
        while True:
            await self.call()
            await asyncio.sleep(0.001)


async def kill_soak(folder: Path, cycles: int, *, clients: int = 4) -> Soak:
    """Do it; raises when a call is not answered for a minute."""
    lines: list[_Line] = []

    async def probe(target: Target) -> Health:
        assert isinstance(target, Child)
        await lines[0].ask(target)
        return Health(latency_ms=0, tools=0)

    quick = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.01, "breaker_failures": 1_000}
    manifest = Manifest.model_validate(
        {
            "name": "soak",
            "command": [sys.executable, "-I", "-S", "-c", SERVER],
            "restart": quick | {"breaker_window_seconds": 1},
        }
    )
    keeper = Keeper([manifest], runtime_dir=folder / "run", state_dir=folder / "state", probe=probe)
    line = _Line(keeper)
    lines.append(line)
    marks: set[str] = set()
    recoveries: list[float] = []
    before = (0, 0)
    async with keeper:
        await keeper.start_all()
        load = [asyncio.create_task(line.client()) for _ in range(clients)]
        try:
            for cycle in range(WARM_UP_CYCLES + cycles):
                if cycle == WARM_UP_CYCLES:
                    before = _resources()
                took, mark = await _one_kill(keeper, line)
                marks.add(mark)
                if cycle >= WARM_UP_CYCLES:
                    recoveries.append(took * 1000)
            after = _resources()
        finally:
            for task in load:
                task.cancel()
            await asyncio.wait(load)
    return Soak(
        cycles=cycles,
        answered=line.answered,
        interrupted=line.interrupted,
        orphans=tuple(pid for pid in processes.table() if processes.mark_of(pid) in marks),
        descriptors=(before[0], after[0]),
        memory_bytes=(before[1], after[1]),
        recovery_ms=tuple(recoveries),
    )


async def _one_kill(keeper: Keeper, line: _Line) -> tuple[float, str]:
    child = await keeper.wait_ready("soak", timeout_seconds=PATIENCE_SECONDS)
    assert isinstance(child, Child)
    began = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while line.by is child or line.by is None or line.by is not keeper.target("soak"):
            line.answer.clear()
            await line.answer.wait()
    return time.monotonic() - began, child.family.mark


def _resources() -> tuple[int, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(list(Path("/proc/self/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE")
