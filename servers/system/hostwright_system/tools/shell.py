"""Tools that run commands, and the jobs that keep their output."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from hostwright_kit.guard import call_scope
from hostwright_kit.job_output import OutputPage
from hostwright_kit.jobs import JobRecord, JobStore
from hostwright_kit.previewing import Command, DryRun, Previewer
from hostwright_kit.progress import ticking
from hostwright_kit.server import HostServer
from hostwright_system.shell import CommandResult, CommandRunner, CommandSpec
from hostwright_system.shell.resolve import resolve

Argv = Annotated[
    list[Annotated[str, Field(max_length=131_072)]] | None,
    Field(
        min_length=1,
        max_length=4_096,
        description="Program and arguments; no shell looks at them. Prefer this over command.",
    ),
]
Line = Annotated[
    str | None,
    Field(min_length=1, max_length=131_072, description="A line for the shell, when you need one."),
]
Folder = Annotated[
    str | None,
    Field(
        max_length=4_096, description="Working folder, absolute or from ~. Default: the server's."
    ),
]
Environment = Annotated[
    dict[str, Annotated[str, Field(max_length=131_072)]] | None,
    Field(max_length=256, description="Variables to add; others are scrubbed of secrets."),
]
Text = Annotated[str | None, Field(max_length=4_194_304, description="Written to stdin as UTF-8.")]
Bytes = Annotated[
    str | None, Field(max_length=5_592_408, description="Bytes for stdin, in base64.")
]
Shell = Annotated[Literal["sh", "bash"], Field(description="Which shell runs `command`.")]
HeadBytes = Annotated[
    int, Field(ge=0, le=262_144, description="Kept from the start of each stream.")
]
TailBytes = Annotated[int, Field(ge=0, le=262_144, description="Kept from the end of each stream.")]
Merge = Annotated[bool, Field(description="Send stderr to stdout, in the order of writing.")]
JobId = Annotated[
    str, Field(min_length=1, max_length=64, description="From the call that began it")
]


def register(
    app: HostServer, jobs: JobStore, runner: CommandRunner, previewer: Previewer | None = None
) -> None:
    """Add the tools; with `previewer`, shell_exec shows what it would change."""
    if previewer is None:
        _register_exec(app, runner)
    else:
        _register_dry_exec(app, previewer)
    _register_jobs(app, jobs, runner)


def _register_dry_exec(app: HostServer, previewer: Previewer) -> None:
    @app.write_tool(destructive=False, title="Run a command to see what it would change")
    async def shell_exec(
        argv: Argv = None,
        command: Line = None,
        shell: Shell = "sh",
        cwd: Folder = None,
        env: Environment = None,
        stdin: Text = None,
        stdin_base64: Bytes = None,
        timeout_seconds: Annotated[
            float, Field(gt=0, le=50, description="Then everything is ended.")
        ] = 30.0,
        head_bytes: HeadBytes = 16_384,
        tail_bytes: TailBytes = 16_384,
    ) -> DryRun:
        """Run a command over a copy-on-write view of its folder, as the owner has set it.

        Give argv, or command for a shell line. It sees the system's programs and that folder, no
        network and nothing else, and changes nothing: the result has its output and what it would
        change. To apply exactly that, call sandbox_commit with the `commit` of the result. What
        needs more than that goes by shell_start, which the owner is asked about.
        """
        spec = _spec(argv, command, shell, cwd, env, stdin, stdin_base64)
        found = resolve(spec, os.environ)
        # Of the environment only what the call gives: the sandbox has one of its own.
        tried = Command(
            *(found.argv, found.cwd, spec.env, found.stdin or b""),
            *(timeout_seconds, head_bytes, tail_bytes),
        )
        async with ticking(timeout_seconds, "the command runs"):
            return await previewer.preview(tried)


def _register_exec(app: HostServer, runner: CommandRunner) -> None:
    @app.write_tool(destructive=True, open_world=True)
    async def shell_exec(
        argv: Argv = None,
        command: Line = None,
        shell: Shell = "sh",
        cwd: Folder = None,
        env: Environment = None,
        stdin: Text = None,
        stdin_base64: Bytes = None,
        timeout_seconds: Annotated[
            float, Field(gt=0, le=50, description="Then everything is ended; longer: shell_start.")
        ] = 30.0,
        head_bytes: HeadBytes = 16_384,
        tail_bytes: TailBytes = 16_384,
        merge_stderr: Merge = False,
    ) -> CommandResult:
        """Run a command to its end: give argv, or command for a shell line.

        Returns exit code or signal, and the first and last bytes of its output; all of it stays
        in the job named in the result (job_output). A command that exits with a failure is a
        result, not an error: look at exit_code. When it ends, times out or is cancelled, all that
        it started is ended too, even what detached itself: a daemon belongs to service_control.
        """
        spec = _spec(argv, command, shell, cwd, env, stdin, stdin_base64, merge_stderr)
        async with ticking(timeout_seconds, "the command runs"):
            return await runner.run(
                spec, timeout_seconds=timeout_seconds, head_bytes=head_bytes, tail_bytes=tail_bytes
            )


def _register_jobs(app: HostServer, jobs: JobStore, runner: CommandRunner) -> None:
    @app.write_tool(destructive=True, open_world=True)
    async def shell_start(
        argv: Argv = None,
        command: Line = None,
        shell: Shell = "sh",
        cwd: Folder = None,
        env: Environment = None,
        stdin: Text = None,
        stdin_base64: Bytes = None,
        timeout_seconds: Annotated[
            float, Field(gt=0, le=604_800, description="Then everything is ended.")
        ] = 3_600.0,
        merge_stderr: Merge = False,
    ) -> JobRecord:
        """Start a command as a job and return at once; for what takes longer than 50 s.

        Look at it with job_status and job_output, end it with job_cancel. The record is durable:
        a job that was cut off by a crash of this server shows as `lost`.
        """
        spec = _spec(argv, command, shell, cwd, env, stdin, stdin_base64, merge_stderr)
        job = await runner.start(spec, timeout_seconds=timeout_seconds)
        call_scope().undone_by("job_cancel", job_id=job.id)
        return job

    @app.read_tool()
    async def job_status(
        job_id: JobId,
        wait_seconds: Annotated[
            float, Field(ge=0, le=45, description="Wait up to this long for its end.")
        ] = 0.0,
    ) -> JobRecord:
        """How a job is: state, exit code, bytes of output, progress, and its result once ended."""
        if wait_seconds == 0:
            return await jobs.status(job_id)
        async with ticking(wait_seconds, "the job runs"):
            return await jobs.wait(job_id, wait_seconds)

    @app.read_tool()
    async def job_output(
        job_id: JobId,
        stream: Annotated[Literal["stdout", "stderr"], Field(description="Which stream.")] = (
            "stdout"
        ),
        offset_bytes: Annotated[
            int, Field(ge=-(1 << 40), le=1 << 40, description="Negative: from the end.")
        ] = 0,
        limit_bytes: Annotated[
            int, Field(ge=4, le=262_144, description="Bytes per page.")
        ] = 65_536,
    ) -> OutputPage:
        """A page of what a job wrote so far; go on with next_offset_bytes.

        Text never breaks inside a character; bytes that are not UTF-8 come in base64 as well.
        """
        return await jobs.output(
            job_id, offset_bytes=offset_bytes, limit_bytes=limit_bytes, stream=stream
        )

    @app.write_tool(destructive=False, idempotent=True)
    async def job_cancel(
        job_id: JobId,
        wait_seconds: Annotated[
            float, Field(ge=0, le=45, description="How long to wait for its end.")
        ] = 10.0,
    ) -> JobRecord:
        """End a job and everything it started. Look at `state`: it says whether it has ended."""
        async with ticking(wait_seconds, "the job is being ended"):
            return await jobs.cancel(job_id, wait_seconds=wait_seconds)


def _spec(
    argv: list[str] | None,
    command: str | None,
    shell: Literal["sh", "bash"],
    cwd: str | None,
    env: dict[str, str] | None,
    stdin: str | None,
    stdin_base64: str | None,
    merge_stderr: bool = False,
) -> CommandSpec:
    return CommandSpec(
        argv=tuple(argv) if argv is not None else None,
        line=command,
        shell=shell,
        cwd=cwd,
        env=env or {},
        stdin_text=stdin,
        stdin_base64=stdin_base64,
        merge_stderr=merge_stderr,
    )
