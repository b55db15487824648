"""Whether a running server is alive, by asking it: until it answers first, then every interval.

A round trip is the sign that counts; a process that exists may be wedged. A canary, if the manifest
has one, is a real call on top of it. Before a server that answers no more is given up, its running
calls are looked at: one that does all its work in one thread answers no checks while it works, but
its calls show progress. Says what was found, decides nothing: the table in `machine.py` does.
Asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

from hostwright.keeper.around import CanaryRefused
from hostwright.keeper.machine import Input
from hostwright.keeper.status import Activity, Health
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Canary

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
SETTLED_SECONDS = 1.0

AskRound = Callable[[], Awaitable[Health]]
AskCall = Callable[[Canary], Awaitable[None]]


class Finding(NamedTuple):
    """What one check, or a row of them, showed."""

    event: Input
    reason: str = ""


class Checks:
    """The checks of one server; remembers its last answer."""

    def __init__(
        self,
        manifest: Manifest,
        clean: Callable[[str], str],
        activity: Callable[[], Activity],
    ) -> None:
        """`clean` makes another program's words fit to be shown."""
        self.manifest = manifest
        self._clean = clean
        self._activity = activity
        self._canary_at = 0.0
        self.health: Health | None = None
        self.answered_at: float | None = None
        self.refused: str | None = None
        """Why the canary is not sent, if so."""

    async def findings(
        self, ask: AskRound, call: AskCall | None = None
    ) -> AsyncGenerator[Finding, None]:
        """ANSWERED when it is ready and at each passed check, MISSED, at last UNANSWERED."""
        error = await self._until_ready(ask)
        if error:
            yield Finding(Input.UNANSWERED, error)
            return
        yield Finding(Input.ANSWERED)
        missed = 0
        self._canary_at = time.monotonic()
        # The first answer took as long as the server took to start; soon comes a plain one.
        pause = min(SETTLED_SECONDS, self.manifest.health.interval_seconds)
        while True:
            await asyncio.sleep(pause)
            rules = self.manifest.health
            pause = rules.interval_seconds
            error = await self._ask(ask, rules.timeout_seconds)
            error = error or await self._sing(call)
            if not error:
                missed = 0
                yield Finding(Input.ANSWERED)
                continue
            missed += 1
            if missed < rules.failures_before_restart:
                yield Finding(Input.MISSED, f"a health check failed: {error}")
            elif busy := self._busy():
                yield Finding(Input.MISSED, f"{missed} health checks failed, but {busy}")
            else:
                reason = f"{missed} health checks in a row failed; the last: {error}"
                yield Finding(Input.UNANSWERED, reason)
                return

    def _busy(self) -> str:
        """Why it is spared though it answers no checks; empty when it is not."""
        seen, rules = self._activity(), self.manifest.health
        window = rules.failures_before_restart * (rules.interval_seconds + rules.timeout_seconds)
        if not seen.in_flight or seen.silent_seconds >= window:
            return ""
        # New calls to a wedged server look like progress at first, so that has an end.
        answered = time.monotonic() - (self.answered_at or 0.0)
        if answered >= max(self.manifest.wedge_after_seconds, window):
            return ""
        return f"a running call showed a sign {seen.silent_seconds:.1f} s ago"

    async def _until_ready(self, ask: AskRound) -> str:
        allowed = self.manifest.start_timeout_seconds
        deadline = time.monotonic() + allowed
        pause = FIRST_PAUSE_SECONDS
        while error := await self._ask(ask, max(0.0, deadline - time.monotonic())):
            if time.monotonic() + pause >= deadline:
                return f"did not answer within {allowed:g} s: {error}"
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
        return ""

    async def _ask(self, ask: AskRound, timeout_seconds: float) -> str:
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

    async def _sing(self, call: AskCall | None) -> str:
        """The canary, when it is due: empty when it passed, else why not."""
        rules = self.manifest.canary
        if rules is None or call is None:
            self.refused = None
            return ""
        if time.monotonic() - self._canary_at < rules.interval_seconds:
            return ""
        try:
            async with asyncio.timeout(rules.timeout_seconds):
                await call(rules)
        except CanaryRefused as error:
            # Not the server's fault, so it is told, and not held against the server.
            self.refused = self._clean(f"the canary is not sent: {error}")
        except TimeoutError:
            return f"the canary {rules.tool} had no answer within {rules.timeout_seconds:g} s"
        except Exception as error:  # noqa: BLE001 - as above
            return self._clean(f"the canary {rules.tool} failed: {error}")
        else:
            self.refused = None
        # After a failure it is due again with the next check, like the round trip.
        self._canary_at = time.monotonic()
        return ""
