"""Tools that run commands in sandboxes, and the tokens that say what those may have."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from hostwright_guard.sandbox.capabilities import Grant, Injection, Limits, SecretUse, Wanted
from hostwright_guard.sandbox.holding import Run
from hostwright_guard.sandbox.machine import Machine, machine
from hostwright_guard.sandbox.results import SandboxResult
from hostwright_guard.sandbox.service import JOB_KIND, SandboxService, resolved_grant
from hostwright_guard.sandbox.token_store import Capability, TokenHolder, TokenStore
from hostwright_guard.sandbox.tokens import Caveat, narrow
from hostwright_kit.canonical import canonical
from hostwright_kit.check import Finding
from hostwright_kit.errors import HostError
from hostwright_kit.guard import call_scope, current_call
from hostwright_kit.job_output import OutputPage
from hostwright_kit.jobs import JobRecord, JobStore
from hostwright_kit.progress import ticking
from hostwright_kit.server import HostServer

Argv = Annotated[
    list[Annotated[str, Field(max_length=131_072)]],
    Field(
        min_length=1,
        max_length=4_096,
        description="Program and arguments; no shell looks at them.",
    ),
]
PathList = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=4_096)]] | None, Field(max_length=64)
]
DomainList = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=260)]] | None, Field(max_length=64)
]
TokenText = Annotated[
    str | None,
    Field(max_length=65_536, description="From capability_mint: what the owner allowed before."),
]
JobId = Annotated[str, Field(min_length=1, max_length=64, description="From sandbox_exec.")]
TokenId = Annotated[str, Field(min_length=16, max_length=16, description="From capability_list.")]

DEFAULT_SECONDS = 30.0
GRAVE = ("read_paths", "write_paths", "domains", "vault", "inject")


class SandboxOutput(BaseModel, frozen=True):
    """How a run is, and a page of what it wrote."""

    job: JobRecord
    page: OutputPage


class Minted(BaseModel, frozen=True):
    """A new token. It is shown this once."""

    token: str
    capability: Capability


class Narrowed(BaseModel, frozen=True):
    """A token that allows less."""

    token: str


class Capabilities(BaseModel, frozen=True):
    """The caller's tokens, newest first."""

    capabilities: list[Capability]


def holder() -> TokenHolder:
    """Who is calling, as tokens are bound to them."""
    caller = current_call().caller
    return TokenHolder(caller.name, canonical(caller.bound).decode())


def register(app: HostServer, service: SandboxService, tokens: TokenStore, jobs: JobStore) -> None:
    """Add the tools, and what `--check` asks about sandboxes."""
    _register_runs(app, service, jobs)
    _register_tokens(app, tokens)

    async def check() -> list[Finding]:
        return [await _check(service)]

    app.checks.append(check)


def _register_runs(app: HostServer, service: SandboxService, jobs: JobStore) -> None:
    @app.read_tool(title="What sandboxes can be had here")
    def sandbox_status() -> Machine:
        """What this machine holds a command with; `problem` and `fix` where nothing can be run."""
        return machine()

    @app.write_tool(
        destructive=True,
        open_world=True,
        grave_with=GRAVE,
        contained_with="token",
        title="Run a command in a sandbox",
    )
    async def sandbox_exec(
        argv: Argv,
        read_paths: Annotated[PathList, Field(description="Files and folders to show it.")] = None,
        write_paths: Annotated[PathList, Field(description="To show and let it change.")] = None,
        domains: Annotated[
            DomainList, Field(description="Names to reach: NAME, *.NAME or NAME:PORT. Else none.")
        ] = None,
        vault: Annotated[
            list[SecretUse] | None, Field(max_length=32, description="Vault entries to give it.")
        ] = None,
        inject: Annotated[
            list[Injection] | None,
            Field(max_length=16, description="Credentials the gate adds; it never holds them."),
        ] = None,
        token: TokenText = None,
        cwd: Annotated[
            str | None, Field(max_length=4_096, description="One of the paths. Default: /tmp.")
        ] = None,
        env: Annotated[
            dict[str, Annotated[str, Field(max_length=131_072)]] | None,
            Field(max_length=256, description="Variables; nothing else is inherited."),
        ] = None,
        stdin: Annotated[
            str | None, Field(max_length=4_194_304, description="Written to stdin as UTF-8.")
        ] = None,
        limits: Annotated[
            Limits | None, Field(description="Memory, processor, processes; else the usual ones.")
        ] = None,
        timeout_seconds: Annotated[
            float | None,
            Field(gt=0, le=604_800, description="Then everything is ended. Default: 30."),
        ] = None,
        wait_seconds: Annotated[
            float, Field(ge=0, le=50, description="Then it goes on as a job (sandbox_output).")
        ] = 30.0,
        head_bytes: Annotated[
            int, Field(ge=0, le=262_144, description="Kept from the start of each stream.")
        ] = 16_384,
        tail_bytes: Annotated[
            int, Field(ge=0, le=262_144, description="Kept from the end of each stream.")
        ] = 16_384,
    ) -> SandboxResult:
        """Run a command that sees, reaches and uses only what is declared; nothing is inherited.

        It sees the system's programs (/usr), an empty /tmp in memory and the paths given here; no
        network but the domains given here, each connection judged and recorded. With a token that
        declares nothing further, it gets what the token hands out. Declaring nothing and without a
        token it runs at once; anything more is asked about, or allowed by a token before.
        """
        run = Run(
            tuple(argv),
            Wanted(
                read=tuple(read_paths or ()),
                write=tuple(write_paths or ()),
                domains=tuple(domains or ()),
                vault=tuple(vault or ()),
                inject=tuple(inject or ()),
                limits=limits or Limits(),
                seconds=timeout_seconds or DEFAULT_SECONDS,
            ),
            holder(),
            fixed_limits=limits is not None,
            fixed_seconds=timeout_seconds is not None,
            cwd=cwd,
            environment=env or {},
            stdin=(stdin or "").encode("utf-8", "surrogateescape"),
            token=token,
            head_bytes=head_bytes,
            tail_bytes=tail_bytes,
        )
        job, result = await service.start(run)
        try:
            async with ticking(wait_seconds, "the command runs"):
                done = await asyncio.wait_for(asyncio.shield(result), wait_seconds)
        except TimeoutError:
            call_scope().undone_by("sandbox_cancel", job_id=job.id)
            return SandboxResult(job_id=job.id, state="running")
        except asyncio.CancelledError:
            await jobs.cancel(job.id)
            raise
        # The record first: a result is given out only when it can be found again.
        await jobs.wait(job.id, 10)
        return done

    @app.read_tool()
    async def sandbox_output(
        job_id: JobId,
        wait_seconds: Annotated[float, Field(ge=0, le=45, description="For its end.")] = 0.0,
        stream: Annotated[Literal["stdout", "stderr"], Field(description="Which stream.")] = (
            "stdout"
        ),
        offset_bytes: Annotated[
            int, Field(ge=-(1 << 40), le=1 << 40, description="Negative: from the end.")
        ] = 0,
        limit_bytes: Annotated[
            int, Field(ge=4, le=262_144, description="Bytes per page.")
        ] = 65_536,
    ) -> SandboxOutput:
        """How a run is, and a page of its output so far; go on with next_offset_bytes."""
        await _own(jobs, job_id)
        async with ticking(wait_seconds, "the command runs"):
            record = await jobs.wait(job_id, wait_seconds)
        page = await jobs.output(
            job_id, offset_bytes=offset_bytes, limit_bytes=limit_bytes, stream=stream
        )
        return SandboxOutput(job=record, page=page)

    @app.write_tool(destructive=False, idempotent=True)
    async def sandbox_cancel(
        job_id: JobId,
        wait_seconds: Annotated[
            float, Field(ge=0, le=45, description="How long to wait for its end.")
        ] = 10.0,
    ) -> JobRecord:
        """End a run and everything in its sandbox."""
        await _own(jobs, job_id)
        async with ticking(wait_seconds, "the run is being ended"):
            return await jobs.cancel(job_id, wait_seconds=wait_seconds)


