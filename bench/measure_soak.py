"""Ten minutes of load without a fault: what it takes at the end beside what it took when warm."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence

from bench.bounds import Bound
from bench.fault_load import (
    WHO,
    Counts,
    Footing,
    call_until,
    counted,
    footing,
    open_clients,
    said,
    start_home,
)
from bench.plan import Plan
from bench.results import Row

SOAK = "6 soak"
SAMPLE_SECONDS = 5.0
FLAT_PERCENT = 3.0
Say = Callable[[str], None]


async def soak(plan: Plan, say: Say) -> list[Row]:
    """Load without a fault, sampled: what it takes at the end beside what it took when warm."""
    async with contextlib.AsyncExitStack() as stack:
        home = await start_home(stack, "")
        clients = await open_clients(home, stack)
        over, counts = asyncio.Event(), Counts()
        work = [asyncio.create_task(call_until(over, client, counts)) for client in clients]
        samples: list[Footing] = []
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < plan.soak_seconds:
                await asyncio.sleep(min(SAMPLE_SECONDS, plan.soak_seconds / 10))
                samples.append(await footing(home))
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
        counted("calls that failed in it", counts.failed, 0, said(counts), section=SOAK),
        Row(
            section=SOAK,
            what="memory, last fifth beside the second",
            who=WHO,
            unit="%",
            values=((middle(last) / middle(first) - 1) * 100,),
            note=f"{middle(first):.1f} → {middle(last):.1f} MB",
            bounds=(Bound(at_most=FLAT_PERCENT),),
        ),
        counted(
            "descriptors, last fifth beside the second",
            max(one.descriptors for one in last) - max(one.descriptors for one in first),
            0,
            section=SOAK,
        ),
    ]
