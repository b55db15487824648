"""Nothing blocks: while a long command runs, the same process answers everybody else."""

from __future__ import annotations

import asyncio

import pytest

from .daemon_harness import ERAS, WAYS, Daemon, Era, Way


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", WAYS)
async def test_health_answers_while_a_long_command_runs(
    gateway: Daemon, token: str, way: Way, era: Era
) -> None:
    pid = gateway.server("system")["pid"]
    async with gateway.client(way, era, token=token) as client:
        command = {"argv": ["sh", "-c", "sleep 2; echo finished"]}
        running = asyncio.create_task(client.call_tool("shell_exec", command))
        answered = 0
        while not running.done():
            await client.call_tool("system_health", {})
            answered += not running.done()
            await asyncio.sleep(0.05)
        result = await running
    assert result.structured_content
    assert result.structured_content["stdout"]["head"] == "finished\n"
    assert answered >= 5
    assert gateway.server("system")["pid"] == pid


async def test_slow_tools_of_every_kind_run_side_by_side(gateway: Daemon, token: str) -> None:
    """Ten clients wait two seconds each in one server: together, not one after the other."""
    async with gateway.client("http", token=token) as client:
        job = await client.call_tool("shell_start", {"argv": ["sleep", "20"]})
        assert job.structured_content
        job_id = job.structured_content["id"]
        waits = [
            client.call_tool("job_status", {"job_id": job_id, "wait_seconds": 2}) for _ in range(10)
        ]
        commands = [client.call_tool("shell_exec", {"argv": ["sleep", "2"]}) for _ in range(10)]
        await asyncio.gather(*waits, *commands)
        # Forty seconds one after the other; a job of twenty seconds still runs.
        seen = await client.call_tool("job_status", {"job_id": job_id})
        assert seen.structured_content
        assert seen.structured_content["state"] == "running"
        cancelled = await client.call_tool("job_cancel", {"job_id": job_id})
        assert cancelled.structured_content
        assert cancelled.structured_content["state"] == "cancelled"


async def test_many_sessions_come_and_go(gateway: Daemon, token: str) -> None:
    async def visit(number: int) -> None:
        way, era = WAYS[number % 3], ERAS[number % 2]
        async with gateway.client(way, era, token=token) as client:
            assert await client.list_tools()

    for _ in range(3):
        await asyncio.gather(*(visit(number) for number in range(12)))
    assert gateway.server("system")["restarts"] == 0
