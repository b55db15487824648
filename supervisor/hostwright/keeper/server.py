"""One server over all of its lives: turns what happens into the table's inputs and its outputs
into acts.

The table (`machine.py`) decides; here are the process, the clock, the checks and the telling.
Everything runs in one event loop and `_feed` never awaits, so no input can come between two others.
Knows no MCP: a check is a callable that is given from outside.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypedDict

from hostwright.keeper.backoff import Backoff
from hostwright.keeper.checks import Checks
from hostwright.keeper.child import Child, Exit, Launch, StartByFork, StopResult
from hostwright.keeper.environment import build_environment
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.machine import COMMANDS, SETTLED, WITH_PROCESS, Input, Output, State, step
from hostwright.keeper.records import Records
from hostwright.keeper.status import (
    ActionResult,
    Extras,
    Health,
    ServerBroken,
    ServerCrashed,
    ServerEvent,
    ServerReady,
    ServerStarted,
    ServerStatus,
    ServerStopped,
    start_message,
    stop_message,
)
from hostwright.manifest import Manifest, argv_for, expand, fork_for
from hostwright_kit.errors import HostError

Action = Literal["start", "stop", "restart"]
RUNNING = frozenset({State.READY, State.UNHEALTHY})
_PROBED = frozenset({State.STARTING, *RUNNING})
ASKED = "asked to"

_log = logging.getLogger(__name__)


class _Stamp(TypedDict):
    name: str
    at: datetime


@dataclass(frozen=True)
class Remote:
    """A server that runs elsewhere: there is no process, only a question to ask."""

    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


Target = Child | Remote
Probe = Callable[[Target], Awaitable[Health]]
Prepare = Callable[[Manifest], AbstractContextManager[Extras]]


@dataclass(frozen=True)
class Surroundings:
    """What all servers of one keeper share."""

    records: Records
    environ: Mapping[str, str]
    probe: Probe
    prepare: Prepare
    tell: Callable[[ServerEvent], None]
    dice: random.Random
    by_fork: StartByFork | None = None


class Server:
    """One manifest and whatever runs for it."""

    def __init__(self, manifest: Manifest, around: Surroundings, log: ServerLog) -> None:
        self.manifest = manifest
        self.log = log
        self.state = State.STOPPED if manifest.enabled else State.DISABLED
        self.target: Target | None = None
        self.memory: tuple[int, Literal["pss", "rss"]] | None = None
        self._around = around
        self._backoff = Backoff(manifest.restart, around.dice)
        self._starts = 0
        self._began: float | None = None
        self._ready_at: float | None = None
        self._checks = Checks(manifest, log.clean)
        self._reason = ""
        self._exited_cleanly = False
        self._last_error: str | None = None
        self._last_stop: StopResult | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[State]] = set()

    @property
    def child(self) -> Child | None:
        """The process, if there is one."""
        return self.target if isinstance(self.target, Child) else None

    async def act(self, action: Action) -> ActionResult:
        """Do what the owner asked and tell what came of it, once the server has settled."""
        before, self._last_stop = self.state, None
        self._feed(Input(action))
        state = self.state if self.state in SETTLED else await self._changes(SETTLED)
        stop = self._last_stop
        if action == "stop":
            ok = state in (State.STOPPED, State.DISABLED) and not (stop and stop.left)
            changed = before not in (State.STOPPED, State.DISABLED)
            message = stop_message(self.manifest.name, stop, changed=changed, state=state)
        else:
            ok = state in RUNNING
            changed = action == "restart" or before not in RUNNING
            message = start_message(
                self.manifest.name, self._last_error, ok=ok, changed=changed, state=state
            )
        return ActionResult(
            name=self.manifest.name,
            action=action,
            ok=ok,
            changed=changed,
            state=state,
            pid=self.child.pid if self.child else None,
            message=message,
            stop=stop,
        )

    async def wait_ready(self, timeout_seconds: float) -> Target:
        """The running server, once it is ready; a `HostError` says why it will not be."""
        name = self.manifest.name
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    if self.state in RUNNING and self.target is not None:
                        return self.target
                    if self.state not in WITH_PROCESS | {State.BACKING_OFF}:
                        break
                    await self._changes(frozenset(State))
        except TimeoutError:
            why = f": {self._last_error}" if self._last_error else ""
            raise HostError(
                f"The server {name} was not ready within {timeout_seconds:g} s "
                f"({self.state}){why}.",
                fix=f"Try again, or see `hostwright logs {name}`.",
                code="server_not_ready",
            ) from None
        why = f" ({self._last_error})" if self.state is State.BROKEN and self._last_error else ""
        raise HostError(
            f"The server {name} is {self.state}{why}.",
            fix=f"Start it with `hostwright start {name}`"
            + (f"; `hostwright logs {name}` shows why it failed." if why else "."),
            code="server_unavailable",
        )

    def status(self) -> ServerStatus:
        """What is known now; nothing is measured here."""
        now = time.monotonic()
        child, memory = self.child, self.memory if self.target else None
        answer, answered_at = self._checks.health, self._checks.answered_at
        if self.state is State.READY:
            health = "ok"
        elif self.state in (State.UNHEALTHY, State.FAILING, State.BACKING_OFF, State.BROKEN):
            health = "failing"
        else:
            health = "unknown"
        return ServerStatus(
            name=self.manifest.name,
            description=self.manifest.description,
            state=self.state,
            pid=child.pid if child else None,
            tools=answer.tools if answer else None,
            health=health,
            health_age_seconds=None if answered_at is None else now - answered_at,
            latency_ms=answer.latency_ms if answer else None,
            restarts=max(0, self._starts - 1),
            memory_bytes=memory[0] if memory else None,
            memory_kind=memory[1] if memory else None,
            uptime_seconds=now - self._began if self._began and self.target else None,
            retry_in_seconds=self._retry_in(),
            last_error=self._last_error,
            last_stderr=self.log.last,
        )

    # -- the machine ---------------------------------------------------------------------------

    def _feed(self, event: Input, reason: str = "") -> None:
        before = self.state
        self.state, outputs = step(before, event)
        if self.state is not before:
            # What changes nothing explains nothing: the exit of a process that is being ended.
            self._reason = ASKED if event in COMMANDS else reason or self._reason
        for output in outputs:
            self._do(output)
        for waiting in [one for one in self._waiting if not one.done()]:
            waiting.set_result(self.state)

    def _do(self, output: Output) -> None:
        match output:
            case Output.SPAWN:
                self._starting = asyncio.create_task(self._start())
            case Output.END:
                self._ending = asyncio.create_task(self._end())
            case Output.WAIT:
                loop, delay = asyncio.get_running_loop(), self._backoff.next_delay_seconds()
                self._retry = loop.call_later(delay, self._feed, Input.RETRY_DUE)
            case Output.CANCEL_WAIT:
                if self._retry:
                    self._retry.cancel()
            case Output.FORGIVE:
                self._backoff.forgive()
            case _:
                self._tell(output)

    async def _start(self) -> None:
        self._starts += 1
        self._began, self._ready_at, self.memory = time.monotonic(), None, None
        self._exited_cleanly = False
        try:
            self.target = await self._open()
        except HostError as error:
            self._not_startable(str(error))
            return
        except Exception as error:  # noqa: BLE001 - and logged
            # What prepares a start is given from outside; whatever fails there, we go on.
            _log.exception("Starting %s failed", self.manifest.name)
            self._not_startable(f"{type(error).__name__}: {error}")
            return
        child = self.child
        self.log.note(f"started, pid {child.pid}" if child else "asking the remote server")
        self._around.tell(ServerStarted(pid=child.pid if child else None, **self._stamp()))
        if self.state is State.STARTING:
            self._probing = asyncio.create_task(self._watch(self.target))

    async def _open(self) -> Target:
        manifest, around = self.manifest, self._around
        expanded = expand(manifest, around.environ)
        self.log.mask(expanded.secret_values)
        if manifest.url is not None:
            return Remote(manifest.name, manifest.url, expanded.headers)
        with around.prepare(manifest) as extras:
            what = Launch(
                name=manifest.name,
                argv=argv_for(manifest),
                env={},
                cwd=manifest.folder,
                pass_fds=extras.pass_fds,
                fork=fork_for(manifest),
            )
            added = {**expanded.env, **extras.env}
            env = build_environment(manifest, around.environ, added, what.mark)
            await around.records.begin(what.mark, manifest.name)
            try:
                child = await Child.start(
                    what.model_copy(update={"env": env}), self.log, by_fork=around.by_fork
                )
            except BaseException:
                await around.records.ended(what.mark)
                raise
        if child.id:
            try:
                await around.records.started(what.mark, child.id)
            except HostError as error:
                # The mark alone is on disk, and identifies it as well.
                _log.warning("%s", error)
        child.on_exit(self._exited)
        return child

    def _not_startable(self, reason: str) -> None:
        # When a command came meanwhile, its END is waiting for this task and goes on alone.
        self.log.note(f"could not be started: {reason}")
        if self.state is State.STARTING:
            self._feed(Input.NOT_STARTABLE, reason)

    def _exited(self, child: Child, ended: Exit) -> None:
        if self.target is child and self.state in WITH_PROCESS:
            self._exited_cleanly = self.state in _PROBED and ended.code == 0
            when = "" if self._ready_at else " before it was ready"
            self._feed(Input.EXITED, f"{ended}{when}")

    async def _watch(self, target: Target) -> None:
        """Turn what the checks find into inputs, as long as there is something to check."""
        async with aclosing(self._checks.findings(lambda: self._around.probe(target))) as found:
            async for event, reason in found:
                if self.state not in _PROBED:
                    return
                now = time.monotonic()
                if event is Input.ANSWERED:
                    self._ready_at = self._ready_at or now
                    self._backoff.healthy(now - self._ready_at)
                elif event is Input.MISSED:
                    self._last_error = reason
                self._feed(event, reason)

    async def _end(self) -> None:
        """End the process and all that came of it, whatever stage it is in."""
        if self._starting:
            await asyncio.wait([self._starting])
        if self._probing:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        child, result = self.child, None
        if child is not None:
            result = await child.stop(timeout_seconds=self.manifest.stop_timeout_seconds)
            if not result.left:
                try:
                    await self._around.records.ended(child.family.mark)
                except HostError as error:
                    # The next start finds nothing under this mark; no reason to stop here.
                    _log.warning("%s", error)
        self.target, self._last_stop = None, result
        self._feed(self._verdict() if self.state is State.FAILING else Input.ENDED)

    def _verdict(self) -> Input:
        """What follows from this failure."""
        rules, now = self.manifest.restart, time.monotonic()
        clean, self._exited_cleanly = self._exited_cleanly, False
        self._last_error = self._reason
        self._backoff.failed(now)
        if rules.policy == "never" or (rules.policy == "on-failure" and clean):
            return Input.LEAVE
        # A remote server comes back without us; giving up on it would only hide that.
        if self._backoff.open(now) and self.manifest.url is None:
            return Input.GIVE_UP
        return Input.RETRY

    # -- telling -------------------------------------------------------------------------------

    def _tell(self, output: Output) -> None:
        reason, last, stamp = self._reason, self.log.last, self._stamp()
        match output:
            case Output.TELL_READY:
                pid = self.child.pid if self.child else None
                took = (self._ready_at or 0) - (self._began or 0)
                tools = self._checks.health.tools if self._checks.health else 0
                self.log.note(f"ready after {took:.2f} s, {tools} tools")
                event: ServerEvent = ServerReady(pid=pid, start_seconds=took, tools=tools, **stamp)
            case Output.TELL_CRASHED:
                retry = self._retry_in()
                after = "" if retry is None else f"; next start in {retry:.2f} s"
                self.log.note(f"{reason}{after}")
                event = ServerCrashed(
                    reason=reason, last_stderr=last, retry_in_seconds=retry, **stamp
                )
            case Output.TELL_BROKEN:
                failures = self._backoff.failures
                window = self.manifest.restart.breaker_window_seconds
                self.log.note(f"broken: {failures} failures within {window:g} s")
                event = ServerBroken(reason=reason, failures=failures, last_stderr=last, **stamp)
            case _:
                left = self._last_stop.left if self._last_stop else ()
                if left:
                    self._last_error = f"These processes could not be ended: {left}."
                self.log.note(f"stopped ({reason})")
                event = ServerStopped(reason=reason, left=left, **stamp)
        self._around.tell(event)

    def _stamp(self) -> _Stamp:
        return {"name": self.manifest.name, "at": datetime.now(UTC)}

    def _retry_in(self) -> float | None:
        if self._retry is None or self.state is not State.BACKING_OFF:
            return None
        return max(0.0, self._retry.when() - asyncio.get_running_loop().time())

    async def _changes(self, to: frozenset[State]) -> State:
        """The next state in `to` that it enters (or stays in, on an input)."""
        while True:
            waiting: asyncio.Future[State] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                state = await waiting
            finally:
                self._waiting.discard(waiting)
            if state in to:
                return state