def _register_tokens(app: HostServer, tokens: TokenStore) -> None:
    @app.write_tool(destructive=True, open_world=True, title="Ask for a capability token")
    async def capability_mint(
        grant: Annotated[Grant, Field(description="What runs with it may have.")],
        uses: Annotated[int, Field(ge=1, le=10_000, description="Runs.")] = 1,
        valid_seconds: Annotated[
            float, Field(ge=1, le=86_400, description="Then it has expired.")
        ] = 600.0,
        note: Annotated[str, Field(max_length=500, description="For the owner: what for.")] = "",
    ) -> Minted:
        """Get a token for several runs of one kind, so that the owner is asked once.

        It is bound to you, expires, and counts its uses; sandbox_exec and its network hold every
        run to it. Anyone who passes it on can narrow it (capability_narrow), nobody can widen it.
        """
        resolved = await asyncio.to_thread(resolved_grant, grant)
        text, capability = await asyncio.to_thread(
            tokens.mint, resolved, holder=holder(), note=note, uses=uses, seconds=valid_seconds
        )
        call_scope().undone_by("capability_revoke", token_id=capability.id)
        return Minted(token=text, capability=capability)

    @app.read_tool()
    def capability_narrow(
        token: Annotated[str, Field(max_length=65_536, description="From capability_mint.")],
        grant: Annotated[Grant, Field(description="A run must keep to this, too.")],
        expires: Annotated[
            float | None, Field(gt=0, le=1e11, description="Seconds since 1970; none: as before.")
        ] = None,
    ) -> Narrowed:
        """Make a token that allows less from one that you have. The old one stays as it is."""
        caveat = Caveat(grant=resolved_grant(grant), expires=expires)
        return Narrowed(token=narrow(token, caveat))

    @app.read_tool()
    def capability_list() -> Capabilities:
        """Your tokens: what they allow, how many uses are left, until when. Not the tokens."""
        return Capabilities(capabilities=tokens.list(holder()))

    @app.write_tool(destructive=False, idempotent=True)
    def capability_revoke(token_id: TokenId) -> Capability:
        """End a token. No further run begins with it, and those that run with it end."""
        return tokens.revoke(token_id, holder())


async def _own(jobs: JobStore, job_id: str) -> None:
    record = await jobs.status(job_id)
    if record.kind != JOB_KIND or record.caller != holder().name:
        raise HostError(
            f"The job {job_id} is not a run of yours in a sandbox.",
            fix="Give the job_id of a result of sandbox_exec; other jobs: job_status of the server "
            "that began them.",
            code="not_found",
        )


async def _check(service: SandboxService) -> Finding:
    """Not what ought to work, but whether it does."""
    try:
        detail = await service.try_out()
    except HostError as error:
        return Finding(what="sandbox", state="degraded", detail=error.message, fix=error.fix)
    return Finding(what="sandbox", state="ok", detail=detail)
