"""The server's side of one warden: its reports, what the command says, how it is asked to end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hostwright_guard.sandbox import machine
from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.made import Made, Stream
from hostwright_kit.errors import HostError

READ_BYTES = 256 * 1024
Receiver = Callable[[bytes, Stream], Awaitable[None]]


class Life:
    """The server's side of one warden."""

    def __init__(self, receive: Receiver, made: Made) -> None:
        self._receive = receive
        self._pipes = made.pipes
        self._said = b""
        self.link = made.link

    def end(self) -> None:
        self.link.end()

    async def run(self, gate: Gate | None) -> int | None:
        pumps = [
            asyncio.create_task(self._pump(stream, descriptor))
            for stream, descriptor in self._pipes.ours.items()
        ]
        try:
            first = await self.link.next()
            if first and "started" in first:
                if gate is not None:
                    listeners = [socket.socket(fileno=f) for f in self.link.descriptors]
                    self.link.descriptors.clear()
                    await gate.open(listeners)
                first = await self.link.next()
            # The command has ended, and with it everyone who could hold a pipe open.
            await asyncio.wait(pumps, timeout=10)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        if first is None:
            raise HostError(
                "The process that watched over the sandbox was killed; the sandbox ended with it.",
                fix="Look for a lack of memory (journal, dmesg) and try again.",
                code="supervision_lost",
            )
        if "failed" in first:
            raise _failure(first, self._said.decode("utf-8", "replace").strip())
        return first["exited"]

    async def _pump(self, stream: Stream, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_reader(descriptor, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(descriptor)
                continue
            if not data:
                return
            if stream == "stderr" and len(self._said) < 4_096:
                self._said += data[:4_096]
            await self._receive(data, stream)
            # A receiver that only counts does not yield, and a flood would own the loop.
            await asyncio.sleep(0)


def _failure(message: Mapping[str, Any], said: str) -> HostError:
    what, number = str(message["failed"]), int(message["errno"])
    because = os.strerror(number) if number else ""
    if what == "cancelled":
        return HostError("It was cancelled before it had begun.", code="cancelled")
    if what == "execute":
        return HostError(
            f"The program cannot be executed: {because}.",
            fix="It, its interpreter and its libraries must be visible in the sandbox.",
            code="cannot_execute",
        )
    if what == "overlay" and number == errno.ESTALE:
        what = "exchanged The folder"
    if what.startswith("exchanged "):
        return HostError(
            f"{what.removeprefix('exchanged ')} was exchanged while the sandbox was being made.",
            fix="Look at who changes that folder; nothing was run.",
            code="conflict",
        )
    text = said or because or what
    return HostError(
        f"The sandbox could not be made ({what}): {text[:500]}",
        fix=machine.explain(text),
        code="sandbox_unavailable",
    )
