"""The daemon keeps the ledger's file small: now and then old entries are moved into archives.

Looked for seldom, and done in a process of its own (`hostwright_kit.rotating`). What it cannot do
is told in the status; the ledger goes on growing then, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from hostwright_kit.archives import due
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0


class Rotation:
    """Rotates one ledger while `running`."""

    def __init__(
        self, ledger: Path, keep_entries: int, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        """`keep_entries` 0: never."""
        self.problem: str | None = None
        """Why it could not be done when it was last tried."""
        self._ledger = ledger
        self._keep = keep_entries
        self._look_seconds = look_seconds

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """In the background, until the block ends."""
        task = asyncio.create_task(self._look_again_and_again(), name="rotation of the ledger")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _look_again_and_again(self) -> None:
        while self._keep:
            try:
                if await asyncio.to_thread(due, self._ledger, self._keep):
                    self._tell(await self._rotate())
            except (HostError, OSError) as error:
                self._tell(str(error))
            await asyncio.sleep(self._look_seconds)

    async def _rotate(self) -> str | None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "hostwright_kit.rotating"),
            *(str(self._ledger), str(self._keep)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, told = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode == 0:
            return None
        return told.decode(errors="replace").strip()[-500:] or f"it ended with {process.returncode}"

    def _tell(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            logger.warning("The ledger could not be rotated: %s", problem)
        self.problem = problem
