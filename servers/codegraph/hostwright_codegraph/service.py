"""What the tools stand on: projects, their indexes, and keeping these up to date."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from hostwright_codegraph.indexing.scan import NEVER
from hostwright_codegraph.languages import language_of
from hostwright_codegraph.projects import Projects
from hostwright_codegraph.queries.reader import Index, reading
from hostwright_codegraph.runner import Run, Runner

logger = logging.getLogger(__name__)

STALE_SECONDS = 20.0
DEBOUNCE_MS = 300
WATCH_RETRY_SECONDS = 60


class Service:
    """One server's projects."""

    def __init__(self, projects: Projects, *, watch: bool = True) -> None:
        self.projects = projects
        self.runner = Runner(projects.places)
        self._watch = watch
        self._watchers: dict[Path, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.watched: set[Path] = set()

    async def background(self) -> None:
        """From the server's start to its end: index what is there, and follow changes."""
        self._loop = asyncio.get_running_loop()
        try:
            for root in self.projects.all():
                self.follow(root)
            await asyncio.Event().wait()
        finally:
            for task in self._watchers.values():
                task.cancel()
            await asyncio.gather(*self._watchers.values(), return_exceptions=True)
            await self.runner.close()

    def follow(self, root: Path) -> Run:
        """Bring a project up to date now and whenever it changes."""
        run = self.runner.start(root)
        if self._watch and root not in self._watchers:
            self._watchers[root] = asyncio.create_task(self._watching(root))
        return run

    async def forget(self, root: Path) -> None:
        """No longer follow a project."""
        watcher = self._watchers.pop(root, None)
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        await self.runner.stop(root)

    async def _watching(self, root: Path) -> None:
        from watchfiles import awatch  # noqa: PLC0415 - only where something is watched

        def matters(_: object, path: str) -> bool:
            if NEVER & set(
                Path(path).relative_to(root).parts if path.startswith(str(root)) else ()
            ):
                return False
            # A folder that came or went has no ending; what it holds may matter.
            return language_of(path) is not None or "." not in Path(path).name

        while True:
            try:
                self.watched.add(root)
                async for _ in awatch(root, watch_filter=matters, debounce=DEBOUNCE_MS, step=50):
                    self.runner.start(root)
            except (OSError, RuntimeError) as error:
                logger.warning("%s can not be watched: %s", root, error)
            finally:
                self.watched.discard(root)
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    @contextmanager
    def open(self, project: str | None) -> Generator[tuple[Index, str]]:
        """The index that a call means, and how fresh it is. Called from worker threads."""
        root = self.projects.meant(project)
        fresh = self.freshness(root)
        with reading(self.projects.places.database(root), root) as index:
            yield index, fresh

    def freshness(self, root: Path) -> str:
        """In a few words; starts a look at the files where the last one is long ago."""
        run = self.runner.runs.get(root)
        if run is None:
            self._soon(root)
            return "not looked at since this server started; a look has begun"
        if run.state == "failed":
            return f"the last run failed: {run.problem}"
        if run.progress is not None:
            return f"being brought up to date: {run.progress}"
        age = time.monotonic() - (run.checked or 0)
        if root in self.watched:
            return "current; changes are followed"
        if age > STALE_SECONDS:
            self._soon(root)
        return f"as of {age:.0f} s ago"

    def _soon(self, root: Path) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.follow, root)

    def database_mb(self, root: Path) -> float:
        """What the project's own index takes."""
        with suppress(OSError):
            return round(self.projects.places.database(root).stat().st_size / 2**20, 2)
        return 0.0
