"""Signs of life from a call that takes longer than a few seconds.

Several clients cut a call after 60 silent seconds, and people wonder long before. `ticking` reports
the elapsed time to clients that asked for progress, and nothing to those that did not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastmcp.server.dependencies import get_context

TICK_SECONDS = 2.0


@asynccontextmanager
async def ticking(total_seconds: float, message: str) -> AsyncGenerator[None]:
    """While the block runs, report every two seconds how much of `total_seconds` has passed."""
    context = get_context()

    async def tick() -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            elapsed = min(time.monotonic() - started, total_seconds)
            await context.report_progress(elapsed, total_seconds, message)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
