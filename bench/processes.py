"""Processes that a measurement starts: begin, memory, processor time, and a clean end by pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
from pydantic import BaseModel, Field

END_SECONDS = 6.0


class Memory(BaseModel, frozen=True):
    """Of a group of processes."""

    processes: int
    bytes: int = Field(description="Proportional set size; unique set size where there is none.")


class CommandError(RuntimeError):
    """A command ended with an error."""

    def __init__(self, argv: list[str], code: int, said: str) -> None:
        super().__init__(f"{' '.join(argv)} ended with {code}: {said[-1500:]}")
        self.code = code


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(argv: list[str], *, env: Mapping[str, str], log: Path) -> psutil.Process:
    """A process with both outputs in `log`, in a process group of its own."""
    with log.open("ab") as sink:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(env),
            start_new_session=True,
        )
    # Popen, not Process: it reaps the child, so that its end can be waited for.
    _children[child.pid] = child
    return psutil.Process(child.pid)


_children: dict[int, subprocess.Popen[bytes]] = {}


async def run(argv: list[str], *, env: Mapping[str, str], seconds: float = 60) -> str:
    """A command that ends by itself; its stdout. Raises with what it said when it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise CommandError(argv, process.returncode, (out + err).decode(errors="replace").strip())
    return out.decode(errors="replace")


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and everything it started, while they live."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


async def end(root: psutil.Process) -> None:
    """TERM to the root, which ends its own children; what is left of the tree is killed."""
    family = tree(root)
    with contextlib.suppress(psutil.NoSuchProcess):
        root.terminate()
    if not await _gone(family, END_SECONDS):
        for process in family:
            # psutil compares start times: a pid that was reused meanwhile is not hit.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await _gone(family, END_SECONDS)


async def _gone(family: list[psutil.Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in family:
            if child := _children.get(process.pid):
                child.poll()
        if not any(_lives(process) for process in family):
            return True
        await asyncio.sleep(0.02)
    return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def memory(processes: Iterable[psutil.Process]) -> Memory:
    """What they take together: pages that processes share are counted once, in parts."""
    count, total = 0, 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            info = process.memory_full_info()
            total += info.pss if sys.platform == "linux" else info.uss
            count += 1
    return Memory(processes=count, bytes=total)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Processor time that they have used so far, in user and kernel mode."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def clean_environment() -> dict[str, str]:
    """This environment without settings of a Hostwright that the user runs."""
    ours = ("HOSTWRIGHT_", "FASTMCP_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
