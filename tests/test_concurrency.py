"""Nothing blocks: while a long command runs, the same process answers everybody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .daemon_harness import ERAS, WAYS, Daemon, Era, Way, wait_for


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", WAYS)
async def test_health_answers_while_a_long_command_runs(
    gateway: Daemon, token: str, way: Way, era: Era, tmp_path: Path
) -> None:
    pid = gateway.server("system")["pid"]
    async with gateway.client(way, era, token=token) as client:
        # It runs for as long as it takes to be asked five times beside it.
        begun, asked = tmp_path / "begun", tmp_path / "asked"
        line = f"touch {begun}; until test -e {asked}; do sleep 0.1; done; echo finished"
        command = {"argv": ["sh", "-c", line], "timeout_seconds": 50}
        running = asyncio.create_task(client.call_tool("shell_exec", command))
        await asyncio.to_thread(wait_for, begun.exists)
        for _ in range(5):
            await client.call_tool("system_health", {})
            assert not running.done()
        asked.touch()
        result = await running
    assert result.structured_content
    assert result.structured_content["stdout"]["head"] == "finished\n"
    assert gateway.server("system")["pid"] == pid


async def test_slow_tools_of_every_kind_run_side_by_side(gateway: Daemon, token: str) -> None:
    """Ten clients wait two seconds each in one server: together, not one after the other."""
    async with gateway.client("http", token=token) as client:
        job = await client.call_tool("shell_start", {"argv": ["sleep", "35"]})
        assert job.structured_content
        job_id = job.structured_content["id"]
        waits = [
            client.call_tool("job_status", {"job_id": job_id, "wait_seconds": 2}) for _ in range(10)
        ]
        commands = [client.call_tool("shell_exec", {"argv": ["sleep", "2"]}) for _ in range(10)]
        await asyncio.gather(*waits, *commands)
        # Forty seconds one after the other; a job of thirty-five still runs.
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
