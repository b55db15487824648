"""When a server may go to sleep: nothing runs, and nobody has wanted anything for long enough.

The decision and the change of state are one step of the event loop; who comes a moment later finds
a server that is going to sleep, and wakes it. The keeper's own checks are no use of it. While
somebody watches a resource of it a server stays awake: asleep it would not tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from hostwright.keeper.machine import RUNNING, State
from hostwright.keeper.status import Activity
from hostwright.manifest import Manifest

SHORTEST_SECONDS = 0.01


class Sleeper(Protocol):
    """What is looked at."""

    manifest: Manifest
    state: State
    ready_at: float | None


class Idle:
    """One timer per running server that may sleep; nothing polls while calls come."""

    def __init__(
        self, server: Sleeper, activity: Callable[[str], Activity], sleep: Callable[[str], None]
    ) -> None:
        self._server = server
        self._activity = activity
        self._sleep = sleep
        self._timer: asyncio.TimerHandle | None = None
        self._touched = 0.0

    def touch(self) -> None:
        """Somebody is about to use it."""
        self._touched = time.monotonic()

    def arm(self) -> None:
        """See to it that the timer runs exactly while the server could fall asleep."""
        awake = self._server.state in RUNNING and self._server.manifest.sleeps_after_seconds > 0
        if not awake:
            self.disarm()
        elif self._timer is None:
            self._set(self._server.manifest.sleeps_after_seconds)

    def disarm(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(SHORTEST_SECONDS, seconds), self._due)

    def _due(self) -> None:
        self._timer = None
        server = self._server
        after = server.manifest.sleeps_after_seconds
        if server.state not in RUNNING or not after:
            return
        busy = self._activity(server.manifest.name)
        now = time.monotonic()
        idle = min(busy.idle_seconds, now - max(self._touched, server.ready_at or now))
        needed = bool(busy.in_flight) or busy.watched
        if server.state is State.READY and not needed and idle >= after:
            self._sleep(f"idle for {idle:.0f} s; the next call wakes it")
        else:
            # A call that runs now can be followed by sleep at the earliest in a whole period.
            self._set(after if needed or idle >= after else after - idle)
