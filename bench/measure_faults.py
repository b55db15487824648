"""Servers that are killed under load, and ten minutes of load: what fails, what is left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil
from pydantic import BaseModel, Field

from bench.bounds import Bound
from bench.home import Home
from bench.load import echo
from bench.plan import Plan
from bench.processes import memory
from bench.results import Row
from bench.wire import Client, Era, WireError

FAULTS = "5 faults"
SOAK = "6 soak"
WHO = "hostwright"
# Each kill is the first one as far as the keeper remembers, as kills in real life are.
LONE_KILLS = "[restart]\nbreaker_failures = 1000\nbreaker_window_seconds = 1\n"
# Kills in a row, with a breaker that bears them.
MANY_KILLS = f"{LONE_KILLS}first_delay_seconds = 0.01\nmax_delay_seconds = 0.02\n"
BETWEEN_SECONDS = 1.3
SETTLE_SECONDS = 10.0
SAMPLE_SECONDS = 5.0
CYCLES = 2_000
LOAD_CLIENTS: tuple[tuple[str, Era], ...] = (
    *(("HTTP", "legacy"), ("HTTP", "legacy"), ("HTTP", "modern"), ("HTTP", "modern")),
    *(("connect", "legacy"), ("connect", "modern")),
)
VICTIMS = 4
VICTIM_CLIENTS: tuple[tuple[str, Era], ...] = (
    *(("HTTP", "legacy"), ("HTTP", "modern"), ("connect", "legacy")),
)
RESTART_SECONDS = 60.0
LOOK_SECONDS = 0.02
FAILED = (WireError, OSError, asyncio.IncompleteReadError, ValueError)
FLAT_PERCENT, FLAT_MB = 3.0, 5.0
Say = Callable[[str], None]


class Counts:
    """What a load has seen."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()
        self._news = asyncio.Event()

    def note_answer(self) -> None:
        self.answered += 1
        self._news.set()

    async def more(self, answers: int, seconds: float) -> None:
        """Wait, so long at most, for so many more answers."""
        wanted = self.answered + answers
        async with asyncio.timeout(seconds):
            while self.answered < wanted:
                self._news.clear()
                await self._news.wait()

    def add(self, other: Counts) -> None:
        """Count what another load has seen."""
        self.answered += other.answered
        self.failed += other.failed
        self.errors += other.errors

    def note_failure(self, error: BaseException) -> None:
        self.failed += 1
        code = re.search(r'"code": "(\w+)"', str(error))
        self.errors[code[1] if code else str(error)[:80]] += 1


class Footing(BaseModel, frozen=True):
    """What the daemon and its servers hold at a moment."""

    processes: int
    descriptors: int = Field(description="Of the daemon.")
    megabytes: float = Field(description="Of all of them.")
    daemon_megabytes: float


async def faults(plan: Plan, say: Say) -> list[Row]:
    """Lone kills, whose recovery is timed, and then as many as the plan has time for."""
    return [*await _recoveries(plan, say), *await _cycles(plan, say)]


# -- lone kills ----------------------------------------------------------------------------------


