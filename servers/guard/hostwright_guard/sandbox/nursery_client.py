"""The server's side of the nursery: starts it, hands requests over, listens to wardens.

True asyncio; only starting the nursery blocks, in a thread. When the server dies in whatever way,
the wardens see their sockets close and end their sandboxes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostwright_kit.errors import HostError

# The package's folder is searched last; importing lets Python use its compiled form.
_START = "import sys; sys.path.append(sys.argv[2]); from warden.nursery import main; main()"
# All that the interpreter itself may need to start.
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")


@dataclass(frozen=True)
class Start:
    """What a warden is to start. The request is JSON; the descriptors stay the caller's."""

    request: Mapping[str, Any]
    image: int
    stdio: tuple[int, int, int]
    doorstep: bytes
    filter: bytes
    data: Sequence[bytes]
    places: Sequence[int]


class Nursery:
    """One helper process, started when it is first needed and again if it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._doorstep: int | None = None

    async def start(self, what: Start) -> WardenLink:
        """Have a warden forked; it begins at once."""
        async with self._lock:
            if self._process is None or self._process.poll() is not None:
                await asyncio.to_thread(self._spawn)
            ours, theirs = socket.socketpair()
            passed: list[int] = []
            try:
                passed.append(theirs.detach())
                passed.append(memory_file("request", json.dumps(what.request).encode()))
                passed += [memory_file("data", content) for content in (what.filter, *what.data)]
                if self._doorstep is None:
                    # Executed, never read: one file serves all.
                    self._doorstep = memory_file("doorstep", what.doorstep)
                order = [
                    *passed[:2],
                    what.image,
                    *what.stdio,
                    self._doorstep,
                    *passed[2:],
                    *what.places,
                ]
                assert self._requests is not None  # noqa: S101 - `_spawn` made it
                socket.send_fds(self._requests, [b"start"], order)
            except OSError as error:
                ours.close()
                raise HostError(
                    f"No sandbox can be started: {error.strerror}.",
                    fix="End some processes, or raise the limits of open files and processes.",
                    code="cannot_execute",
                ) from error
            finally:
                for descriptor in passed:
                    os.close(descriptor)
        ours.setblocking(False)
        return WardenLink(ours)

    async def close(self) -> None:
        """Let it end; running sandboxes end when their own links are closed."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._doorstep is not None:
            os.close(self._doorstep)
            self._doorstep = None
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def _spawn(self) -> None:
        if self._requests is not None:
            self._requests.close()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Our own file, run by the interpreter that runs us.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _START),
                    *(str(theirs.fileno()), str(Path(__file__).parent)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={k: v for k, v in os.environ.items() if k in _LOADER_VARIABLES},
                cwd="/",
                start_new_session=True,
            )


class WardenLink:
    """The socket to one warden."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = b""
        self.descriptors: list[int] = []

    async def next(self) -> dict[str, Any] | None:
        """The next report; None when the warden is gone. Descriptors gather in `descriptors`."""
        while b"\n" not in self._buffer:
            data = await self._receive()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def go(self, go: Mapping[str, Any]) -> None:
        """Let a warden that waits begin."""
        self._link.send(json.dumps(go).encode() + b"\n")

    @property
    def quiet(self) -> bool:
        """Whether the warden has said nothing more, and is there."""
        return not select.select([self._link], [], [], 0)[0]

    def end(self) -> None:
        """Ask the warden to end everything; harmless when it does already."""
        with contextlib.suppress(OSError):
            self._link.send(b"end\n")

    def close(self) -> None:
        """Without its server, the warden ends the sandbox."""
        self._link.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    async def _receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data, extra, _, _ = self._link.recvmsg(65_536, socket.CMSG_SPACE(64 * 4))
            except BlockingIOError:
                ready = loop.create_future()
                loop.add_reader(self._link, _settle, ready)
                try:
                    await ready
                finally:
                    loop.remove_reader(self._link)
                continue
            except ConnectionError:
                return b""
            for level, kind, content in extra:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) // 4 * 4])
                    self.descriptors += numbers
            return data


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def memory_file(name: str, content: bytes) -> int:
    """A nameless file in memory, at its beginning."""
    descriptor = os.memfd_create(name)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
