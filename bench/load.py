"""Driving a front: so many clients, each with one call in flight, for so long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import psutil

from bench.processes import cpu_seconds
from bench.results import Load
from bench.wire import Client, call_tool

TEXT = "hello world " * 4
Act = Callable[[Client], Awaitable[Callable[[], None] | None]]
"""One call; what it returns looks at the answer, once the clock has been read."""


async def echo(client: Client) -> None:
    """One echo call, and that what comes back is what was sent."""
    result = await call_tool(client, "echo", {"text": TEXT})
    if result["content"][0]["text"] != TEXT:
        raise ValueError(f"not an echo: {result}")


async def drive(
    clients: Sequence[Client],
    seconds: float,
    act: Act,
    processes: Callable[[], list[psutil.Process]],
    front: Callable[[], list[psutil.Process]] = list,
) -> Load:
    """One round. A call that fails ends the measurement: figures of failures are none."""
    latencies: list[float] = []
    measured = processes()
    alone = front()
    used, used_alone = cpu_seconds(measured), cpu_seconds(alone)
    began = time.perf_counter()

    async def work(client: Client) -> None:
        while (started := time.perf_counter()) - began < seconds:
            look = await act(client)
            latencies.append((time.perf_counter() - started) * 1000)
            if look is not None:
                look()

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
    took = time.perf_counter() - began
    used, used_alone = cpu_seconds(measured) - used, cpu_seconds(alone) - used_alone
    return Load(
        calls_per_second=len(latencies) / took,
        latencies_ms=tuple(latencies),
        cpu_ms_per_call=used * 1000 / len(latencies),
        front_ms_per_call=used_alone * 1000 / len(latencies),
    )