async def _recoveries(plan: Plan, say: Say) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        home = await _home(stack, LONE_KILLS)
        clients = await _clients(home, stack)
        took: list[float] = []
        counts = Counts()
        over = asyncio.Event()
        work = [asyncio.create_task(_call_until(over, client, counts)) for client in clients[1:]]
        try:
            for number in range(plan.kills):
                await asyncio.sleep(BETWEEN_SECONDS)
                say(f"faults: kill {number + 1} of {plan.kills}")
                _kill(int((await home.server("echo"))["pid"]))
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
        _count("read-only calls that failed at these kills", counts.failed, 0, _said(counts)),
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
            Victim(home, name, await _clients(home, stack, name, VICTIM_CLIENTS)) for name in names
        ]
        clients = [client for victim in victims for client in victim.clients]
        for client in clients:
            await echo(client)
        run = Kills(home, victims, plan, say)
        await run.until(plan.cycles // 10)
        warm = await _settled(home, await _footing(home))
        await run.until(plan.cycles)
        lost = 0
        for client in clients:
            try:
                await echo(client)
            except FAILED:
                lost += 1
        after = await _settled(home, warm)
        ours = set(home.processes())
        orphans = [one for one in run.seen - ours if _alive(one)]
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
        _count("read-only calls that failed in these cycles", counts.failed, 0, _said(counts)),
        _count("processes left over after these cycles", left, 0),
        _count("sessions lost", lost, 0, f"of {len(clients)}"),
        _count(
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
        return [asyncio.create_task(_call_until(over, *pair)) for pair in pairs]

    def kill(self, pid: int) -> None:
        """Its process, without a warning."""
        self._killed = pid
        _kill(pid)

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


# -- ten minutes ---------------------------------------------------------------------------------


async def soak(plan: Plan, say: Say) -> list[Row]:
    """Load without a fault, sampled: what it takes at the end beside what it took when warm."""
    async with contextlib.AsyncExitStack() as stack:
        home = await _home(stack, "")
        clients = await _clients(home, stack)
        over, counts = asyncio.Event(), Counts()
        work = [asyncio.create_task(_call_until(over, client, counts)) for client in clients]
        samples: list[Footing] = []
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < plan.soak_seconds:
                await asyncio.sleep(min(SAMPLE_SECONDS, plan.soak_seconds / 10))
                samples.append(await _footing(home))
                say(f"soak: {passed:.0f} of {plan.soak_seconds:.0f} s, {samples[-1]}")
        finally:
            over.set()
            await asyncio.gather(*work)
        took = time.monotonic() - began
    # A fifth to get warm; then the first and the last fifth are compared.
    fifth = max(1, len(samples) // 5)
    first, last = samples[fifth : 2 * fifth], samples[-fifth:]

    def middle(part: Sequence[Footing]) -> float:
        return statistics.median(one.megabytes for one in part)

    what = f"{took:.0f} s of load, {len(clients)} clients"
    return [
        Row(
            section=SOAK,
            what=what,
            who=WHO,
            unit="calls",
            values=(float(counts.answered),),
            note=f"asked for: {plan.soak_seconds:.0f} s",
        ),
        _count("calls that failed in it", counts.failed, 0, _said(counts), section=SOAK),
        Row(
            section=SOAK,
            what="memory, last fifth beside the second",
            who=WHO,
            unit="%",
            values=((middle(last) / middle(first) - 1) * 100,),
            note=f"{middle(first):.1f} → {middle(last):.1f} MB",
            bounds=(Bound(at_most=FLAT_PERCENT),),
        ),
        _count(
            "descriptors, last fifth beside the second",
            max(one.descriptors for one in last) - max(one.descriptors for one in first),
            0,
            section=SOAK,
        ),
    ]


# -- shared --------------------------------------------------------------------------------------


async def _home(stack: contextlib.AsyncExitStack, more: str) -> Home:
    home = Home(system=False, echo=True, more=more)
    stack.push_async_callback(home.close)
    await home.up()
    await home.make_token()
    return home


async def _clients(
    home: Home,
    stack: contextlib.AsyncExitStack,
    server: str = "echo",
    wanted: Sequence[tuple[str, Era]] = LOAD_CLIENTS,
) -> list[Client]:
    """Clients of both eras over both ways in, each with a session that has to last."""
    found: list[Client] = []
    for how, era in wanted:
        client = (
            await home.http(server, era).open()
            if how == "HTTP"
            else await home.connect(server, era).open(home.log)
        )
        stack.push_async_callback(client.close)
        found.append(client)
    return found


async def _call_until(over: asyncio.Event, client: Client, counts: Counts) -> None:
    while not over.is_set():
        try:
            await echo(client)
        except FAILED as error:
            counts.note_failure(error)
            await asyncio.sleep(0.01)
        else:
            counts.note_answer()


async def _footing(home: Home) -> Footing:
    processes = home.processes()
    taken = await asyncio.to_thread(memory, processes)
    return Footing(
        processes=len(processes),
        descriptors=processes[0].num_fds() if processes else 0,
        megabytes=taken.bytes / 1e6,
        daemon_megabytes=memory(processes[:1]).bytes / 1e6,
    )


async def _settled(home: Home, wanted: Footing) -> Footing:
    """What is held when what may still end has had time to."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await _footing(home)
        more = found.processes > wanted.processes or found.descriptors > wanted.descriptors
        if not more or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _count(what: str, found: int, most: int, note: str = "", *, section: str = FAULTS) -> Row:
    bound = Bound(at_most=most)
    return Row(
        section=section, what=what, who=WHO, values=(float(found),), note=note, bounds=(bound,)
    )


def _said(counts: Counts) -> str:
    words = f"of {counts.answered + counts.failed:,} calls"
    said = ", ".join(f"{error} ({times})" for error, times in counts.errors.most_common(3))
    return f"{words}: {said}" if said else words
