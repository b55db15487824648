"""The daemon's side of the zygote: starts it when it is needed, asks it for servers, lets it rest.

    zygote = Nursery(…)
    process = await zygote.start(launch)     # or a text: why it cannot be forked now
    await zygote.rest()                      # everything sleeps: it ends, until the next need

Nothing depends on it: whatever is wrong with it, `start` says so within a bounded time and the
server is executed as on any system without it. It is a process of ours like a server: in the
records before it exists, killed with the daemon, ended with all that it left. Asyncio; Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hostwright.keeper import processes
from hostwright.keeper.child import Child, Launch
from hostwright.keeper.inherited import AT_EXEC, MARK, for_zygote
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.records import Records
from hostwright.zygote import early
from hostwright.zygote.held import Control, Forked
from hostwright.zygote.job import STALE, Job
from hostwright_kit.errors import HostError

NAME = "zygote"
READY_SECONDS = 20.0
"""How long a start waits for a zygote that warms up. Executing imports the same, so on a machine so
busy that this takes long, giving up early would only make it busier."""
FORK_SECONDS = 10.0
STOP_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 60.0
WAKE_PAUSE_SECONDS = 3.0
MAX_PACKET = 64 * 1024

logger = logging.getLogger(__name__)


class Nursery:
    """At most one zygote, and its templates."""

    def __init__(
        self,
        records: Records,
        log: ServerLog,
        environ: Mapping[str, str],
        names: Sequence[str],
        *,
        ready_seconds: float = READY_SECONDS,
        patient: bool = True,
    ) -> None:
        """`names` are the entry points to be loaded before the first fork.

        `patient`: a start waits for a zygote that is not warm. That is worth it when many servers
        start; a few are executed in the time that warming takes.
        """
        self._records = records
        self._log = log
        self._environ = environ
        self._names = list(names)
        self._ready_seconds = ready_seconds
        self._patient = patient
        self._held = not patient
        self._child: Child | None = None
        self._base: Control | None = None
        self._templates: dict[tuple[str, ...], Control] = {}
        self._opening: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._failures = 0
        self._not_before = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._closed = False
        self._unsafe: set[str] = set()
        self.forked = 0
        """Servers started by fork."""
        self.plain: dict[str, str] = {}
        """Server → why its last start was not by fork."""

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._child.pid if self._child is not None else None

    def wake(self) -> None:
        """Begin to warm up, if it does not run; returns at once."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._base is None and self._opening is None and not self._closed:
            self._opening = asyncio.create_task(self._open(), name="zygote opens")
            self._opening.add_done_callback(self._opened)

    async def start(self, what: Launch) -> Forked | str:
        """Start it by fork, or say why that is not possible now."""
        why = self._refusal(what)
        if why is None and not self._patient and (self._base is None or self._opening is not None):
            why = "the zygote is not warm yet"
            if not self._held and self._soon is None:
                # Whoever called waits for this one server; what is for later ones comes later.
                loop = asyncio.get_running_loop()
                self._soon = loop.call_later(WAKE_PAUSE_SECONDS, self.wake)
        if why is None:
            try:
                async with asyncio.timeout(self._ready_seconds):
                    control = await self._control(what)
            except TimeoutError:
                why = f"the zygote was not ready within {self._ready_seconds:g} s"
            else:
                found = await self._ask(control, what)
                if isinstance(found, Forked):
                    self.forked += 1
                    self.plain.pop(what.name, None)
                    return found
                why = found
        self.plain[what.name] = why
        return why

    def settled(self) -> None:
        """The first servers run, so that warming up is in nobody's way any more.

        From here on servers are started one by one, and none waits for it to get warm again.
        """
        self._patient = False
        if self._held:
            self._held = False
            self.wake()

    async def rest(self) -> None:
        """End it; the next `start` wakes it again. Its children live on."""
        for timer in (self._again, self._soon):
            if timer is not None:
                timer.cancel()
        self._again = self._soon = None
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self._drop()

    async def close(self) -> None:
        """End it for good."""
        self._closed = True
        await self.rest()
        if self._ending:
            await asyncio.wait(self._ending)
        self._log.close()

    # -- whether and where -----------------------------------------------------------------------

    def _refusal(self, what: Launch) -> str | None:
        if what.fork is None or not processes.LINUX or self._closed:
            return "there is no zygote for it"
        if what.fork.kind == "entry_point" and what.fork.target in self._unsafe:
            return "importing it starts a thread"
        ours = for_zygote(self._environ)
        names = {name for name in (*what.env, *ours) if name.startswith(AT_EXEC)}
        differing = sorted(name for name in names if what.env.get(name) != ours.get(name))
        if differing:
            return f"its {differing[0]} is read when an interpreter starts"
        if time.monotonic() < self._not_before:
            return "the zygote failed a moment ago"
        return None

    async def _control(self, what: Launch) -> Control | str:
        self.wake()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._base is None:
            return "the zygote could not be started; its log says why"
        modules = what.fork.preload if what.fork else ()
        if not modules:
            return self._base
        template = self._templates.get(modules)
        if template is None or template.lost:
            template = self._templates[modules] = self._branch(self._base, modules)
        # Shielded: the one that gave up waiting must not end it for the others.
        facts = await asyncio.shield(template.ready)
        return str(facts["refused"]) if "refused" in facts else template

    def _branch(self, base: Control, modules: tuple[str, ...]) -> Control:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.closing(theirs):
            control = self._listen(ours)
            try:
                _send(base.sock, {"preload": modules}, [theirs.fileno()])
            except OSError:
                control.close()
        return control

    # -- one server ------------------------------------------------------------------------------

    async def _ask(self, control: Control | str, what: Launch) -> Forked | str:
        """The forked server, or why there is none. Gives up without leaving one behind."""
        if isinstance(control, str):
            return control
        with contextlib.ExitStack() as stack:

            def pipe() -> tuple[int, int]:
                ends = os.pipe()
                for end in ends:
                    stack.callback(_close, end)
                return ends

            (in_read, in_write), (out_read, out_write), (err_read, err_write) = (
                pipe() for _ in range(3)
            )
            # What is not told to go, and sees this pipe end, ends without having begun.
            gate_read, gate_write = pipe()
            job = _job(what).to_file()
            stack.callback(_close, job)
            number = next(self._numbers)
            answer = asyncio.get_running_loop().create_future()
            control.answers[number] = answer
            stack.callback(control.answers.pop, number)
            given = [job, gate_read, in_read, out_write, err_write, *what.pass_fds]
            try:
                _send(control.sock, {"id": number}, given)
                async with asyncio.timeout(FORK_SECONDS):
                    facts = await answer
            except OSError as error:
                # What does not answer is of no further use; TimeoutError is one of these.
                self._lost(control)
                return f"the zygote does not answer: {error or type(error).__name__}"
            if "refused" in facts:
                if str(facts["refused"]).startswith(STALE) and self._base is not None:
                    self._lost(self._base)
                return str(facts["refused"])
            os.write(gate_write, b"1")
            kept = [os.dup(end) for end in (in_write, out_read, err_read)]
            return Forked(int(facts["pid"]), kept)

    # -- the process -----------------------------------------------------------------------------

    async def _open(self) -> None:
        """Start it and wait until it is warm."""
        while True:
            # The one before it may still be on its way out, and has the log.
            if self._ending:
                await asyncio.wait(self._ending)
            child, control = await self._begin()
            self._child, self._base = child, control
            try:
                if child.id:
                    await self._records.started(child.family.mark, child.id)
                names = [name for name in self._names if name not in self._unsafe]
                # An end while it warms up is seen as the answer that there is none.
                with contextlib.suppress(OSError):
                    _send(control.sock, {"names": names}, [])
                facts = await control.ready
            except BaseException:
                control.close()
                raise
            if "refused" not in facts:
                self._log.note(f"ready, pid {child.pid}, {facts}")
                self._failures = 0
                return
            self._log.note(f"not usable: {facts['refused']}")
            await self._drop()
            culprit = facts.get("culprit")
            if culprit is None or culprit in self._unsafe:
                raise HostError(f"The zygote refused: {facts['refused']}", fix="See its log.")
            self._unsafe.add(culprit)

    async def _begin(self) -> tuple[Child, Control]:
        """Its process: the one that was begun before we were there, or a new one."""
        env = for_zygote(self._environ)
        begun = early.take(env)
        if begun is not None:
            control = self._listen(begun.sock)
            try:
                await self._records.begin(begun.mark, NAME)
                child = await Child.of(NAME, begun.process, begun.mark, self._log)
            except BaseException:
                control.close()
                raise
            return child, control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = self._listen(ours)
        with contextlib.closing(theirs):
            what = Launch(
                name=NAME,
                argv=early.program(theirs.fileno()),
                env={},
                cwd=Path("/"),
                pass_fds=(theirs.fileno(),),
            )
            what = what.model_copy(update={"env": {**env, MARK: what.mark}})
            try:
                await self._records.begin(what.mark, NAME)
                child = await Child.start(what, self._log)
            except BaseException:
                control.close()
                raise
        return child, control

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.warning("Servers are started without the zygote for now: %s", error)
        if self._base is not None:
            self._lost(self._base)
        else:
            self._fail()

    def _fail(self) -> None:
        """After a failure, leave it alone for a while; longer each time."""
        self._failures += 1
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1))
        self._not_before = time.monotonic() + pause
        self._again = asyncio.get_running_loop().call_later(pause, self.wake)

    def _listen(self, sock: socket.socket) -> Control:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        control = Control(sock, loop.create_future())
        loop.add_reader(sock, self._take, control)
        return control

    def _take(self, control: Control) -> None:
        try:
            packet = control.sock.recv(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lost(control)
            return
        facts = cast("dict[str, Any]", json.loads(packet))
        waiting = control.answers.get(facts["id"]) if "id" in facts else control.ready
        if waiting is not None and not waiting.done():
            waiting.set_result(facts)

    def _lost(self, control: Control) -> None:
        """It ended, or is of no use any more: a new one takes its place."""
        if control is not self._base:
            control.close()  # a template; made again when it is asked for
            return
        warm = control.ready.done() and self._opening is None
        ending = asyncio.create_task(self._drop())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if warm and not self._closed:
            self._fail()

    async def _drop(self) -> None:
        child, base = self._child, self._base
        self._child = self._base = None
        for control in (base, *self._templates.values()):
            if control is not None:
                control.close()
        self._templates.clear()
        if child is None:
            return
        # Hanging up ends it; what it is forking just then is not let go, and ends as well.
        stopped = await child.stop(timeout_seconds=STOP_SECONDS)
        if not stopped.left:
            with contextlib.suppress(HostError):  # the next start finds nothing under this mark
                await self._records.ended(child.family.mark)


def _job(what: Launch) -> Job:
    if what.fork is None:
        raise ValueError("this launch is not one for a fork")
    return Job(
        name=what.name,
        kind=what.fork.kind,
        target=what.fork.target,
        mark=what.mark,
        daemon=os.getpid(),
        env=what.env,
        cwd=str(what.cwd or Path.cwd()),
        numbers=(0, 1, 2, *what.pass_fds),
        rlimits=what.rlimits,
        cgroup=str(what.cgroup) if what.cgroup else None,
    )


def _send(sock: socket.socket, message: Mapping[str, Any], handles: Sequence[int]) -> None:
    socket.send_fds(sock, [json.dumps(message).encode()], handles)


def _close(handle: int) -> None:
    os.close(handle)
