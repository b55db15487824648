"""Runs of the indexer: one process each, at most one at a time for a project, with progress.

The server itself never parses: `worker` does, and ends. What is asked for while a run goes on makes
one more run after it, so that the last change is always seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostwright_codegraph.store.places import Places
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

AT_ONCE = 1
"""Projects that are indexed at the same time; the machine is somebody's."""
LINE_LIMIT = 1 << 20


@dataclass
class Run:
    """How the index of one project is being brought up to date."""

    root: Path
    state: str = "waiting"
    """waiting, indexing, current or failed"""
    phase: str = ""
    done: int = 0
    of: int = 0
    outcome: dict[str, Any] = field(default_factory=dict[str, Any])
    problem: str | None = None
    fix: str | None = None
    checked: float | None = None
    """When the last run ended, on the monotonic clock."""
    again: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> str | None:
        """In words, while something is going on."""
        if self.state == "waiting":
            return "waits for another project"
        if self.state != "indexing":
            return None
        return f"{self.phase} {self.done} of {self.of}" if self.of else self.phase or "starts"


class Runner:
    """Starts the workers and knows how far they are. Used on the event loop's thread."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.runs: dict[Path, Run] = {}
        self._free = asyncio.Semaphore(AT_ONCE)

    def start(self, root: Path) -> Run:
        """Bring a project up to date in the background; once more if that is going on already."""
        run = self.runs.setdefault(root, Run(root))
        if run.task is not None and not run.task.done():
            run.again = run.state == "indexing"
            return run
        run.task = asyncio.create_task(self._keep_running(run))
        return run

    async def wait(self, root: Path, seconds: float) -> Run:
        """Until the project is up to date or the time is over."""
        run = self.runs.get(root) or self.start(root)
        if run.task is not None and not run.task.done():
            await asyncio.wait([run.task], timeout=seconds)
        return run

    async def stop(self, root: Path) -> None:
        """End what goes on for a project and forget it."""
        run = self.runs.pop(root, None)
        if run is not None and run.task is not None:
            run.task.cancel()
            await asyncio.wait([run.task])

    async def close(self) -> None:
        """End everything."""
        for root in list(self.runs):
            await self.stop(root)

    async def _keep_running(self, run: Run) -> None:
        while True:
            run.again = False
            run.state = "waiting"
            async with self._free:
                run.state = "indexing"
                try:
                    await self._run(run)
                except OSError as error:
                    run.state = "failed"
                    run.problem = f"The indexer could not be started: {error}."
                    run.fix = "Free memory or processes, then codegraph_index with refresh."
            run.checked = time.monotonic()
            if not run.again:
                return

    async def _run(self, run: Run) -> None:
        run.phase, run.done, run.of, run.problem, run.fix = "starts", 0, 0, None, None
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "hostwright_codegraph.indexing.worker"),
            *(str(self._places.folder), str(run.root)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        errors = asyncio.create_task(_tail(process.stderr))
        try:
            await self._follow(run, process.stdout)
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            said = await errors
        if run.outcome and run.problem is None and code == 0:
            run.state = "current"
            return
        run.state = "failed"
        if run.problem is None:
            logger.warning("The indexer of %s ended with %s: %s", run.root, code, said)
            run.problem = f"The indexer ended unexpectedly ({code})."
            run.fix = "codegraph_index with refresh tries again; the cause is in this server's log."

    async def _follow(self, run: Run, stdout: asyncio.StreamReader | None) -> None:
        run.outcome = {}
        while stdout is not None and (line := await stdout.readline()):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if "phase" in said:
                run.phase, run.done, run.of = said["phase"], said["done"], said["of"]
            elif "done" in said:
                run.outcome = said["done"]
            else:
                run.problem, run.fix = said.get("problem"), said.get("fix")


async def _tail(stream: asyncio.StreamReader | None) -> str:
    """The end of what was said on stderr; all of it is read, so that nobody waits."""
    last = b""
    while stream is not None and (piece := await stream.read(65_536)):
        last = (last + piece)[-2_000:]
    return last.decode("utf-8", "replace").strip()


def failed(run: Run) -> HostError:
    """A run that did not end well, as an error."""
    return HostError(run.problem or "It failed.", fix=run.fix or "", code="index_failed")
