"""Clients that go on calling, and what is held meanwhile: for kills and for ten minutes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence

import psutil
from pydantic import BaseModel, Field

from bench.bounds import Bound
from bench.home import Home
from bench.load import echo
from bench.processes import memory
from bench.results import Row
from bench.wire import Client, Era, WireError

FAULTS = "5 faults"
WHO = "hostwright"
SETTLE_SECONDS = 10.0
LOAD_CLIENTS: tuple[tuple[str, Era], ...] = (
    *(("HTTP", "legacy"), ("HTTP", "legacy"), ("HTTP", "modern"), ("HTTP", "modern")),
    *(("connect", "legacy"), ("connect", "modern")),
)
FAILED = (WireError, OSError, asyncio.IncompleteReadError, ValueError)


class Counts:
    """What a load has seen."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()
        self._news = asyncio.Event()

    def note_answer(self) -> None:
        self.answered += 1
        self._news.set()

    async def more(self, answers: int, seconds: float) -> None:
        """Wait, so long at most, for so many more answers."""
        wanted = self.answered + answers
        async with asyncio.timeout(seconds):
            while self.answered < wanted:
                self._news.clear()
                await self._news.wait()

    def add(self, other: Counts) -> None:
        """Count what another load has seen."""
        self.answered += other.answered
        self.failed += other.failed
        self.errors += other.errors

    def note_failure(self, error: BaseException) -> None:
        self.failed += 1
        code = re.search(r'"code": "(\w+)"', str(error))
        self.errors[code[1] if code else str(error)[:80]] += 1


class Footing(BaseModel, frozen=True):
    """What the daemon and its servers hold at a moment."""

    processes: int
    descriptors: int = Field(description="Of the daemon.")
    megabytes: float = Field(description="Of all of them.")
    daemon_megabytes: float


async def start_home(stack: contextlib.AsyncExitStack, more: str) -> Home:
    home = Home(system=False, echo=True, more=more)
    stack.push_async_callback(home.close)
    await home.up()
    await home.make_token()
    return home


async def open_clients(
    home: Home,
    stack: contextlib.AsyncExitStack,
    server: str = "echo",
    wanted: Sequence[tuple[str, Era]] = LOAD_CLIENTS,
) -> list[Client]:
    """Clients of both eras over both ways in, each with a session that has to last."""
    found: list[Client] = []
    for how, era in wanted:
        client = (
            await home.http(server, era).open()
            if how == "HTTP"
            else await home.connect(server, era).open(home.log)
        )
        stack.push_async_callback(client.close)
        found.append(client)
    return found


async def call_until(over: asyncio.Event, client: Client, counts: Counts) -> None:
    while not over.is_set():
        try:
            await echo(client)
        except FAILED as error:
            counts.note_failure(error)
            await asyncio.sleep(0.01)
        else:
            counts.note_answer()


async def footing(home: Home) -> Footing:
    processes = home.processes()
    taken = await asyncio.to_thread(memory, processes)
    return Footing(
        processes=len(processes),
        descriptors=processes[0].num_fds() if processes else 0,
        megabytes=taken.bytes / 1e6,
        daemon_megabytes=memory(processes[:1]).bytes / 1e6,
    )


async def settled(home: Home, wanted: Footing) -> Footing:
    """What is held when what may still end has had time to."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await footing(home)
        more = found.processes > wanted.processes or found.descriptors > wanted.descriptors
        if not more or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


def end_at_once(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def counted(what: str, found: int, most: int, note: str = "", *, section: str = FAULTS) -> Row:
    bound = Bound(at_most=most)
    return Row(
        section=section, what=what, who=WHO, values=(float(found),), note=note, bounds=(bound,)
    )


def said(counts: Counts) -> str:
    words = f"of {counts.answered + counts.failed:,} calls"
    said = ", ".join(f"{error} ({times})" for error, times in counts.errors.most_common(3))
    return f"{words}: {said}" if said else words
