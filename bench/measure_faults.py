"""Servers that are killed under load: how soon they answer, what fails, what is left over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import psutil

from bench.bounds import Bound
from bench.fault_load import (
    FAILED,
    FAULTS,
    SETTLE_SECONDS,
    WHO,
    Counts,
    alive,
    call_until,
    counted,
    end_at_once,
    footing,
    open_clients,
    said,
    settled,
    start_home,
)
from bench.home import Home
from bench.load import echo
from bench.plan import Plan
from bench.results import Row
from bench.wire import Client, Era

# Each kill is the first one as far as the keeper remembers, as kills in real life are.
LONE_KILLS = "[restart]\nbreaker_failures = 1000\nbreaker_window_seconds = 1\n"
# Kills in a row, with a breaker that bears them.
MANY_KILLS = f"{LONE_KILLS}first_delay_seconds = 0.01\nmax_delay_seconds = 0.02\n"
BETWEEN_SECONDS = 1.3
CYCLES = 2_000
VICTIMS = 4
VICTIM_CLIENTS: tuple[tuple[str, Era], ...] = (
    *(("HTTP", "legacy"), ("HTTP", "modern"), ("connect", "legacy")),
)
RESTART_SECONDS = 60.0
LOOK_SECONDS = 0.02
FLAT_MB = 5.0
Say = Callable[[str], None]


async def faults(plan: Plan, say: Say) -> list[Row]:
    """Lone kills, whose recovery is timed, and then as many as the plan has time for."""
    return [*await _recoveries(plan, say), *await _cycles(plan, say)]


# -- lone kills ----------------------------------------------------------------------------------


async def _recoveries(plan: Plan, say: Say) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        home = await start_home(stack, LONE_KILLS)
        clients = await open_clients(home, stack)
        took: list[float] = []
        counts = Counts()
        over = asyncio.Event()
        work = [asyncio.create_task(call_until(over, client, counts)) for client in clients[1:]]
        try:
            for number in range(plan.kills):
                await asyncio.sleep(BETWEEN_SECONDS)
                say(f"faults: kill {number + 1} of {plan.kills}")
                end_at_once(int((await home.server("echo"))["pid"]))
                began = time.perf_counter()
                await _answered(clients[0], counts)
                took.append((time.perf_counter() - began) * 1000)
        finally:
            over.set()
            await asyncio.gather(*work)
    what = "kill −9 of a server → the same session answers"
    return [
        Row(
            section=FAULTS,
            what=what,
            who=WHO,
            unit="ms",
            values=tuple(took),
            latencies_ms=tuple(took),
            note=f"{len(clients)} clients of both eras",
            bounds=(Bound(of="p95", at_most=100),),
        ),
        counted("read-only calls that failed at these kills", counts.failed, 0, said(counts)),
    ]


async def _answered(client: Client, counts: Counts) -> None:
    """Call until it is answered; every failure counts."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            await echo(client)
        except FAILED as error:
            counts.note_failure(error)
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.002)
        else:
            counts.note_answer()
            return


# -- many kills ----------------------------------------------------------------------------------


