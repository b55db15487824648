"""Manifests that change while the daemon runs: read again, checked, applied.

A file that is broken now changes nothing: the servers that came from it go on as they are, and the
problem is shown with its place. Watches the folders (watchfiles) and is asked by SIGHUP and
`hostwright reload`; one reload at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, Field
from watchfiles import awatch

from hostwright.keeper.keeper import Keeper
from hostwright.keeper.reload import Reloaded
from hostwright.manifest import Manifest
from hostwright.manifest_files import Loaded, Problem, load_files, suite_folder, user_folder
from hostwright_kit.paths import Paths

# Editors write a file in several steps; one look after the last of them is enough.
SETTLE_MILLISECONDS = 200
LOOK_MILLISECONDS = 50

OnReloaded = Callable[[Reloaded], None]

_log = logging.getLogger(__name__)


class ReloadResult(BaseModel, frozen=True):
    """What a reload did, and what is wrong with the files."""

    servers: Reloaded
    kept: tuple[str, ...] = Field(
        default=(), description="Servers whose file is broken now; they are as they were."
    )
    problems: tuple[str, ...] = ()


class Reloader:
    """The manifests of one daemon, over time."""

    def __init__(self, folders: Sequence[Path], *own: Manifest) -> None:
        """Reads them a first time (blocking); a reload needs a keeper, see `serve`.

        `own` are the supervisor's, which stand in no file and always hold; they come last.
        """
        self._folders = tuple(folders)
        self._own = own
        found = load_files(self._folders)
        self.manifests: Sequence[Manifest] = (*found.manifests, *own)
        self.problems = _errors(found)
        self._files = found.files
        self._keeper: Keeper | None = None
        self._on_reloaded: OnReloaded = _nobody
        self._one = asyncio.Lock()

    @classmethod
    def of(cls, paths: Paths, *own: Manifest) -> Reloader:
        """The suite's manifests and the owner's."""
        return cls((suite_folder(), user_folder(paths)), *own)

    def serve(self, keeper: Keeper, on_reloaded: OnReloaded) -> None:
        """From now on reloads go to this keeper; then `on_reloaded` is called, on the event loop,
        when what is new was begun. `manifests` and `problems` are up to date by then.
        """
        self._keeper, self._on_reloaded = keeper, on_reloaded

    async def reload(self) -> ReloadResult:
        """Read the manifests again and apply what differs."""
        async with self._one:
            if self._keeper is None:
                raise RuntimeError("a reload is asked for before there is a keeper")
            found = await asyncio.to_thread(load_files, self._folders)
            manifests, kept = self._with_what_is_broken(found, self._keeper)
            self.manifests = (*manifests, *self._own)
            self.problems = _errors(found)
            done = await self._keeper.reload(self.manifests)
            self._on_reloaded(done)
            return ReloadResult(
                servers=done,
                kept=tuple(kept),
                problems=tuple(str(problem) for problem in self.problems),
            )

    def _with_what_is_broken(
        self, found: Loaded, keeper: Keeper
    ) -> tuple[list[Manifest], list[str]]:
        """The manifests as they are to be: where a file cannot be used now, the ones from before.

        Also where another file would stand in for it, such as the suite's own for an overriding
        one: a slip of the pen must not run a server in another way than before.
        """
        used = set(found.files.values())
        broken = {one.file for one in _errors(found) if one.file} - used
        running = {name: keeper.manifest(name) for name in keeper.names}
        kept = [
            name
            for name, file in self._files.items()
            # A folder that cannot be read has lost nothing for good either.
            if name in running and (file in broken or file.parent in broken)
        ]
        wanted = {manifest.name: manifest for manifest in found.manifests}
        wanted |= {name: running[name] for name in kept}
        self._files = found.files | {name: self._files[name] for name in kept}
        return [wanted[name] for name in sorted(wanted)], kept

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Reload by itself, while inside, whenever a manifest changes."""
        task = asyncio.create_task(self._watch(), name="manifests")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        try:
            # So that the first manifest of an owner is noticed as well.
            self._folders[-1].mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            _log.warning("%s cannot be watched: %s", self._folders[-1], error.strerror)
        folders = [folder for folder in self._folders if folder.is_dir()]
        changes = awatch(
            *folders,
            watch_filter=lambda _, path: path.endswith(".toml"),
            debounce=SETTLE_MILLISECONDS,
            step=LOOK_MILLISECONDS,
            recursive=False,
        )
        async for _ in changes:
            try:
                await self.reload()
            except Exception:  # noqa: BLE001 - and logged; the next change may be read
                _log.exception("Reading the manifests again failed")


def _errors(found: Loaded) -> list[Problem]:
    return [problem for problem in found.problems if problem.level == "error"]


def _nobody(_: Reloaded) -> None:
    return None
