"""When to try again after a failure, and when to stop trying.

A server that had been ready is started again at once, the first time; then exponential back-off
with jitter, so that many servers that failed together do not return together; a breaker, so that a
server that cannot run is not restarted for ever. Pure: the clock and the dice are given.
"""

from __future__ import annotations

import random
from collections import deque

from hostwright.manifest import RestartRules

STEADY_SECONDS = 5.0


class Backoff:
    """The failures of one server and what follows from them. Times are monotonic seconds."""

    def __init__(self, rules: RestartRules, dice: random.Random | None = None) -> None:
        self._rules = rules
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._attempt = 0
        self._hurried = False
        self._failures: deque[float] = deque(maxlen=rules.breaker_failures)

    def failed(self, now: float) -> None:
        """One more failure."""
        self._failures.append(now)

    @property
    def failures(self) -> int:
        """How many failures are held against it (no more than the breaker needs)."""
        return len(self._failures)

    def open(self, now: float) -> bool:
        """Whether it failed so often within the window that it is broken."""
        since = now - self._rules.breaker_window_seconds
        return len(self._failures) == self._rules.breaker_failures and self._failures[0] >= since

    def at_once(self, ready_seconds: float | None) -> bool:
        """Whether to start again without any delay; `ready_seconds`: how long it had been ready.

        Once until it has been forgiven; and again each time that it had run steadily, so that the
        breaker, not the delay, is what ends a server that fails every now and then.
        """
        if ready_seconds is None:
            return False
        at_once = ready_seconds >= STEADY_SECONDS or not (self._hurried or self._attempt)
        self._hurried = self._hurried or at_once
        return at_once

    def next_delay_seconds(self) -> float:
        """How long to wait before the next start; longer each time."""
        rules = self._rules
        # The exponent is bounded first: 2.0 ** 2000 is an error, not infinity.
        plain = min(
            rules.max_delay_seconds, rules.first_delay_seconds * 2.0 ** min(self._attempt, 40)
        )
        self._attempt += 1
        jittered = plain * self._dice.uniform(1 - rules.jitter, 1 + rules.jitter)
        return min(rules.max_delay_seconds, jittered)

    def healthy(self, seconds: float) -> None:
        """It has been healthy for so long; long enough, and its failures are forgotten."""
        if seconds >= self._rules.breaker_window_seconds:
            self.forgive()

    def forgive(self) -> None:
        """Start anew."""
        self._attempt, self._hurried = 0, False
        self._failures.clear()

    def adopt(self, rules: RestartRules) -> None:
        """Other rules from now on; the failures stay."""
        self._rules = rules
        self._failures = deque(self._failures, maxlen=rules.breaker_failures)
