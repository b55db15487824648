"""Commands as jobs: run one and wait for it, or start one and come back later.

True asyncio. Either way the command is a job of `hostwright_kit.jobs`: its full output is kept in
the job's files and paged through the job's id, and its result is in the record.

When the main process has ended, so has everything it started, even what detached itself. A daemon
that is meant to stay is not a command: it belongs to the service manager (`service_control`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_kit.capture import HeadTail, StreamCapture
from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobContext, JobOutcome, JobRecord, JobStore
from hostwright_system.shell.cgroups import remove_stale_cgroups
from hostwright_system.shell.process import (
    Ending,
    Stream,
    execute,
    signal_name,
)
from hostwright_system.shell.resolve import CommandSpec, ResolvedCommand, resolve

JOB_KIND = "command"
MAX_RUN_SECONDS = 50.0
MAX_JOB_SECONDS = 7 * 86400.0
MAX_CAPTURE_BYTES = 256 * 1024
DEFAULT_CAPTURE_BYTES = 16 * 1024
GRACE_SECONDS = 2.0


class CommandResult(BaseModel, frozen=True):
    """How a command ended, and the two ends of its output."""

    job_id: str = Field(description="Pages the full output.")
    exit_code: int | None = Field(description="None when a signal ended it.")
    signal: str | None = Field(description="The signal that ended it, e.g. SIGKILL.")
    timed_out: bool = Field(description="It was ended because its time was over.")
    cancelled: bool = Field(description="It was ended because somebody cancelled it.")
    duration_seconds: float
    stdout: StreamCapture
    stderr: StreamCapture = Field(description="Empty when it was merged into stdout.")
    ended_processes: int | None = Field(
        description="Processes that were still alive and had to be ended; None: not countable."
    )
    surviving_pids: tuple[int, ...] = Field(
        description="Processes that could not be ended (another user's, or stuck in the kernel)."
    )
    escaped_children: Literal["contained", "not contained"] = Field(
        description="Whether processes that detached themselves were ended, too."
    )
    containment: tuple[str, ...] = Field(
        description="The means in use: cgroup, subreaper, process_group."
    )


class CommandRunner:
    """Runs commands for one server. Make it at start-up: it ends leftovers of dead servers."""

    def __init__(
        self,
        jobs: JobStore,
        *,
        base_environment: Mapping[str, str] | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._jobs = jobs
        self._base_environment = os.environ if base_environment is None else base_environment
        self._grace_seconds = grace_seconds
        remove_stale_cgroups()

    async def run(
        self,
        spec: CommandSpec,
        *,
        timeout_seconds: float = 30.0,
        head_bytes: int = DEFAULT_CAPTURE_BYTES,
        tail_bytes: int = DEFAULT_CAPTURE_BYTES,
        title: str | None = None,
        caller: str = "",
    ) -> CommandResult:
        """Run to the end. Cancelling this call cancels the command and waits for its end."""
        _check_timeout(timeout_seconds, MAX_RUN_SECONDS)
        _check_capture(head_bytes, tail_bytes)
        command = await asyncio.to_thread(resolve, spec, self._base_environment)
        result: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()

        async def work(context: JobContext) -> JobOutcome:
            try:
                done = await self._execute(
                    command, context, timeout_seconds, head_bytes, tail_bytes
                )
            except HostError as error:
                if not result.done():
                    result.set_exception(error)
                raise
            if not result.done():
                result.set_result(done)
            return _outcome(done, timeout_seconds)

        job = await self._jobs.start(
            JOB_KIND, title or _title(command), work, caller=caller, immediate=True
        )
        try:
            # The record first: a result is given out only when it can be found again.
            while not (await self._jobs.wait(job.id, MAX_RUN_SECONDS)).ended:
                pass
        except asyncio.CancelledError:
            result.cancel()
            await self._jobs.cancel(job.id)
            raise
        if not result.done():
            raise HostError(
                "The command was cancelled before it had started.",
                fix="Call again if it is still wanted.",
                code="cancelled",
            )
        return result.result()

    async def start(
        self,
        spec: CommandSpec,
        *,
        timeout_seconds: float = 3600.0,
        head_bytes: int = DEFAULT_CAPTURE_BYTES,
        tail_bytes: int = DEFAULT_CAPTURE_BYTES,
        title: str | None = None,
        caller: str = "",
    ) -> JobRecord:
        """Start it as a job and return. Its `CommandResult` becomes the record's `detail`."""
        _check_timeout(timeout_seconds, MAX_JOB_SECONDS)
        _check_capture(head_bytes, tail_bytes)
        command = await asyncio.to_thread(resolve, spec, self._base_environment)

        async def work(context: JobContext) -> JobOutcome:
            done = await self._execute(command, context, timeout_seconds, head_bytes, tail_bytes)
            return _outcome(done, timeout_seconds)

        return await self._jobs.start(JOB_KIND, title or _title(command), work, caller=caller)

    async def _execute(
        self,
        command: ResolvedCommand,
        context: JobContext,
        timeout_seconds: float,
        head_bytes: int,
        tail_bytes: int,
    ) -> CommandResult:
        captures: dict[Stream, HeadTail] = {
            "stdout": HeadTail(head_bytes, tail_bytes),
            "stderr": HeadTail(head_bytes, tail_bytes),
        }

        async def receive(data: bytes, stream: Stream) -> None:
            captures[stream].feed(data)
            await context.write(data, stream)

        ending = await execute(
            command,
            receive,
            name=context.job_id,
            timeout_seconds=timeout_seconds,
            grace_seconds=self._grace_seconds,
        )
        return _result(context.job_id, ending, captures)