async def _cycles(plan: Plan, say: Say) -> list[Row]:
    """Kill after kill. What is held is compared at rest, after a tenth of them and after all."""
    async with contextlib.AsyncExitStack() as stack:
        home = Home(system=False, echo=False, copies=VICTIMS, more=MANY_KILLS)
        stack.push_async_callback(home.close)
        await home.up()
        await home.make_token()
        names = [f"echo-{number}" for number in range(1, VICTIMS + 1)]
        victims = [
            Victim(home, name, await open_clients(home, stack, name, VICTIM_CLIENTS))
            for name in names
        ]
        clients = [client for victim in victims for client in victim.clients]
        for client in clients:
            await echo(client)
        run = Kills(home, victims, plan, say)
        await run.until(plan.cycles // 10)
        warm = await settled(home, await footing(home))
        await run.until(plan.cycles)
        lost = 0
        for client in clients:
            try:
                await echo(client)
            except FAILED:
                lost += 1
        after = await settled(home, warm)
        ours = set(home.processes())
        orphans = [one for one in run.seen - ours if alive(one)]
        left = max(len(orphans), after.processes - warm.processes)
    what = f"kill and restart under load, {VICTIMS} servers with {len(VICTIM_CLIENTS)} clients each"
    counts = run.counts
    return [
        Row(
            section=FAULTS,
            what=what,
            who=WHO,
            unit="cycles",
            values=(float(run.done),),
            note=f"in {run.took:.0f} s; {counts.answered:,} calls answered, "
            f"{counts.failed:,} failed",
            bounds=(Bound(at_least=CYCLES),),
        ),
        counted("read-only calls that failed in these cycles", counts.failed, 0, said(counts)),
        counted("processes left over after these cycles", left, 0),
        counted("sessions lost", lost, 0, f"of {len(clients)}"),
        counted(
            "descriptors leaked, from a tenth of them to the end",
            after.descriptors - warm.descriptors,
            0,
            f"{after.descriptors} at the end",
        ),
        Row(
            section=FAULTS,
            what="memory of the daemon grown, from a tenth of them to the end",
            who=WHO,
            unit="MB",
            values=(after.daemon_megabytes - warm.daemon_megabytes,),
            note=f"{after.daemon_megabytes:.1f} MB at the end",
            bounds=(Bound(at_most=FLAT_MB),),
        ),
    ]


class Victim:
    """One server that is killed again and again, and the clients that go on calling it."""

    def __init__(self, home: Home, name: str, clients: Sequence[Client]) -> None:
        self.name = name
        self.clients = clients
        self.counts: list[Counts] = [Counts() for _ in clients]
        self._home = home
        self._killed = 0

    def load(self, over: asyncio.Event) -> list[asyncio.Task[None]]:
        """Every client calls until it is over."""
        pairs = zip(self.clients, self.counts, strict=True)
        return [asyncio.create_task(call_until(over, *pair)) for pair in pairs]

    def kill(self, pid: int) -> None:
        """Its process, without a warning."""
        self._killed = pid
        end_at_once(pid)

    async def running(self) -> int:
        """The pid of the process after the one that was killed, once it answered every client.

        A read is asked again once: kills that follow each other faster than an answer would only
        show that. The first of two answers may still be one of the process before.
        """
        deadline = time.monotonic() + RESTART_SECONDS
        while time.monotonic() < deadline:
            row = await self._home.server(self.name)
            if row["state"] == "ready" and row["pid"] not in (None, self._killed):
                left = deadline - time.monotonic()
                await asyncio.gather(*(counts.more(2, left) for counts in self.counts))
                return int(row["pid"])
            await asyncio.sleep(LOOK_SECONDS)
        raise RuntimeError(f"no new process: {await self._home.server(self.name)}")


class Kills:
    """Kill after kill of several servers at once, under the load of their clients."""

    def __init__(self, home: Home, victims: Sequence[Victim], plan: Plan, say: Say) -> None:
        self.done = 0
        self.took = 0.0
        self.seen: set[psutil.Process] = set()
        """Every process that there was."""
        self._home = home
        self._victims = victims
        self._plan = plan
        self._say = say

    @property
    def counts(self) -> Counts:
        """What all clients have seen."""
        found = Counts()
        for victim in self._victims:
            for counts in victim.counts:
                found.add(counts)
        return found

    async def until(self, cycles: int) -> None:
        """Go on until there were so many, or the time is up; ends with servers that answer."""
        over = asyncio.Event()
        work = [task for victim in self._victims for task in victim.load(over)]
        began = time.monotonic()
        ends = began + self._plan.cycle_seconds - self.took
        self.seen.update(self._home.processes())
        try:
            async with asyncio.TaskGroup() as group:
                for victim in self._victims:
                    group.create_task(self._kill(victim, cycles, ends))
            self.took += time.monotonic() - began
        finally:
            over.set()
            await asyncio.gather(*work)

    async def _kill(self, victim: Victim, cycles: int, ends: float) -> None:
        while True:
            pid = await victim.running()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.seen.add(psutil.Process(pid))
            if self.done >= cycles or time.monotonic() > ends:
                return
            victim.kill(pid)
            self.done += 1
            of = f"{self.done} of {self._plan.cycles}"
            self._say(f"faults: cycle {of}, {self.counts.failed} failed calls")
