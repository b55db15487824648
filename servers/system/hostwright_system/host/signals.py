"""Sending a signal to exactly the process that was meant.

A pid is a number that is used again. So the process is pinned first (pidfd_open(2)), then its
identity is read and compared, then it is checked that the pinned process still lives (only then was
what has been read its own), and the signal goes to the pin (pidfd_send_signal(2)), not to the
number. Nothing here can hit another process than the one compared.

Where there are no pidfds (macOS) the comparison is made just before kill(2), and the result says
that the small gap remains. `process_signal` is asyncio: waiting for the end costs no thread.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import psutil
from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.host.procfs import Proc, parse_stat, read_file

SignalName: TypeAlias = Literal[
    "TERM", "INT", "HUP", "KILL", "USR1", "USR2", "STOP", "CONT", "QUIT"
]
SIGNALS: dict[str, signal.Signals] = {
    "TERM": signal.SIGTERM,
    "INT": signal.SIGINT,
    "HUP": signal.SIGHUP,
    "KILL": signal.SIGKILL,
    "USR1": signal.SIGUSR1,
    "USR2": signal.SIGUSR2,
    "STOP": signal.SIGSTOP,
    "CONT": signal.SIGCONT,
    "QUIT": signal.SIGQUIT,
}
MAX_WAIT_SECONDS = 20.0
DEFAULT_WAIT_SECONDS = 2.0
MAX_PID = 1 << 22  # the kernel's own limit for pid_max
_POLL_SECONDS = 0.05


class SignalResult(BaseModel, frozen=True):
    """What was sent, to whom, and whether the process ended."""

    pid: int
    name: str
    start_time_ticks: int = Field(description="Identity of the process together with the pid.")
    signal: SignalName
    identity_compared: bool = Field(
        description="Whether an expected start time or name was given and compared."
    )
    pinned: bool = Field(
        description="Whether the signal went through a pidfd, so that a reused pid cannot be hit."
    )
    ended: bool = Field(description="Whether the process ended within the wait.")
    waited_seconds: float


class _Target(BaseModel, frozen=True):
    pid: int
    name: str
    start_time_ticks: int
    kernel_thread: bool


async def process_signal(
    pid: int,
    signal_name: SignalName,
    *,
    expected_start_time_ticks: int | None = None,
    expected_name: str | None = None,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
    protected: Callable[[int], str | None] = lambda _: None,
) -> SignalResult:
    """Sends the signal and waits up to `wait_seconds` (0 to 20) for the process to end.

    `expected_start_time_ticks` and `expected_name` are those of a process row; a mismatch sends
    nothing. What `protected` gives a reason for (the suite's own processes) is refused, as are
    pid 1, this process and kernel threads.
    """
    number = _checked_signal(pid, signal_name, wait_seconds)
    # Reads /proc; a process that is large or stuck must not hold up the event loop.
    if (why := await asyncio.to_thread(protected, pid)) is not None:
        raise _refused(pid, why)
    if not hasattr(os, "pidfd_open"):
        return await _signal_by_pid(
            pid, signal_name, expected_start_time_ticks, expected_name, wait_seconds
        )
    pidfd = _open(pid)
    try:
        target = _identity(pid)
        if target is None or _has_ended(pidfd):
            raise _not_found(pid)
        _compare(target, expected_start_time_ticks, expected_name)
        _send(pidfd, number, target)
        began = time.monotonic()
        ended = await _wait_for_end(pidfd, wait_seconds)
    finally:
        os.close(pidfd)
    return SignalResult(
        pid=pid,
        name=target.name,
        start_time_ticks=target.start_time_ticks,
        signal=signal_name,
        identity_compared=expected_start_time_ticks is not None or expected_name is not None,
        pinned=True,
        ended=ended,
        waited_seconds=round(time.monotonic() - began, 3),
    )


def _checked_signal(pid: int, name: str, wait_seconds: float) -> signal.Signals:
    if name not in SIGNALS:
        raise HostError(
            f"The signal {name[:40]!r} is not one that may be sent.",
            fix=f"Use one of: {', '.join(SIGNALS)}.",
            code="invalid_signal",
        )
    if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
        raise HostError(
            f"wait_seconds is {wait_seconds}.",
            fix=f"Use 0 to {MAX_WAIT_SECONDS:.0f}.",
            code="invalid_wait",
        )
    if not 1 <= pid <= MAX_PID:
        # kill(2) gives 0 and negative numbers a meaning: whole groups. They never mean a process.
        raise HostError(
            f"{pid} is no process id.", fix="Give one from system_query.", code="invalid_pid"
        )
    refusals = {1: "pid 1 is the system's first process", os.getpid(): "it is this server itself"}
    if pid in refusals:
        raise _refused(pid, refusals[pid])
    return SIGNALS[name]


def _refused(pid: int, why: str) -> HostError:
    return HostError(
        f"Process {pid} is never signalled: {why}.",
        fix="For the suite's own servers use mcp_server_stop or mcp_server_restart, or let the "
        "owner use the hostwright command line; for the machine, service_control.",
        code="denied",
    )


def _open(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise _not_found(pid) from None
    except OSError as error:
        # EINVAL (ENOENT on newer kernels) for a thread that is not its process's first.
        raise HostError(
            f"Process {pid} cannot be pinned: {error.strerror}.",
            fix="Give the pid of a process, not the id of one of its threads.",
            code="invalid_pid",
        ) from error


def _identity(pid: int) -> _Target | None:
    try:
        stat = parse_stat(read_file(f"{Proc().root}/{pid}/stat", limit=8192))
    except (OSError, ValueError):
        return None
    return _Target(
        pid=pid,
        name=stat.name,
        start_time_ticks=stat.start_ticks,
        kernel_thread=stat.kernel_thread,
    )


def _compare(target: _Target, start: int | None, name: str | None) -> None:
    if target.kernel_thread:
        raise HostError(
            f"Process {target.pid} ({target.name}) is a kernel thread.",
            fix="Kernel threads take no signals; look for what keeps them busy instead.",
            code="denied",
        )
    differences: list[str] = []
    if start is not None and start != target.start_time_ticks:
        differences.append(f"started at {target.start_time_ticks} ticks, not {start}")
    if name is not None and name != target.name:
        differences.append(f"is called {target.name!r}, not {name[:80]!r}")
    if differences:
        raise HostError(
            f"Process {target.pid} is not the expected one: it {' and '.join(differences)}.",
            fix="Nothing was sent. List the processes again and take the pid from there.",
            code="identity_mismatch",
        )


def _send(pidfd: int, number: signal.Signals, target: _Target) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise _not_found(target.pid) from None
    except PermissionError as error:
        raise _not_permitted(target) from error


def _has_ended(pidfd: int) -> bool:
    """A pidfd becomes readable when its process ends, also before anybody has reaped it."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


async def _wait_for_end(pidfd: int, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return _has_ended(pidfd)
    finally:
        loop.remove_reader(pidfd)
    return True


async def _signal_by_pid(
    pid: int, name: SignalName, start: int | None, expected_name: str | None, wait_seconds: float
) -> SignalResult:
    try:
        process = psutil.Process(pid)
        target = _Target(
            pid=pid,
            name=process.name(),
            start_time_ticks=round(process.create_time() * 1_000_000),
            kernel_thread=pid == 0,
        )
        _compare(target, start, expected_name)
        process.send_signal(SIGNALS[name])  # refuses when the creation time changed
    except psutil.NoSuchProcess:
        raise _not_found(pid) from None
    except psutil.AccessDenied as error:
        raise HostError(
            f"This user may not signal process {pid}.",
            fix="Run the server as the process's user or as root.",
            code="no_permission",
        ) from error
    began = time.monotonic()
    ended = not _lives(process)
    while not ended and time.monotonic() - began < wait_seconds:
        await asyncio.sleep(_POLL_SECONDS)
        ended = not _lives(process)
    return SignalResult(
        pid=pid,
        name=target.name,
        start_time_ticks=target.start_time_ticks,
        signal=name,
        identity_compared=start is not None or expected_name is not None,
        pinned=False,
        ended=ended,
        waited_seconds=round(time.monotonic() - began, 3),
    )


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _not_found(pid: int) -> HostError:
    return HostError(
        f"There is no process {pid} (any more).",
        fix="Nothing was sent. List the processes again.",
        code="not_found",
    )


def _not_permitted(target: _Target) -> HostError:
    return HostError(
        f"This user may not signal process {target.pid} ({target.name}).",
        fix="Run the server as the process's user or as root.",
        code="no_permission",
    )