def _result(job_id: str, ending: Ending, captures: Mapping[Stream, HeadTail]) -> CommandResult:
    code = ending.exit_code
    contained = {"cgroup", "subreaper"} & set(ending.containment)
    return CommandResult(
        job_id=job_id,
        exit_code=None if code is None or code < 0 else code,
        signal=signal_name(-code) if code is not None and code < 0 else None,
        timed_out=ending.timed_out,
        cancelled=ending.cancelled,
        duration_seconds=round(ending.duration_seconds, 3),
        stdout=captures["stdout"].result(),
        stderr=captures["stderr"].result(),
        ended_processes=ending.ended_processes,
        surviving_pids=ending.surviving_pids,
        escaped_children="contained" if contained else "not contained",
        containment=ending.containment,
    )


def _outcome(result: CommandResult, timeout_seconds: float) -> JobOutcome:
    """As the job's record tells it: succeeded is exit code 0 and nothing else."""
    error: str | None = None
    if result.cancelled:
        error = None
    elif result.timed_out:
        error = f"It was ended after its time of {timeout_seconds:g} s."
    elif result.signal:
        error = f"{result.signal} ended it."
    elif result.exit_code:
        error = f"It ended with exit code {result.exit_code}."
    succeeded = result.exit_code == 0 and not result.timed_out
    return JobOutcome(
        state="cancelled" if result.cancelled else "succeeded" if succeeded else "failed",
        exit_code=result.exit_code,
        error=error,
        note=_survivors(result),
        detail=result.model_dump(mode="json"),
    )


def _survivors(result: CommandResult) -> str | None:
    if not result.surviving_pids:
        return None
    pids = ", ".join(map(str, result.surviving_pids))
    return f"These processes could not be ended: {pids}."


def _title(command: ResolvedCommand) -> str:
    """The program only: arguments may hold secrets, and a title is shown and logged."""
    return PurePath(command.argv[0]).name


def _check_timeout(seconds: float, most: float) -> None:
    if not 0 < seconds <= most:
        raise HostError(
            f"timeout_seconds is {seconds:g}, outside 0 (not included) to {most:g}.",
            fix="Choose a time inside these bounds; what takes longer is started as a job "
            "(shell_start) and looked at with job_status.",
            code="invalid_argument",
        )


def _check_capture(head_bytes: int, tail_bytes: int) -> None:
    for name, value in (("head_bytes", head_bytes), ("tail_bytes", tail_bytes)):
        if not 0 <= value <= MAX_CAPTURE_BYTES:
            raise HostError(
                f"{name} is {value}, outside 0 to {MAX_CAPTURE_BYTES}.",
                fix="Choose a size inside these bounds and page the rest through the job's id.",
                code="invalid_argument",
            )
