"""What the daemon holds of the zygote: a forked server by its pipes, and the socket to ask by."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any


class Forked:
    """A forked server as its parent sees it; see `child.Process`."""

    def __init__(self, pid: int, pipes: Sequence[int]) -> None:
        self.pid = pid
        writing, reading, errors = pipes
        self.stdin: IO[bytes] | None = os.fdopen(writing, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(reading, "rb", buffering=0)
        self.stderr: IO[bytes] | None = os.fdopen(errors, "rb", buffering=0)
        self._code: int | None = None

    def wait(self) -> int:
        """Take its exit status; negative for a signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


@dataclass
class Control:
    """The socket to the zygote, or to one of its templates."""

    sock: socket.socket
    ready: asyncio.Future[Mapping[str, Any]]
    answers: dict[int, asyncio.Future[Mapping[str, Any]]] = field(
        default_factory=dict[int, asyncio.Future[Mapping[str, Any]]]
    )
    lost: bool = False

    def close(self) -> None:
        """Whoever still waits is told so."""
        if self.lost:
            return
        self.lost = True
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()
        for waiting in (self.ready, *self.answers.values()):
            if not waiting.done():
                waiting.set_result({"refused": "it has ended"})
