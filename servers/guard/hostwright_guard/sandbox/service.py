"""Runs in sandboxes as the tools offer them: tokens checked, secrets fetched, the gate opened.

`Sandboxes` (running.py) holds a command; here is decided what it may hold. The order matters: a
token is judged before anything else, its use is counted on disk last, right before the start, and
secrets are opened only then. Each run is a job: its output is kept and paged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hostwright_guard.sandbox import places
from hostwright_guard.sandbox.capabilities import (
    Grant,
    Injection,
    Wanted,
    check_injection,
    check_variable,
    refusals,
)
from hostwright_guard.sandbox.gate.names import Target, parse_target
from hostwright_guard.sandbox.holding import Holder, Prepared, Run
from hostwright_guard.sandbox.machine import explain
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.places import Places
from hostwright_guard.sandbox.plan import SCRATCH
from hostwright_guard.sandbox.results import SandboxResult, outcome_of, shown
from hostwright_guard.sandbox.running import find_program, signal_name
from hostwright_guard.sandbox.token_store import TokenHolder, TokenStore, Use
from hostwright_kit.capture import HeadTail
from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobContext, JobOutcome, JobRecord, JobStore

T = TypeVar("T")
JOB_KIND = "sandbox"
FREE = Wanted()
FREE_SECONDS = 60.0
"""What a run may have without a token and without a question: nothing but a little time."""


class SandboxService:
    """What the tools call."""

    def __init__(
        self,
        tokens: TokenStore,
        jobs: JobStore,
        holder: Holder,
        protected: tuple[Path, ...],
    ) -> None:
        self.tokens = tokens
        self.holder = holder
        self._jobs = jobs
        self.protected = tuple(Path(os.path.realpath(one)) for one in protected)

    async def start(self, run: Run) -> tuple[JobRecord, asyncio.Future[SandboxResult]]:
        """Judge it, use the token, and start it as a job."""
        prepared = await asyncio.to_thread(self.prepare, run)
        result: asyncio.Future[SandboxResult] = asyncio.get_running_loop().create_future()

        async def work(context: JobContext) -> JobOutcome:
            try:
                done = await self._carry_out(prepared, context)
            except HostError as error:
                if not result.done():
                    result.set_exception(error)
                    # Whoever waits reads it; nobody may.
                    result.exception()
                raise
            finally:
                prepared.places.close()
            if not result.done():
                result.set_result(done)
            return outcome_of(done)

        try:
            title = Path(prepared.program).name
            job = await self._jobs.start(
                JOB_KIND, title, work, caller=run.holder.name, immediate=True
            )
        except BaseException:
            prepared.places.close()
            raise
        return job, result

    def prepare(self, run: Run) -> Prepared:
        """Everything that can be refused is refused here, before the token is used. Blocking."""
        variables = [use.env for use in run.wanted.vault if use.env]
        for name in (*run.environment, *variables):
            check_variable(name)
        for one in run.wanted.inject:
            check_injection(one)
        wanted = self._resolved(run.wanted)
        use = self.tokens.look(run.token, run.holder) if run.token else None
        if use is None and wanted.bare:
            refuse_more_than_free(wanted)
        if use is not None:
            wanted = _fitted(run, wanted, use)
        if run.token and wanted.bare:
            assert use is not None  # noqa: S101 - there is a token
            wanted = _all_of(use, wanted)
        opened = places.open_places(wanted.read, wanted.write, protected=self.protected)
        try:
            cwd = _working_folder(run.cwd, opened)
            program = find_program(run.argv[0], cwd, opened)
            if use is not None:
                self._check(use, wanted, program, run)
        except BaseException:
            opened.close()
            raise
        return Prepared(run, wanted, program, cwd, opened, use)

    async def use_token(self, prepared: Prepared) -> None:
        """Count the use on disk; raises when there is none left."""
        run = prepared.run
        if run.token:
            prepared.use = await asyncio.to_thread(self.tokens.use, run.token, run.holder)

    async def try_out(self) -> str:
        """Start a command in a sandbox and say what held it; raises `HostError`."""
        holder = TokenHolder("check", "check")
        prepared = await asyncio.to_thread(self.prepare, Run(("true",), FREE, holder))
        said: list[bytes] = []

        async def keep(data: bytes, _: Stream) -> None:
            said.append(data)

        try:
            ending, _ = await self.holder.hold(prepared, keep)
        finally:
            prepared.places.close()
        if ending.exit_code != 0:
            text = b"".join(said).decode("utf-8", "replace").strip()
            raise HostError(
                f"A command in a sandbox ended with {ending.exit_code}: {text[:300]}",
                fix=explain(text),
                code="sandbox_unavailable",
            )
        held = ", ".join(f"{name}: {means}" for name, means in ending.enforced.items())
        return f"a command ran in {ending.duration_seconds * 1000:.0f} ms; {held}"

    async def _carry_out(self, prepared: Prepared, context: JobContext) -> SandboxResult:
        run = prepared.run
        await self.use_token(prepared)
        captures = {
            "stdout": HeadTail(run.head_bytes, run.tail_bytes),
            "stderr": HeadTail(run.head_bytes, run.tail_bytes),
        }

        async def keep(data: bytes, stream: Stream) -> None:
            captures[stream].feed(data)
            await context.write(data, stream)

        ending, rules = await self.holder.hold(prepared, keep)
        return SandboxResult(
            job_id=context.job_id,
            exit_code=ending.exit_code,
            signal=signal_name(ending.exit_code),
            timed_out=ending.timed_out,
            cancelled=ending.cancelled,
            out_of_memory=ending.out_of_memory,
            duration_seconds=round(ending.duration_seconds, 3),
            stdout=captures["stdout"].result(),
            stderr=captures["stderr"].result(),
            network=shown(rules),
            omitted_attempts=rules.omitted_attempts if rules else 0,
            limits_held_by=dict(ending.enforced),
        )

    # -- judging ---------------------------------------------------------------------------------

    def _resolved(self, wanted: Wanted) -> Wanted:
        """Paths without links, domains in their one spelling."""
        return wanted.model_copy(
            update={
                "read": tuple(places.resolve(path) for path in wanted.read),
                "write": tuple(places.resolve(path) for path in wanted.write),
                "domains": tuple(str(parse_target(domain)) for domain in wanted.domains),
            }
        )

    def _check(self, use: Use, wanted: Wanted, program: str, run: Run) -> None:
        for grant in use.grants:
            # A secret's own variable stands in `wanted`.
            if missing := refusals(grant, wanted, program, run.argv[1:], run.environment):
                raise HostError(
                    f"The token {use.id} does not allow {', '.join(missing)[:1_000]}.",
                    fix="Declare less, or mint a token that allows it (the owner is asked).",
                    code="not_granted",
                )


def resolved_grant(grant: Grant) -> Grant:
    """With paths as they are on disk; raises `HostError` for what can never be given. Blocking."""
    read = tuple(places.resolve(path) for path in grant.read)
    write = tuple(places.resolve(path) for path in grant.write)
    domains = tuple(str(parse_target(domain)) for domain in grant.domains)
    for one in grant.inject:
        check_injection(one)
    places.refuse_kernel_trees({**dict.fromkeys(read, False), **dict.fromkeys(write, True)})
    return grant.model_copy(update={"read": read, "write": write, "domains": domains})


def refuse_more_than_free(wanted: Wanted) -> None:
    """Nobody was asked about a run that declares nothing, so it may not use much, either."""
    for name, asked, most in (
        ("memory_mb", wanted.limits.memory_mb, FREE.limits.memory_mb),
        ("cpu_percent", wanted.limits.cpu_percent, FREE.limits.cpu_percent),
        ("processes", wanted.limits.processes, FREE.limits.processes),
        ("scratch_mb", wanted.limits.scratch_mb, FREE.limits.scratch_mb),
        ("timeout_seconds", wanted.seconds, FREE_SECONDS),
    ):
        if asked > most:
            raise HostError(
                f"{name} is {asked:g}; without a token a run may have {most:g}.",
                fix="Ask for less, or mint a token that allows it (capability_mint).",
                code="not_granted",
            )


def _fitted(run: Run, wanted: Wanted, use: Use) -> Wanted:
    """Usual limits that the caller did not ask for are made to fit."""
    limits, seconds = wanted.limits, wanted.seconds
    if not run.fixed_limits:
        limits = limits.model_copy(
            update={
                name: min(getattr(limits, name), *(getattr(g, name) for g in use.grants))
                for name in ("memory_mb", "cpu_percent", "processes")
            }
        )
        limits = limits.model_copy(update={"scratch_mb": min(limits.scratch_mb, limits.memory_mb)})
    if not run.fixed_seconds:
        seconds = min(seconds, *(grant.seconds for grant in use.grants))
    return wanted.model_copy(update={"limits": limits, "seconds": seconds})


def _working_folder(asked: str | None, opened: Places) -> str:
    if asked is None or asked == SCRATCH:
        return SCRATCH
    cwd = places.resolve(asked)
    if not places.within(cwd, places.BASE, tuple(place.path for place in opened.places)):
        raise HostError(
            f"The working folder {cwd} is not in the sandbox.",
            fix="Declare it (read or write), or leave cwd out.",
            code="invalid_argument",
        )
    return cwd


def _all_of(use: Use, wanted: Wanted) -> Wanted:
    """Nothing declared: everything that the token hands out, apart from secrets in the sandbox."""
    first, *rest = use.grants
    inject: tuple[Injection, ...] = first.inject
    read, write = (*first.read, *first.write), first.write
    domains = tuple(map(parse_target, first.domains))
    for grant in rest:
        read = _narrower(read, (*grant.read, *grant.write), _contains)
        write = _narrower(write, grant.write, _contains)
        domains = _narrower(domains, tuple(map(parse_target, grant.domains)), Target.covers)
        inject = tuple(one for one in inject if one in grant.inject)
    read = tuple(path for path in read if path not in write)
    # A grant may name folders that are gone meanwhile.
    return wanted.model_copy(
        update={
            "read": tuple(filter(os.path.lexists, read)),
            "write": tuple(filter(os.path.lexists, write)),
            "domains": tuple(map(str, domains)),
            "inject": inject,
        }
    )


def _contains(one: str, other: str) -> bool:
    return places.within(other, (one,))


def _narrower(
    some: tuple[T, ...], others: tuple[T, ...], covers: Callable[[T, T], bool]
) -> tuple[T, ...]:
    """What both allow: of each two that overlap, the one that is covered by the other."""
    found = [b if covers(a, b) else a for a in some for b in others if covers(a, b) or covers(b, a)]
    return tuple(dict.fromkeys(found))
