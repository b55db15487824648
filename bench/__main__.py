"""`python -m bench [--quick] [--only PART…]`: measure, show the table, write RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import report
from bench.measure_calls import calls, memories
from bench.measure_faults import faults
from bench.measure_guard import guard_costs
from bench.measure_ledger import ledger_costs
from bench.measure_lists import lists
from bench.measure_own import own_costs
from bench.measure_sandbox import sandbox_costs
from bench.measure_soak import soak
from bench.measure_start import starts
from bench.measure_suite import suites
from bench.peers import install_mcp_proxy, mcp_proxy_versions
from bench.plan import FULL, QUICK
from bench.results import Row

RESULTS = Path(__file__).with_name("RESULTS.md")
SOAKED = Path(__file__).with_name("SOAK.md")
USUAL = (
    *("start", "suite", "memory", "calls", "lists"),
    *("own", "ledger", "guard", "faults", "sandbox"),
)
PARTS = (*USUAL, "soak")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure against peers.")
    parser.add_argument("--quick", action="store_true", help="a look; RESULTS.md is left alone")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(USUAL), metavar="PART")
    options = parser.parse_args()
    try:
        asyncio.run(_main(quick=options.quick, parts=options.only))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


async def _main(*, quick: bool, parts: list[str]) -> None:
    task = asyncio.current_task()
    if task is not None:
        # As on Ctrl-C: everything that was started is ended.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    plan = QUICK if quick else FULL
    peer = await install_mcp_proxy()
    measures: dict[str, Callable[[], Awaitable[list[Row]]]] = {
        "start": lambda: starts(plan, peer, _say),
        "suite": lambda: suites(plan, _say),
        "memory": lambda: memories(plan, peer, _say),
        "calls": lambda: calls(plan, peer, _say),
        "lists": lambda: lists(plan, peer, _say),
        "own": lambda: own_costs(plan, _say),
        "ledger": lambda: ledger_costs(plan, _say),
        "guard": lambda: guard_costs(plan, _say),
        "faults": lambda: faults(plan, _say),
        "sandbox": lambda: sandbox_costs(plan, _say),
        "soak": lambda: soak(plan, _say),
    }
    rows: list[Row] = []
    loads: list[tuple[str, float]] = []
    began = time.monotonic()
    for part in PARTS:
        if part in parts:
            loads.append((part, os.getloadavg()[0]))
            rows += await measures[part]()
    loads.append(("end", os.getloadavg()[0]))
    peers = peer.problem or await mcp_proxy_versions()
    heading = report.heading(plan.name, loads, time.monotonic() - began, peers)
    _say("")
    report.show(rows)
    print(heading.partition("\n\n")[2].partition("\n\n")[2])
    targets: dict[frozenset[str], Path] = {
        frozenset(USUAL): RESULTS,
        frozenset(("soak",)): SOAKED,
    }
    target = targets.get(frozenset(parts))
    if not quick and target is not None:
        target.write_text(heading + report.markdown(rows), encoding="utf-8")
        print(f"written: {target.relative_to(Path.cwd())}")


def _say(line: str) -> None:
    """Progress, on one line of a terminal and nowhere else."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()


main()
