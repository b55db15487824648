"""The ledger: durable appends by one and by many, verification, and kills amid of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.appender import fill
from bench.bounds import Bound
from bench.home import DEPS, ROOT, Home
from bench.ledger_kills import IN_FLIGHT, WRITERS, ledger_kills
from bench.plan import Plan
from bench.processes import END_SECONDS, clean_environment
from bench.results import Kind, Load, Row, rounds_row
from bench.wire import MAX_LINE_BYTES
from hostwright_kit.audit import verify
from hostwright_kit.ledger_line import SOCKET_FILE
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.verifying import processes_at_most

OWN = "4 our own cost"
USED_ENTRIES = 10_000
MANY = 32
BUSY = 8
"""Calls in flight of a server that is busy."""
DURABLE_PER_SECOND = 10_000
VERIFIED_PER_SECOND = 250_000
"""A million in four seconds."""
Say = Callable[[str], None]


async def ledger_costs(plan: Plan, say: Say) -> list[Row]:
    """Appends per second with 1 and 8 processes beside a bare SQLite table, and verification."""
    rows: list[Row] = []
    DEPS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=DEPS))
    try:
        for kind in ("sqlite", "ledger"):
            await asyncio.to_thread(fill, kind, folder / f"{kind}.db", USED_ENTRIES)
        for count in (1, 8):
            what = f"ledger, durable appends, {count} process{'es' if count > 1 else ''}"
            async with contextlib.AsyncExitStack() as stack:
                bare, ours = [
                    await _appenders(kind, folder / f"{kind}.db", count, plan, stack)
                    for kind in ("sqlite", "ledger")
                ]
                bare_loads: list[Load] = []
                our_loads: list[Load] = []
                # In turn: what a sync costs changes from one second to the next.
                for number in range(plan.ledger_rounds):
                    say(f"{what}, round {number + 1}")
                    bare_loads.append(await _append_together(bare))
                    our_loads.append(await _append_together(ours))
            rows += [
                _appends_row(what, "bare SQLite table", "direct", bare_loads),
                _appends_row(what, "hostwright ledger", "ours", our_loads),
            ]
        rows += await _through_the_daemon(folder / "sqlite.db", plan, say)
        rows += await _killed(plan, say)
        say(f"ledger: writing and verifying {plan.ledger_entries} entries")
        rows.append(await _verified(folder / "long.db", plan))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


async def _through_the_daemon(bare: Path, plan: Plan, say: Say) -> list[Row]:
    """Many processes at once: a real daemon writes for all of them, in its own folders."""
    what = f"ledger, durable entries, {MANY} processes through the daemon"
    async with contextlib.AsyncExitStack() as stack:
        home = Home(system=False, echo=False)
        stack.push_async_callback(home.close)
        await home.up()
        ledger = home.state / LEDGER_FILE
        await asyncio.to_thread(fill, "ledger", ledger, USED_ENTRIES)
        address = str(home.runtime / SOCKET_FILE)
        bare_ones = await _appenders("sqlite", bare, MANY, plan, stack)
        lone = await _appenders("daemon", ledger, MANY, plan, stack, address, "1")
        busy = await _appenders("daemon", ledger, MANY, plan, stack, address, str(BUSY))
        groups = {
            "bare SQLite table, without a daemon": bare_ones,
            "hostwright ledger, one in flight each": lone,
            f"hostwright ledger, {BUSY} in flight each": busy,
        }
        loads: dict[str, list[Load]] = {who: [] for who in groups}
        for number in range(plan.ledger_rounds):
            say(f"{what}, round {number + 1}")
            for who, processes in groups.items():
                loads[who].append(await _append_together(processes))
        found = await asyncio.to_thread(verify, ledger)
        if not found.ok:
            raise RuntimeError(f"the ledger does not verify: {found}")
    bound = Bound(at_least=DURABLE_PER_SECOND)
    rows = [
        _appends_row(what, who, "direct" if "bare" in who else "ours", found)
        for who, found in loads.items()
    ]
    return [
        row if row.kind == "direct" else row.model_copy(update={"bounds": (bound,)}) for row in rows
    ]


async def _killed(plan: Plan, say: Say) -> list[Row]:
    """Kills of who writes and of who writes for all."""
    say(f"ledger: {plan.ledger_kills} kills")
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir=DEPS))
    try:
        found = await asyncio.to_thread(ledger_kills, folder, plan.ledger_kills)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    what = (
        f"kill −9 of one of {WRITERS} writers ({IN_FLIGHT} in flight each) or of the process that "
        f"writes for all, {found.kills} times ({found.of_the_host} of the latter)"
    )
    note = f"{found.acknowledged:,} acknowledged of {found.entries:,}; {found.checkpoints} signed"
    counts = {
        "acknowledged entries lost": found.lost,
        "entries written twice": found.twice,
        "times that the chain, the tree or a checkpoint did not hold": len(found.invalid),
    }
    return [
        Row(
            section=OWN,
            what=f"{what}: {name}",
            who="hostwright ledger",
            values=(float(count),),
            note=note,
            bounds=(Bound(at_most=0),),
        )
        for name, count in counts.items()
    ]


async def _appenders(
    kind: str, path: Path, count: int, plan: Plan, stack: contextlib.AsyncExitStack, *more: str
) -> list[asyncio.subprocess.Process]:
    """Processes that are ready to append to one file; the stack ends them."""
    script = str(Path(__file__).with_name("appender.py"))
    # `python FILE` looks for modules beside the file, not here.
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    processes: list[asyncio.subprocess.Process] = []
    for _ in range(count):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(script, kind, str(path), str(plan.ledger_seconds), *more),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=env,
            limit=MAX_LINE_BYTES,
        )
        stack.push_async_callback(_leave, process)
        processes.append(process)
    for process in processes:
        if await _line_of(process) != b"ready\n":
            raise RuntimeError(f"the {kind} appender did not start")
    return processes


async def _append_together(processes: Sequence[asyncio.subprocess.Process]) -> Load:
    for process in processes:
        if process.stdin is not None:
            process.stdin.write(b"go\n")
    said = [json.loads(line) for line in await asyncio.gather(*map(_line_of, processes))]
    latencies = tuple(float(ms) for one in said for ms in one["latencies_ms"])
    took = max(float(one["seconds"]) for one in said)
    return Load(calls_per_second=len(latencies) / took, latencies_ms=latencies, cpu_ms_per_call=0)


async def _line_of(process: asyncio.subprocess.Process) -> bytes:
    line = await process.stdout.readline() if process.stdout else b""
    if not line:
        raise RuntimeError(f"an appender ended with {await process.wait()}")
    return line


async def _leave(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _verified(path: Path, plan: Plan) -> Row:
    entries = plan.ledger_entries
    await asyncio.to_thread(fill, "ledger", path, entries)
    values: list[float] = []
    for _ in range(plan.verify_rounds):
        began = time.perf_counter()
        found = await asyncio.to_thread(verify, path)
        values.append(entries / (time.perf_counter() - began))
        if not found.ok or found.entries != entries:
            raise RuntimeError(f"the ledger does not verify: {found}")
    return Row(
        section=OWN,
        what=f"ledger, verify {entries:,} entries",
        who="hostwright audit",
        unit="entries/s",
        values=tuple(values),
        bounds=(Bound(at_least=VERIFIED_PER_SECOND),),
        note=f"{entries / sorted(values)[len(values) // 2]:.2f} s for all of them, on "
        f"{processes_at_most()} cores",
    )


def _appends_row(what: str, who: str, kind: Kind, loads: Sequence[Load]) -> Row:
    row = rounds_row(OWN, what, who, loads, kind=kind)
    return row.model_copy(update={"unit": "appends/s", "cpu_ms_per_call": None})
