"""What our own laws cost: the gateway on top of a server, the ledger under an act."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

import psutil

from bench.appender import fill
from bench.home import Home
from bench.load import Act, drive
from bench.plan import Plan
from bench.processes import clean_environment, end, start, tree
from bench.results import Kind, Load, Row, percentile, rounds_row
from bench.wire import Client, PipeClient, call_tool
from hostwright_kit.runtime import LEDGER_FILE

OWN = "4 our own cost"
PROMISE_MS = 50.0
USED_ENTRIES = 10_000
Say = Callable[[str], None]


class Way:
    """One way to the system server."""

    def __init__(
        self, who: str, kind: Kind, client: Client, second: Client, root: Callable[[], int]
    ) -> None:
        """`second` makes a call while `client` makes others; over a pipe it is the same client."""
        self.who = who
        self.kind: Kind = kind
        self.client = client
        self.second = second
        self.root = root

    def processes(self) -> list[psutil.Process]:
        """Everything that works on a call, except the client."""
        return tree(psutil.Process(self.root()))


async def health(client: Client) -> None:
    """The read that agents make most."""
    await call_tool(client, "system_health", {})


async def own_costs(plan: Plan, say: Say) -> list[Row]:
    """The system server alone and behind the gateway: a read, an act, a read beside a command."""
    async with contextlib.AsyncExitStack() as stack:
        home = Home(system=True, echo=False)
        stack.push_async_callback(home.close)
        await home.up()
        await home.make_token()
        alone = Home(system=True, echo=False)
        stack.push_async_callback(alone.close)
        # Something that may be signalled and does not care.
        sleeper = start(["sleep", "600"], env=clean_environment(), log=home.log)
        stack.push_async_callback(end, sleeper)

        async def signal(client: Client) -> None:
            arguments = {"pid": sleeper.pid, "signal": "CONT", "wait_seconds": 0}
            await call_tool(client, "process_signal", arguments)

        ways = await _ways(home, alone, stack)
        # While they run: the last one to close a ledger takes its write-ahead log along.
        for used in (home, alone):
            await asyncio.to_thread(fill, "ledger", used.state / LEDGER_FILE, USED_ENTRIES)
        rows: list[Row] = []
        for what, act in (
            ("system_health (read)", health),
            ("process_signal (act: intent and outcome on disk)", signal),
        ):
            say(f"own cost: {what}, {plan.rounds} rounds")
            rows += await _alternating(what, act, ways, plan)
        return rows + await _beside_command(ways, plan, say)


async def _ways(home: Home, alone: Home, stack: contextlib.AsyncExitStack) -> list[Way]:
    bare = await alone.bare().open(alone.log)
    stack.push_async_callback(bare.close)
    http = await home.http("system").open()
    stack.push_async_callback(http.close)
    second = await home.http("system").open()
    stack.push_async_callback(second.close)
    joined: PipeClient = await home.connect("system").open(home.log)
    stack.push_async_callback(joined.close)

    def daemon() -> int:
        return home.daemon.pid if home.daemon else 0

    return [
        Way("hostwright-system, stdio", "direct", bare, bare, lambda: bare.pid),
        Way("hostwright HTTP", "ours", http, second, daemon),
        Way("hostwright connect", "ours", joined, joined, daemon),
    ]


async def _alternating(what: str, act: Act, ways: Sequence[Way], plan: Plan) -> list[Row]:
    found: list[tuple[Way, list[Load]]] = [(way, []) for way in ways]
    for number in range(plan.rounds):
        order = list(found)
        random.Random(number).shuffle(order)  # noqa: S311 - no secret
        for way, loads in order:
            if number == 0:
                await act(way.client)
            loads.append(await drive([way.client], plan.seconds, act, way.processes))
    return [rounds_row(OWN, what, way.who, loads, kind=way.kind) for way, loads in found]


async def _beside_command(ways: Sequence[Way], plan: Plan, say: Say) -> list[Row]:
    """`system_health` again and again while `shell_exec` runs a command."""
    what = f"system_health while shell_exec runs {plan.shell_seconds} s"
    found: list[tuple[Way, list[Load]]] = [(way, []) for way in ways]
    for number in range(plan.shell_rounds):
        for way, loads in found:
            say(f"own cost: {what}, round {number + 1}, {way.who}")
            loads.append(await _health_beside(way, plan.shell_seconds))
    rows: list[Row] = []
    for way, loads in found:
        row = rounds_row(OWN, what, way.who, loads, kind=way.kind)
        within = sum(ms < PROMISE_MS for ms in row.latencies_ms)
        slowest = percentile(row.latencies_ms, 1)
        note = (
            f"{within:,} of {len(row.latencies_ms):,} answers under {PROMISE_MS:.0f} ms, "
            f"slowest {slowest:.0f} ms"
        )
        rows.append(row.model_copy(update={"note": note}))
    return rows


async def _health_beside(way: Way, seconds: int) -> Load:
    command = {"argv": ["sleep", str(seconds)], "timeout_seconds": seconds + 20}
    running = asyncio.create_task(call_tool(way.second, "shell_exec", command))
    # The command has begun.
    await asyncio.sleep(0.3)
    load = await drive([way.client], seconds - 0.6, health, way.processes)
    if running.done():
        raise RuntimeError(f"the command ended too early: {await running}")
    await running
    return load
