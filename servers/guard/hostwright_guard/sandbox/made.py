"""A sandbox that was made: its control group, the ends of its streams, the link to its warden.

`Spares` keeps one that declares nothing ready before it is asked for: most of a start is making
namespaces and mounts, and those do not depend on what is going to run. It is used once, for one
run, or thrown away; nothing of a run was ever in it before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from hostwright_guard.sandbox.nursery_client import WardenLink, memory_file
from hostwright_kit.control_groups import Group
from hostwright_kit.errors import HostError

Stream = Literal["stdout", "stderr"]
# One that nobody asked for is given up: it is a handful of small processes.
SPARE_SECONDS = 120.0


class Pipes:
    """Both ends of the command's three streams; stdin is a file, so that nobody has to write."""

    def __init__(self) -> None:
        self.stdin = memory_file("stdin", b"")
        self.ours: dict[Stream, int] = {}
        self._writers: list[int] = []
        streams: tuple[Stream, ...] = ("stdout", "stderr")
        for stream in streams:
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            self.ours[stream] = reader
            self._writers.append(writer)

    def theirs(self) -> tuple[int, int, int]:
        stdout, stderr = self._writers
        return self.stdin, stdout, stderr

    def close_writers(self) -> None:
        """Ours of what the sandbox writes to, so that its end is seen."""
        for descriptor in self._writers:
            os.close(descriptor)
        self._writers.clear()

    def close(self) -> None:
        self.close_writers()
        for descriptor in (self.stdin, *self.ours.values()):
            os.close(descriptor)
        self.ours.clear()


@dataclass
class Made:
    """Close it when the run has ended; its group is ended by whoever made it."""

    group: Group
    pipes: Pipes
    image: int
    link: WardenLink

    def fill(self, image: bytes, stdin: bytes) -> None:
        """What is to be executed and read; the sandbox has these very files open."""
        write_at_start(self.image, image)
        write_at_start(self.pipes.stdin, stdin)

    def close(self) -> None:
        self.link.close()
        self.pipes.close()
        os.close(self.image)


class Spares:
    """At most one sandbox that waits."""

    def __init__(
        self, make: Callable[[], Awaitable[Made]], drop: Callable[[Made], Coroutine[Any, Any, None]]
    ) -> None:
        self._make = make
        self._drop = drop
        self._ready: Made | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def take(self) -> Made | None:
        """The one that waits, if there is one and it is sound."""
        made, self._ready = self._ready, None
        if self._task is not None and self._task.done():
            self._task = None
        if made is None or made.link.quiet:
            return made
        self._task = asyncio.create_task(self._drop(made))
        return None

    def refill(self) -> None:
        """Make one in the background, where none is and none is being made."""
        if self._ready is None and not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._fill())

    async def settled(self) -> None:
        """Wait until what is being made is there."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def close(self) -> None:
        self._closed = True
        await self.settled()
        if (made := self.take()) is not None:
            await self._drop(made)

    async def _fill(self) -> None:
        # What keeps it from being made is told to whoever asks for a run, by that run.
        with contextlib.suppress(HostError, OSError):
            made = self._ready = await self._make()
            asyncio.get_running_loop().call_later(SPARE_SECONDS, self._expire, made)

    def _expire(self, made: Made) -> None:
        if self._ready is made and not self._closed:
            self._ready = None
            self._task = asyncio.create_task(self._drop(made))


def write_at_start(descriptor: int, content: bytes) -> None:
    """Write without moving the position, which both sides share."""
    at, view = 0, memoryview(content)
    while at < len(view):
        at += os.pwrite(descriptor, view[at:], at)
