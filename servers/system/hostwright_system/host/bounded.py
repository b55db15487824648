"""Calls that the kernel or a resolver may never answer, with a deadline.

`statvfs` on a dead NFS or FUSE mount and a name lookup with a dead resolver cannot be interrupted
from Python. Each such call runs in a daemon thread of its own; a call that is still hanging is
never started a second time, so a dead mount costs one thread, however often it is asked for, and
one wait: later questions are answered at once with how long it has been silent.

A thread pool is no help here: it is joined at exit and would hang the shutdown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_HANGING_CALLS = 32


@dataclass(frozen=True)
class Silent:
    """The call has not answered; `seconds` is how long it has been waited for in all."""

    seconds: float


@dataclass(frozen=True)
class _Call(Generic[T]):
    future: Future[T]
    started: float


class BoundedCalls(Generic[T]):
    """Runs named calls side by side and gives back what answered within the deadline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _Call[T]] = {}

    def run(
        self, calls: Mapping[str, Callable[[], T]], *, timeout_seconds: float
    ) -> dict[str, T | OSError | Silent]:
        """Every name with its result, the `OSError` it raised, or `Silent`. Blocks at most
        `timeout_seconds`."""
        now = time.monotonic()
        running = {name: self._start(name, call) for name, call in calls.items()}
        fresh = [
            item.future
            for item in running.values()
            if item is not None and now - item.started < timeout_seconds
        ]
        wait(fresh, timeout=timeout_seconds)
        return {name: _outcome(item) for name, item in running.items()}

    def _start(self, name: str, call: Callable[[], T]) -> _Call[T] | None:
        with self._lock:
            known = self._calls.get(name)
            if known is not None:
                return known
            if len(self._calls) >= MAX_HANGING_CALLS:
                return None
            item = _Call[T](Future[T](), time.monotonic())
            self._calls[name] = item
        threading.Thread(
            target=self._work, args=(name, call, item.future), name=f"bounded:{name}", daemon=True
        ).start()
        return item

    def _work(self, name: str, call: Callable[[], T], future: Future[T]) -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - handed to the caller, as any executor does
            self._forget(name)
            future.set_exception(error)
        else:
            self._forget(name)
            future.set_result(result)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._calls.pop(name, None)


def _outcome(item: _Call[T] | None) -> T | OSError | Silent:
    if item is None:
        return Silent(0.0)
    if not item.future.done():
        return Silent(time.monotonic() - item.started)
    error = item.future.exception()
    if isinstance(error, OSError):
        return error
    return item.future.result()
