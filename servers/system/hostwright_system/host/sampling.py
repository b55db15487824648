"""Samples of counters, kept so that a rate can be told without waiting.

A rate needs two readings. The ring keeps a few earlier ones; a question is answered against the
newest that is old enough to be meaningful (`MIN_WINDOW_SECONDS`, ten clock ticks) and young enough
to mean "now" (`MAX_WINDOW_SECONDS`). Callers state the window that they used.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_WINDOW_SECONDS = 0.1
MAX_WINDOW_SECONDS = 30.0


class SampleRing(Generic[T]):
    """The last few readings with their monotonic times. Safe to use from several threads."""

    def __init__(self, size: int = 4) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, T]] = deque(maxlen=size)

    def add(self, value: T, at: float | None = None) -> None:
        """Keeps a reading, unless the last one is so recent that it would crowd out older ones."""
        at = time.monotonic() if at is None else at
        with self._lock:
            if not self._samples or at - self._samples[-1][0] >= MIN_WINDOW_SECONDS:
                self._samples.append((at, value))

    def base(self, now: float | None = None) -> tuple[float, T] | None:
        """The newest reading that is between the two window bounds old, with its age."""
        now = time.monotonic() if now is None else now
        with self._lock:
            for at, value in reversed(self._samples):
                if MIN_WINDOW_SECONDS <= now - at <= MAX_WINDOW_SECONDS:
                    return now - at, value
        return None
