"""Further processes of one server: counted with it, ended with it, and never left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hostwright.keeper import processes
from hostwright.keeper import sessions as module
from hostwright.keeper.opening import Opened, open_target
from hostwright_kit.errors import HostError

from .keeper_world import Open, Suite, manifest


async def ended(pid: int) -> None:
    async with asyncio.timeout(30):
        while processes.identity(pid):  # noqa: ASYNC110 - nothing would set an event here
            await asyncio.sleep(0.01)


async def one_with_sessions(suite: Open) -> Suite:
    s = await suite(manifest("a", session="per-client"), manifest("b"))
    await s.keeper.start_all()
    return s


async def test_sessions_are_counted_and_end_with_their_server(suite: Open) -> None:
    s = await one_with_sessions(suite)
    assert s.row("a").sessions == 0
    assert s.row("b").sessions is None
    first, second = [await s.keeper.open_session("a") for _ in range(2)]
    assert first.child
    assert second.child
    assert s.row("a").sessions == 2
    alone = s.row("a").memory_bytes or 0
    await s.when("a", lambda row: (row.memory_bytes or 0) > 2 * alone > 0)
    await s.keeper.end_session(first)
    await ended(first.child.pid)
    assert s.row("a").sessions == 1
    await s.keeper.stop("a")
    await ended(second.child.pid)
    assert s.row("a").sessions == 0
    with pytest.raises(HostError, match="was stopped"):
        await s.keeper.open_session("a")


async def test_a_session_that_crashes_is_no_session(suite: Open) -> None:
    s = await one_with_sessions(suite)
    session = await s.keeper.open_session("a")
    assert session.child
    session.child.stdin.write(b"fail\n")
    await s.when("a", lambda row: row.sessions == 0)
    await ended(session.child.pid)


@pytest.mark.parametrize("closing", [False, True])
async def test_who_goes_while_its_session_is_opened_leaves_nothing(
    suite: Open, monkeypatch: pytest.MonkeyPatch, closing: bool
) -> None:
    s = await one_with_sessions(suite)
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    recorded = asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Opened:
        """The process is there; that it is has still to be written down."""
        made = await open_target(*args, **more)
        started.set_result(made.target.pid)  # type: ignore[union-attr]
        await recorded.wait()
        return made

    monkeypatch.setattr(module, "open_target", slow)
    opening = asyncio.create_task(s.keeper.open_session("a"))
    pid = await started
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    if closing:
        end = asyncio.create_task(s.keeper.close())
        await asyncio.sleep(0)
        recorded.set()
        await end
    recorded.set()
    await ended(pid)
