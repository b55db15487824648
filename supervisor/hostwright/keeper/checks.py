"""Whether a running server is alive, by asking it: until it answers first, then every interval.

One round trip is the only sign that counts; a process that exists may be wedged. Says what was
found, decides nothing: the table in `machine.py` does. Asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

from hostwright.keeper.machine import Input
from hostwright.keeper.status import Health
from hostwright.manifest import Manifest

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
SETTLED_SECONDS = 1.0


class Finding(NamedTuple):
    """What one check, or a row of them, showed."""

    event: Input
    reason: str = ""


class Checks:
    """The checks of one server; remembers its last answer."""

    def __init__(self, manifest: Manifest, clean: Callable[[str], str]) -> None:
        """`clean` makes another program's words fit to be shown."""
        self._manifest = manifest
        self._clean = clean
        self.health: Health | None = None
        self.answered_at: float | None = None

    async def findings(self, ask: Callable[[], Awaitable[Health]]) -> AsyncGenerator[Finding, None]:
        """ANSWERED when it is ready and at each passed check, MISSED, at last UNANSWERED."""
        error = await self._until_ready(ask)
        if error:
            yield Finding(Input.UNANSWERED, error)
            return
        yield Finding(Input.ANSWERED)
        rules, missed = self._manifest.health, 0
        # The first answer took as long as the server took to start; soon comes a plain one.
        pause = min(SETTLED_SECONDS, rules.interval_seconds)
        while True:
            await asyncio.sleep(pause)
            pause = rules.interval_seconds
            error = await self._ask(ask, rules.timeout_seconds)
            if not error:
                missed = 0
                yield Finding(Input.ANSWERED)
                continue
            missed += 1
            if missed >= rules.failures_before_restart:
                reason = f"{missed} health checks in a row failed; the last: {error}"
                yield Finding(Input.UNANSWERED, reason)
                return
            yield Finding(Input.MISSED, f"a health check failed: {error}")

    async def _until_ready(self, ask: Callable[[], Awaitable[Health]]) -> str:
        allowed = self._manifest.start_timeout_seconds
        deadline = time.monotonic() + allowed
        pause = FIRST_PAUSE_SECONDS
        while error := await self._ask(ask, max(0.0, deadline - time.monotonic())):
            if time.monotonic() + pause >= deadline:
                return f"did not answer within {allowed:g} s: {error}"
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
        return ""

    async def _ask(self, ask: Callable[[], Awaitable[Health]], timeout_seconds: float) -> str:
        """One check: empty when it passed, else why not."""
        try:
            async with asyncio.timeout(timeout_seconds):
                health = await ask()
        except TimeoutError:
            return f"no answer within {timeout_seconds:.3g} s"
        except Exception as error:  # noqa: BLE001 - given from outside; any failure is "no answer"
            return self._clean(f"{type(error).__name__}: {error}")
        self.health, self.answered_at = health, time.monotonic()
        return ""
