"""One server process: started with pipes, watched without polling, ended with all its descendants.

It runs in a session of its own, carries a mark in its environment (`processes.py`) and, on Linux,
is killed by the kernel when the daemon dies (`launch.py`). Its end is seen through a pidfd
(pidfd_open(2)) in the event loop; elsewhere a task looks every 50 ms. The exit status is taken only
in `stop`, after the session is empty: until then its pid cannot become another process's.

Asyncio throughout; start it on the thread of the event loop, because PR_SET_PDEATHSIG follows the
thread that forked. The fork and exec themselves block for about a millisecond.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, Protocol

import psutil
from pydantic import BaseModel, Field

from hostwright.keeper import launch, processes
from hostwright.keeper.logs import Drain, ServerLog
from hostwright.keeper.processes import Family, ProcessId
from hostwright.keeper.status import Exit, StopResult
from hostwright.manifest import Fork, executable_for
from hostwright_kit.errors import HostError

MAX_LINE_BYTES = 16 * 1024 * 1024
POLL_SECONDS = 0.05
LEFTOVER_GRACE_SECONDS = 1.0
DRAIN_SECONDS = 1.0


class Launch(BaseModel, frozen=True):
    """What to start."""

    name: str
    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(repr=False, description="All of it; secrets included.")
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    mark: str = Field(default_factory=lambda: str(uuid.uuid4()))
    fork: Fork | None = Field(default=None, description="None: only by executing argv.")
    rlimits: dict[str, tuple[int, int]] = Field(
        default_factory=dict, description="RLIMIT_… to its soft and hard bound. Linux."
    )
    cgroup: Path | None = Field(default=None, description="The folder of its own. Linux.")


class Process(Protocol):
    """A process of ours by its pipes, however it was started."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def wait(self) -> int:
        """Take its exit status; negative for a signal."""
        ...


StartByFork = Callable[[Launch], Awaitable[Process | str]]
"""Starts a process by fork, or says why that is not possible now."""


