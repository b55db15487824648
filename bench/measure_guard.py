"""What the guard adds to a call, beside plain FastMCP over the same stdio in the same run.

The servers are called in turn, one call each: what disturbs the machine disturbs all of them, and
the difference of their medians is the guard's also while others work here.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.bounds import Bound
from bench.home import DEPS, ROOT
from bench.load import Act
from bench.plan import Plan
from bench.processes import clean_environment, cpu_seconds, tree
from bench.results import Load, Row, percentile, rounds_row
from bench.wire import Client, PipeClient, call_tool

GUARD = "5 the guard"
READ_MS, ACT_MS = 0.3, 2.0
WARM_CALLS = 100
POLICY = """
[[rules]]
effect = "deny"
server = "guarded"
[rules.arguments]
text = { glob = "never*" }
"""
Say = Callable[[str], None]


async def guard_costs(plan: Plan, say: Say) -> list[Row]:
    """A read and an act: plain, guarded, and guarded with a rule on the argument."""
    DEPS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="guard-", dir=DEPS))
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = {
                "plain FastMCP": await _client(folder / "plain", "plain", stack),
                "under the guard": await _client(folder / "guarded", "guarded", stack),
                "with a rule on the argument": await _client(
                    folder / "ruled", "guarded", stack, policy=POLICY
                ),
            }
            rows: list[Row] = []
            for tool, what, most in (
                ("look", "a read (in the access log)", READ_MS),
                ("keep", "an act (intent and outcome on disk)", ACT_MS),
            ):
                say(f"guard: {what}, {plan.rounds} rounds")
                rows += await _compared(tool, what, most, clients, plan)
            return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _client(
    folder: Path, mode: str, stack: contextlib.AsyncExitStack, *, policy: str = ""
) -> PipeClient:
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    for name in ("state", "config", "runtime"):
        place = folder / name
        place.mkdir(parents=True, mode=0o700)
        env[f"HOSTWRIGHT_{name.upper()}_DIR"] = str(place)
    if policy:
        (folder / "config" / "policy.toml").write_text(policy)
    argv = [sys.executable, str(Path(__file__).with_name("guarded_server.py")), mode]
    client = await PipeClient(argv, env=env).open(folder / "log")
    stack.push_async_callback(client.close)
    return client


async def _compared(
    tool: str, what: str, most: float, clients: dict[str, PipeClient], plan: Plan
) -> list[Row]:
    loads: dict[str, list[Load]] = {who: [] for who in clients}
    act = _calling(tool)
    for _ in range(WARM_CALLS):
        for client in clients.values():
            await act(client)
    for _ in range(plan.rounds):
        for who, load in (await _in_turn(clients, plan.seconds * len(clients), act)).items():
            loads[who].append(load)
    rows = [
        rounds_row(GUARD, what, who, found, kind="direct" if "plain" in who else "ours")
        for who, found in loads.items()
    ]
    plain = [_p50(load) for load in loads["plain FastMCP"]]
    for who in list(clients)[1:]:
        added = [_p50(load) - base for load, base in zip(loads[who], plain, strict=True)]
        row = Row(
            section=GUARD,
            what=f"{what}: what the guard adds, p50",
            who=who,
            unit="ms",
            values=tuple(added),
            bounds=(Bound(at_most=most),),
        )
        rows.append(row)
    return rows


async def _in_turn(clients: dict[str, PipeClient], seconds: float, act: Act) -> dict[str, Load]:
    """One call after the other, each to the next server."""
    latencies: dict[str, list[float]] = {who: [] for who in clients}
    processes = {who: tree(psutil.Process(client.pid)) for who, client in clients.items()}
    used = {who: cpu_seconds(mine) for who, mine in processes.items()}
    order = list(clients.items())
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        order.append(order.pop(0))
        for who, client in order:
            started = time.perf_counter()
            await act(client)
            latencies[who].append((time.perf_counter() - started) * 1000)
    return {
        who: Load(
            calls_per_second=1000 * len(found) / sum(found),
            latencies_ms=tuple(found),
            cpu_ms_per_call=(cpu_seconds(processes[who]) - used[who]) * 1000 / len(found),
        )
        for who, found in latencies.items()
    }


def _calling(tool: str) -> Act:
    async def act(client: Client) -> None:
        await call_tool(client, tool, {"text": "some text"})

    return act


def _p50(load: Load) -> float:
    return percentile(load.latencies_ms, 0.5)
