"""One server over all of its lives: turns what happens into the table's inputs and its outputs
into acts.

The table (`machine.py`) decides; here are the process, the clock, the checks and the telling.
Everything runs in one event loop and `_feed` never awaits, so no input can come between two others.
Knows no MCP: a check is a callable that is given from outside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Literal

from hostwright.keeper import needs
from hostwright.keeper.around import Remote, Surroundings, Target
from hostwright.keeper.backoff import Backoff
from hostwright.keeper.checks import Checks
from hostwright.keeper.child import Child
from hostwright.keeper.groups import Group
from hostwright.keeper.idle import Idle
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.machine import (
    COMMANDS,
    HOLDABLE,
    PROBED,
    RUNNING,
    SETTLED,
    WITH_PROCESS,
    Input,
    Output,
    State,
    step,
)
from hostwright.keeper.needs import Block, Level
from hostwright.keeper.opening import open_target
from hostwright.keeper.status import (
    ActionResult,
    Exit,
    ServerStarted,
    ServerStatus,
    StopResult,
    start_message,
    stop_message,
)
from hostwright.keeper.telling import Teller
from hostwright.manifest import Manifest
from hostwright_kit.errors import HostError

Action = Literal["start", "stop", "restart"]
ASKED = "asked to"
NOT_RUNNING = (State.STOPPED, State.DISABLED)

__all__ = ["Action", "Remote", "Server", "Target"]

_log = logging.getLogger(__name__)


class Server:
    """One manifest and whatever runs for it."""

    def __init__(self, manifest: Manifest, around: Surroundings, log: ServerLog) -> None:
        self.manifest = manifest
        self.log = log
        self.state = State.STOPPED if manifest.enabled else State.DISABLED
        self.target: Target | None = None
        self.group: Group | None = None
        self.memory: tuple[int, Literal["pss", "rss"]] | None = None
        self.backoff = Backoff(manifest.restart, around.dice)
        self.starts = 0
        self.began: float | None = None
        self.ready_at: float | None = None
        self.woken_at: float | None = None
        self.reason = ""
        self.why: str | None = None
        self.last_error: str | None = None
        self.last_stop: StopResult | None = None
        self.checks = Checks(manifest, log.clean, lambda: around.activity(self.manifest.name))
        self._around = around
        self._idle = Idle(self, around.activity, lambda why: self._feed(Input.SLEEP, why))
        self._teller = Teller(self, around)
        self._block: Block | None = None
        self._exited_cleanly = False
        self._retry: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def child(self) -> Child | None:
        """The process, if there is one."""
        return self.target if isinstance(self.target, Child) else None

    @property
    def usable(self) -> Target | None:
        """What may be talked to now: nothing while its end has begun."""
        return self.target if self.state in PROBED else None

    def status(self) -> ServerStatus:
        """What is known now; nothing is measured here."""
        return self._teller.status()

    async def act(self, action: Action) -> ActionResult:
        """Do what the owner asked and tell what came of it, once the server has settled."""
        before, self.last_stop = self.state, None
        self._feed(Input(action))
        await self._until(self._settled)
        state, stop, name = self.state, self.last_stop, self.manifest.name
        if action == "stop":
            ok = state in NOT_RUNNING and not (stop and stop.left)
            changed = before not in NOT_RUNNING
            message = stop_message(name, stop, changed=changed, state=state)
        else:
            ok = state in RUNNING
            changed = action == "restart" or before not in RUNNING
            why = self.why or self.last_error
            message = start_message(name, why, ok=ok, changed=changed, state=state)
        return ActionResult(
            name=name,
            action=action,
            ok=ok,
            changed=changed,
            state=state,
            pid=self.child.pid if self.child else None,
            message=message,
            stop=stop,
        )

    def begin(self, action: Action) -> None:
        """The same without waiting for what comes of it."""
        self._feed(Input(action))

    async def hold(self, reason: str) -> None:
        """End it until what it needs runs again."""
        if self.state in HOLDABLE:
            self._feed(Input.HOLD, reason)
            await self._until(lambda: self.state is not State.HOLDING)

    async def halt(self, reason: str) -> None:
        """End it in whatever state it is; the keeper lets it start no more."""
        await self.hold(reason)
        await self._until(lambda: self.state not in WITH_PROCESS)

    def reconsider(self, block: Block | None) -> None:
        """Other servers are in other states; what follows for this one."""
        before, self._block = self._block, block
        if block is None:
            if self.state in (State.WAITING, State.HOLDING):
                self._feed(Input.UNBLOCKED)
        elif block.level is Level.DOWN and self.state in HOLDABLE:
            self._feed(Input.HOLD, block.reason)
        elif block != before and self.state is State.WAITING:
            self.why = block.reason
            self._wake_waiters()

    def adopt(self, manifest: Manifest) -> None:
        """Other rules from now on; what is about the process holds from its next start."""
        self.manifest = self.checks.manifest = manifest
        self.backoff.adopt(manifest.restart)
        self.log.adopt(manifest.log)
        self._idle.disarm()
        self._idle.arm()

    async def wait_ready(self, timeout_seconds: float) -> Target:
        """The running server, once it is ready; a `HostError` says why it will not be.

        Wakes it when it sleeps, and keeps it from falling asleep under the caller's hands.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    self._idle.touch()
                    if self.state in RUNNING and self.target is not None:
                        return self.target
                    if self.state in (State.HIBERNATED, State.HIBERNATING):
                        self.woken_at = time.monotonic()
                        self._feed(Input.WAKE, "called")
                    if not self._may_become_ready():
                        break
                    await self._until(None)
        except TimeoutError:
            raise self._teller.not_ready(timeout_seconds) from None
        raise self._teller.unavailable()

    def retry_in(self) -> float | None:
        """Until the next start."""
        if self._retry is None or self.state is not State.BACKING_OFF:
            return None
        return max(0.0, self._retry.when() - asyncio.get_running_loop().time())

    # -- the machine ---------------------------------------------------------------------------

    def _feed(self, event: Input, reason: str = "") -> None:
        before = self.state
        self.state, outputs = step(before, event)
        if self.state is not before:
            # What changes nothing explains nothing: the exit of a process that is being ended.
            self.reason = ASKED if event in COMMANDS else reason or self.reason
            if self.state in PROBED:
                self.why = None
            elif event in (Input.SLEEP, Input.HOLD, Input.BLOCKED, Input.UNMET):
                self.why = reason
            elif event in COMMANDS or self.state in WITH_PROCESS:
                self.why = None
            self._around.changed()
        if event in COMMANDS:
            self.woken_at = None
        for output in outputs:
            self._do(output)
        self._idle.arm()
        self._wake_waiters()

    def _do(self, output: Output) -> None:
        match output:
            case Output.SPAWN:
                self._starting = asyncio.create_task(self._start())
            case Output.END:
                self._ending = asyncio.create_task(self._end())
            case Output.WAIT:
                loop, delay = asyncio.get_running_loop(), self.backoff.next_delay_seconds()
                self._retry = loop.call_later(delay, self._feed, Input.RETRY_DUE)
            case Output.CANCEL_WAIT:
                if self._retry:
                    self._retry.cancel()
            case Output.FORGIVE:
                self.backoff.forgive()
            case _:
                self._teller.tell(output)

    async def _start(self) -> None:
        if await self._may_not_start():
            return
        self.starts += 1
        self.began, self.ready_at, self.memory = time.monotonic(), None, None
        self._exited_cleanly = False
        try:
            self.target, self.group = await open_target(self.manifest, self._around, self.log)
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
        self._around.tell(ServerStarted(pid=child.pid if child else None, **self._teller.stamp()))
        if child:
            child.on_exit(self._exited)
        if self.state is State.STARTING:
            self._probing = asyncio.create_task(self._watch(self.target))

    async def _may_not_start(self) -> bool:
        """Whether what it needs is not there; then it is where it waits for that."""
        when = self.manifest.when
        lacks = (
            await asyncio.to_thread(needs.unmet, when, self._around.environ)
            if when.model_fields_set
            else []
        )
        # From here on nothing is awaited. When a command came meanwhile, its END is waiting for
        # this task and goes on alone.
        if self.state is not State.STARTING:
            return True
        self._block = self._around.blocked(self.manifest)
        if lacks:
            self._feed(Input.UNMET, f"its conditions are not met: {'; '.join(lacks)}")
        elif self._block:
            self._feed(Input.BLOCKED, self._block.reason)
        else:
            return False
        self.log.note(f"not started: {self.why}")
        return True

    def _not_startable(self, reason: str) -> None:
        # When a command came meanwhile, its END is waiting for this task and goes on alone.
        self.log.note(f"could not be started: {reason}")
        if self.state is State.STARTING:
            self._feed(Input.NOT_STARTABLE, reason)

    def _exited(self, child: Child, ended: Exit) -> None:
        if self.target is child and self.state in WITH_PROCESS:
            self._exited_cleanly = self.state in PROBED and ended.code == 0
            when = "" if self.ready_at else " before it was ready"
            why = f"{ended}{when}"
            if ended.signal == "SIGKILL" and self.group and self.group.out_of_memory():
                why += f": it reached its limit of {self.manifest.limits.memory_mb} MB memory"
            self._feed(Input.EXITED, why)

    async def _watch(self, target: Target) -> None:
        """Turn what the checks find into inputs, as long as there is something to check."""
        canary = self._around.canary
        call = None if canary is None else lambda rules: canary(target, rules)  # type: ignore[misc]
        findings = self.checks.findings(lambda: self._around.probe(target), call)
        async with aclosing(findings) as found:
            async for event, reason in found:
                if self.state not in PROBED:
                    return
                now = time.monotonic()
                if event is Input.ANSWERED:
                    self.ready_at = self.ready_at or now
                    self.backoff.healthy(now - self.ready_at)
                    self._teller.look_for_silence()
                elif event is Input.MISSED:
                    self.last_error = reason
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
            if self.group:
                # Whoever hid from every other sign is still in the group.
                left = await asyncio.to_thread(self.group.end)
                result = result.model_copy(update={"left": (*result.left, *left)})
            if not result.left:
                try:
                    await self._around.records.ended(child.family.mark)
                except HostError as error:
                    # The next start finds nothing under this mark; no reason to stop here.
                    _log.warning("%s", error)
        self.target, self.group, self.last_stop = None, None, result
        self._feed(self._verdict() if self.state is State.FAILING else Input.ENDED)

    def _verdict(self) -> Input:
        """What follows from this failure."""
        rules, now = self.manifest.restart, time.monotonic()
        clean, self._exited_cleanly = self._exited_cleanly, False
        self.last_error = self.reason
        self.backoff.failed(now)
        if rules.policy == "never" or (rules.policy == "on-failure" and clean):
            return Input.LEAVE
        # A remote server comes back without us; giving up on it would only hide that.
        if self.backoff.open(now) and self.manifest.url is None:
            return Input.GIVE_UP
        ready_seconds = None if self.ready_at is None else now - self.ready_at
        if self.manifest.url is None and self.backoff.at_once(ready_seconds):
            return Input.RETRY_NOW
        return Input.RETRY

    # -- waiting -------------------------------------------------------------------------------

    def _settled(self) -> bool:
        if self.state is State.WAITING:
            return self._block is None or self._block.level is not Level.SOON
        return self.state in SETTLED

    def _may_become_ready(self) -> bool:
        if self.state is State.WAITING:
            return self._block is None or self._block.level is not Level.DOWN
        return self.state in WITH_PROCESS or self.state is State.BACKING_OFF

    async def _until(self, holds: Callable[[], bool] | None) -> None:
        """Until an input makes `holds` true (at once, if it is); without it, until any input."""
        while holds is None or not holds():
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)
            if holds is None:
                return

    def _wake_waiters(self) -> None:
        for waiting in [one for one in self._waiting if not one.done()]:
            waiting.set_result(None)