class Child:
    """A running server process. Made by `Child.start`; must be given back by `stop`."""

    # Set by `start`, without which there is no child.
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    _stdout_transport: asyncio.ReadTransport
    _drain: Drain

    def __init__(self, name: str, process: Process, mark: str) -> None:
        self.name = name
        self.pid = process.pid
        self.started_at = datetime.now(UTC)
        self.family = Family(mark=mark, leader=processes.identity(process.pid))
        self._process = process
        self._began = time.monotonic()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watch: int | asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[StopResult] | None = None

    @classmethod
    async def start(
        cls,
        what: Launch,
        log: ServerLog,
        *,
        use_pidfd: bool = True,
        by_fork: StartByFork | None = None,
    ) -> Child:
        """Start it; a program that cannot be executed is a `HostError`."""
        _check(what)
        process: Process | str = ""
        if by_fork is not None and what.fork is not None:
            process = await by_fork(what)
        if isinstance(process, str):
            if process:
                log.note(f"not by fork: {process}")
            process = _spawn(what)
        return await cls.of(what.name, process, what.mark, log, use_pidfd=use_pidfd)

    @classmethod
    async def of(
        cls, name: str, process: Process, mark: str, log: ServerLog, *, use_pidfd: bool = True
    ) -> Child:
        """One that runs already, a child of this process in a session of its own."""
        child = cls(name, process, mark)
        try:
            child._watch_exit(use_pidfd=use_pidfd)
            await child._connect(log)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            child._unwatch()
            raise
        return child

    @property
    def id(self) -> ProcessId | None:
        """Its identity in the process table."""
        return self.family.leader

    @property
    def uptime_seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

    @property
    def exit(self) -> Exit | None:
        """How it ended, if it has."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """Wait for it to end by itself; what it left behind is `stop`'s to end."""
        return await asyncio.shield(self._exit)

    def on_exit(self, call: Callable[[Child, Exit], None]) -> None:
        """Call this when it has ended; also when it had ended before."""
        self._exit.add_done_callback(lambda ended: call(self, ended.result()))

    async def stop(self, *, timeout_seconds: float) -> StopResult:
        """End it and all of its descendants: close stdin, SIGTERM, SIGKILL; then reap.

        Half of the time for its own exit after stdin was closed, half after SIGTERM. Called
        twice, both callers get the one result; it goes on if a caller is cancelled.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(timeout_seconds))
        return await asyncio.shield(self._stopping)

    async def _connect(self, log: ServerLog) -> None:
        pipes = self._process
        assert pipes.stdin and pipes.stdout and pipes.stderr  # noqa: S101 - `_spawn` asks for them
        self._drain = log.drain(os.dup(pipes.stderr.fileno()), self.pid)
        pipes.stderr.close()
        loop = asyncio.get_running_loop()
        self.stdout = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        self._stdout_transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.stdout), pipes.stdout
        )
        # A reader that never reads: the protocol class is what gives a writer its `drain`.
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipes.stdin
        )
        self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    async def _stop(self, timeout_seconds: float) -> StopResult:
        began = time.monotonic()
        if not self._exit.done():
            # Whom it started is learned while the tree still stands.
            await asyncio.to_thread(lambda: processes.members(self.family, processes.table()))
        how = await self._end_leader(timeout_seconds)
        ended = await processes.end_family(self.family, grace_seconds=LEFTOVER_GRACE_SECONDS)
        left = {one.pid for one in ended.left}
        if self._exit.done():
            # Nobody is left in its session, so its pid may be free from here on.
            self._process.wait()
            self.family.leader_held = False
        else:
            left.add(self.pid)
        await self._drain.finish(DRAIN_SECONDS)
        self._release()
        return StopResult(
            how=how,
            exit=self.exit,
            descendants_ended=len(ended.ended),
            left=tuple(sorted(left)),
            seconds=time.monotonic() - began,
        )

    async def _end_leader(
        self, timeout_seconds: float
    ) -> Literal["already_exited", "stdin_closed", "terminated", "killed", "not_ended"]:
        if self._exit.done():
            return "already_exited"
        self.stdin.close()
        if await self._exits_within(timeout_seconds / 2):
            return "stdin_closed"
        self._signal_group(signal.SIGTERM)
        if await self._exits_within(timeout_seconds / 2):
            return "terminated"
        self._signal_group(signal.SIGKILL)
        killed = await self._exits_within(processes.KILL_WAIT_SECONDS)
        return "killed" if killed else "not_ended"

    async def _exits_within(self, seconds: float) -> bool:
        await asyncio.wait([self._exit], timeout=seconds)
        return self._exit.done()

    def _signal_group(self, number: signal.Signals) -> None:
        # Not reaped yet, so the group's number is still its own.
        os.killpg(self.pid, number)

    def _release(self) -> None:
        # Closing waits for what is still to be written; nobody will read that any more.
        if not self.stdin.is_closing() or self.stdin.transport.get_write_buffer_size():
            self.stdin.transport.abort()
        self._stdout_transport.close()
        self._unwatch()

    def _unwatch(self) -> None:
        if isinstance(self._watch, int):
            asyncio.get_running_loop().remove_reader(self._watch)
            os.close(self._watch)
        elif self._watch is not None:
            self._watch.cancel()
        self._watch = None

    def _watch_exit(self, *, use_pidfd: bool) -> None:
        if use_pidfd and hasattr(os, "pidfd_open"):
            self._watch = os.pidfd_open(self.pid)
            asyncio.get_running_loop().add_reader(self._watch, self._on_readable, self._watch)
        else:
            self._watch = asyncio.create_task(self._poll())

    def _on_readable(self, handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        self._note_exit()

    async def _poll(self) -> None:
        while not self._note_exit():  # noqa: ASYNC110 - nothing would set an event here
            await asyncio.sleep(POLL_SECONDS)

    def _note_exit(self) -> bool:
        """Learn of the end without taking the status, so that the pid stays reserved."""
        now = datetime.now(UTC)
        if hasattr(os, "waitid"):
            info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if info is None:
                return False
            exited = info.si_code == os.CLD_EXITED
            code = info.si_status if exited else -info.si_status
        else:
            # Here the status cannot be looked at only; a zombie is reaped at once.
            if psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE:
                return False
            code = self._process.wait()
            self.family.leader_held = False
        if not self._exit.done():
            self._exit.set_result(
                Exit(code=code, at=now) if code >= 0 else Exit(signal=_signal_name(-code), at=now)
            )
        return True


def _spawn(what: Launch) -> subprocess.Popen[bytes]:
    program = executable_for(what.argv[0], what.env.get("PATH", os.defpath), what.cwd)
    command: tuple[str, ...] = what.argv
    if processes.LINUX:
        command = (
            *(sys.executable, "-I", "-S", launch.__file__),
            *(str(os.getpid()), _limits(what), program),
            *what.argv,
        )
    try:
        return subprocess.Popen(
            command,
            executable=None if processes.LINUX else program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=what.cwd,
            env=what.env,
            start_new_session=True,
            pass_fds=what.pass_fds,
        )
    except OSError as error:
        raise HostError(
            f"{what.name} could not be started: {error.strerror} ({program}).",
            fix="Check that the program may be executed, and how many processes and open files "
            "this user may have (ulimit -a).",
            code="not_startable",
        ) from error


def _limits(what: Launch) -> str:
    cgroup = str(what.cgroup) if what.cgroup else None
    return json.dumps({"cgroup": cgroup, "rlimits": what.rlimits})


def _check(what: Launch) -> None:
    if what.cwd is not None and not what.cwd.is_dir():
        raise HostError(
            f"The working folder {what.cwd} of {what.name} does not exist.",
            fix=f"Create it (mkdir -p {what.cwd}), or correct cwd in the manifest.",
            code="folder_missing",
        )
    bad = [key for key, value in what.env.items() if "\0" in key + value or not key or "=" in key]
    if bad:
        raise HostError(
            f"The environment of {what.name} holds what no environment can: {bad[0]!r}.",
            fix="Names without '=', values without NUL characters.",
            code="bad_environment",
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
