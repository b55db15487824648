"""A suite of servers as a whole: until all are ready, what they take, and what they take asleep.

Beside it stands what clients do without a supervisor: each starts each server for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import cast

import psutil

from bench.bounds import Bound
from bench.fronts import log_file
from bench.home import ECHO_STDIO, Home, knows
from bench.load import echo
from bench.plan import Plan
from bench.processes import clean_environment, memory
from bench.results import Row, missing_row
from bench.wire import Client, PipeClient, call_tool, tool_names

SUITE = "2 suite"
COPIES = 12
CLIENTS = 10
READY = f"a suite of {COPIES} servers → each has answered"
HELD = f"memory of a suite of {COPIES} servers, {CLIENTS} clients that have called each"
ASLEEP = f"memory of a suite of {COPIES} servers, all hibernated"
ONE_BY_ONE = "python FILE, one after the other"
FOR_EACH = "a process per server and client"
SLEEP_SECONDS = 90.0
AT_ONCE = 4
"""Of the peer's processes that start together: the two cores have no more to give."""
Say = Callable[[str], None]


async def suites(plan: Plan, say: Say) -> list[Row]:
    """Starts in turn, then memory, then sleep."""
    ours: list[float] = []
    theirs: list[float] = []
    home = Home(system=False, echo=False, copies=COPIES)
    try:
        for number in range(plan.suite_rounds):
            say(f"suite, round {number + 1}: one after the other")
            theirs.append(await _one_by_one())
            say(f"suite, round {number + 1}: hostwright up")
            began = time.perf_counter()
            await home.up()
            ours.append((time.perf_counter() - began) * 1000)
            await home.down()
    finally:
        await home.close()
    rows = [
        Row(
            section=SUITE,
            what=READY,
            who=ONE_BY_ONE,
            kind="direct",
            unit="ms",
            values=tuple(theirs),
        ),
        Row(
            section=SUITE,
            what=READY,
            who="hostwright up --detach",
            unit="ms",
            values=tuple(ours),
            bounds=(Bound(beside=ONE_BY_ONE, how="theirs ÷ ours", at_least=10),),
        ),
    ]
    return [*rows, *await _held(plan, say), await _asleep(say)]


async def _one_by_one() -> float:
    began = time.perf_counter()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(COPIES):
            client = PipeClient(ECHO_STDIO, env=clean_environment())
            stack.push_async_callback(client.close)
            await client.open(log_file())
            await tool_names(client)
        return (time.perf_counter() - began) * 1000


async def _held(plan: Plan, say: Say) -> list[Row]:
    """With a client's own process, `connect`, where it starts one."""
    say(f"suite: memory with {CLIENTS} clients")
    async with contextlib.AsyncExitStack() as stack:
        home = Home(system=False, echo=False, copies=COPIES)
        stack.push_async_callback(home.close)
        await home.up()
        bridges: list[psutil.Process] = []
        for _ in range(CLIENTS):
            client = await home.connect("*").open(home.log)
            stack.push_async_callback(client.close)
            bridges.append(psutil.Process(client.pid))
            for name in await tool_names(client):
                if name.endswith("echo"):
                    await call_tool(client, name, {"text": "x"})
        ours = await asyncio.to_thread(memory, [*home.processes(), *bridges])
    say(f"suite: memory of {COPIES} × {plan.suite_clients} processes")
    async with contextlib.AsyncExitStack() as stack:
        gate = asyncio.Semaphore(AT_ONCE)
        started = [
            PipeClient(ECHO_STDIO, env=clean_environment())
            for _ in range(COPIES * plan.suite_clients)
        ]

        async def begin(client: PipeClient) -> None:
            async with gate:
                stack.push_async_callback(client.close)
                await client.open(log_file())
                await echo(client)

        await asyncio.gather(*(begin(client) for client in started))
        theirs = await asyncio.to_thread(memory, [psutil.Process(one.pid) for one in started])
    scale = CLIENTS / plan.suite_clients
    counted = f"{theirs.processes} processes"
    if scale != 1:
        counted = f"taken for {plan.suite_clients} clients and multiplied by {scale:g}"
    return [
        Row(
            section=SUITE,
            what=HELD,
            who=FOR_EACH,
            kind="direct",
            unit="MB",
            values=(theirs.bytes * scale / 1e6,),
            note=counted,
        ),
        Row(
            section=SUITE,
            what=HELD,
            who="hostwright connect",
            unit="MB",
            values=(ours.bytes / 1e6,),
            note=f"{ours.processes} processes",
            bounds=(Bound(beside=FOR_EACH, how="theirs ÷ ours", at_least=10),),
        ),
    ]


async def _asleep(say: Say) -> Row:
    bounds = (Bound(at_most=60),)
    if not knows("idle_after_seconds"):
        row = missing_row(SUITE, ASLEEP, "hostwright", "manifests have no idle_after_seconds")
        return row.model_copy(update={"kind": "ours", "unit": "MB", "bounds": bounds})
    say("suite: waiting until every server sleeps")
    async with contextlib.AsyncExitStack() as stack:
        home = Home(system=False, echo=False, copies=COPIES, more="idle_after_seconds = 1")
        stack.push_async_callback(home.close)
        await home.up()
        await home.make_token()
        deadline = time.monotonic() + SLEEP_SECONDS
        while awake := [row["name"] for row in await _rows(home) if row["pid"] is not None]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"they do not sleep after {SLEEP_SECONDS:.0f} s: {awake}")
            await asyncio.sleep(0.5)
        # What only ran because servers did (the zygote) ends a moment after them.
        await asyncio.sleep(3)
        taken = await asyncio.to_thread(memory, home.processes())
        client: Client = await home.http("echo-1").open()
        stack.push_async_callback(client.close)
        began = time.perf_counter()
        await echo(client)
        woke = (time.perf_counter() - began) * 1000
    return Row(
        section=SUITE,
        what=ASLEEP,
        who="hostwright",
        unit="MB",
        values=(taken.bytes / 1e6,),
        note=f"{taken.processes} processes; the first call after it took {woke:.0f} ms",
        bounds=bounds,
    )


async def _rows(home: Home) -> Sequence[dict[str, object]]:
    """The copies, and the server of the supervisor's own tools."""
    return cast("Sequence[dict[str, object]]", (await home.status())["servers"])
