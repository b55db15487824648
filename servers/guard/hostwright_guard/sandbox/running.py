"""One command in one sandbox: started, fed, bounded in time and output, ended, told about.

True asyncio. The order of a start: places are opened and judged, a control group is made, the
warden mounts and checks, the gate opens, and only then the command begins. A run that declares no
place and no secret, within the usual limits, takes a sandbox that was made before (`made.py`), by
the same steps; only what to run and which network comes later.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostwright_guard.sandbox import doorstep, machine, places, seccomp
from hostwright_guard.sandbox.capabilities import Wanted
from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.image import make_image
from hostwright_guard.sandbox.living import Life, Receiver
from hostwright_guard.sandbox.made import Made, Pipes, Spares, write_at_start
from hostwright_guard.sandbox.nursery_client import Nursery, Start, memory_file
from hostwright_guard.sandbox.places import Places
from hostwright_guard.sandbox.plan import SCRATCH, SEARCH_PATH, make_plan, rlimits, variables
from hostwright_guard.sandbox.skeleton import make_skeleton
from hostwright_kit.control_groups import Group, Groups
from hostwright_kit.errors import HostError

PREFIX = "hostwright-sandbox-"
GRACE_SECONDS = 1.0
# So many at once; more wait. Each may use half a gigabyte without anybody having been asked.
MAX_AT_ONCE = 16
# bwrap outside, the first process inside, and one while it starts.
OWN_PROCESSES = 3


@dataclass(frozen=True)
class Command:
    """What to run, resolved: the program is a full path, seen from inside."""

    program: str
    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    secret_files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    stdin: bytes = b""


@dataclass(frozen=True)
class Overlay:
    """A folder that the command sees as it is and changes only aside."""

    lower: str
    upper: str
    work: str
    shown: str
    """An empty folder that nobody else can exchange; the overlay is mounted there."""


@dataclass(frozen=True)
class Ending:
    """How it ended. `exit_code` as a shell counts: 128 + N for signal N."""

    exit_code: int | None
    timed_out: bool
    cancelled: bool
    duration_seconds: float
    out_of_memory: bool
    enforced: Mapping[str, str]


@dataclass(frozen=True)
class _GroupLimits:
    memory_mb: int
    cpu_percent: int
    processes: int


class Sandboxes:
    """Runs commands. One per server; close it at the server's end."""

    def __init__(self, runtime_dir: Path, groups: Groups | None = None) -> None:
        self._runtime_dir = runtime_dir
        self._etc: Path | None = None
        self._nursery = Nursery()
        self._groups = groups or Groups(PREFIX)
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._lock = threading.Lock()
        self._spares = Spares(self._make_spare, self._drop)
        self._ending: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        await self._spares.close()
        while self._ending:
            await asyncio.wait(self._ending)
        await self._nursery.close()
        if self._etc is not None:
            await asyncio.to_thread(shutil.rmtree, self._etc, ignore_errors=True)

    async def run(
        self,
        command: Command,
        wanted: Wanted,
        opened: Places,
        receive: Receiver,
        *,
        gate: Gate | None = None,
        names: tuple[str, ...] = (),
        ports: tuple[int, ...] = (),
        overlay: Overlay | None = None,
    ) -> Ending:
        """Run to the end. Cancelling ends it, and then returns an ending that says so."""
        async with self._slots:
            return await self._run(command, wanted, opened, receive, gate, names, ports, overlay)

    async def _run(
        self,
        command: Command,
        wanted: Wanted,
        opened: Places,
        receive: Receiver,
        gate: Gate | None,
        names: tuple[str, ...],
        ports: tuple[int, ...],
        overlay: Overlay | None,
    ) -> Ending:
        started = time.monotonic()
        network = {"tcp": ports, "ipv6": socket.has_ipv6} if gate is not None else None
        made: Made | None = None
        try:
            image = make_image(
                command.program, command.argv, variables(command.environment), command.cwd
            )
            if _is_usual(command, wanted, opened, overlay):
                made = self._spares.take()
            if made is not None:
                made.fill(image, command.stdin)
                made.link.go(
                    {"network": network, "rlimits": rlimits(wanted.limits, made.group.enforced)}
                )
            else:
                hosts = names if gate is not None else None
                made = await self._make(wanted, opened, command, hosts, overlay, network, image)
            life = Life(receive, made)
            return await self._live(life, gate, wanted.seconds, made.group, started)
        finally:
            if gate is not None:
                await gate.close()
            if made is not None:
                made.close()
                self._later(asyncio.to_thread(made.group.end))
            self._spares.refill()

    async def settled(self) -> None:
        """Wait until nothing of former runs is left, and the next sandbox is ready."""
        while self._ending:
            await asyncio.wait(self._ending)
        await self._spares.settled()

    async def _make(
        self,
        wanted: Wanted,
        opened: Places,
        command: Command | None,
        names: tuple[str, ...] | None,
        overlay: Overlay | None,
        network: Mapping[str, Any] | None,
        image: bytes,
    ) -> Made:
        """Have a warden make a sandbox. Without a command it waits, to be told later."""
        bwrap = (await asyncio.to_thread(machine.machine)).require()
        group, etc = await asyncio.to_thread(self._prepare, wanted)
        plan = make_plan(
            opened,
            wanted.limits,
            cwd=command.cwd if command else SCRATCH,
            secret_files=command.secret_files if command else {},
            names=names,
            etc=etc,
            as_root=os.geteuid() == 0,
            instead={overlay.lower: overlay.shown} if overlay else {},
        )
        request = {
            "bwrap": bwrap,
            "arguments": plan.arguments,
            "cgroups": [str(folder) for folder in group.folders],
            "binds": plan.binds,
            "rights": plan.rights,
            "masks": plan.masks,
            "overlay": vars(overlay) if overlay else None,
            "data": len(plan.data),
            "grace_seconds": GRACE_SECONDS,
            "go": {"network": network, "rlimits": rlimits(wanted.limits, group.enforced)}
            if command
            else None,
        }
        pipes, file = Pipes(), memory_file("image", image)
        try:
            write_at_start(pipes.stdin, command.stdin if command else b"")
            link = await self._nursery.start(
                Start(
                    request,
                    file,
                    pipes.theirs(),
                    doorstep.doorstep(),
                    seccomp.filter_for(),
                    plan.data,
                    [place.descriptor for place in opened.places],
                )
            )
        except BaseException:
            pipes.close()
            os.close(file)
            self._later(asyncio.to_thread(group.end))
            raise
        pipes.close_writers()
        return Made(group, pipes, file, link)

    async def _make_spare(self) -> Made:
        made = await self._make(Wanted(), Places(()), None, None, None, None, b"")
        if "waiting" in (await made.link.next() or {}):
            return made
        await self._drop(made)
        raise HostError("No sandbox could be made in advance.", code="sandbox_unavailable")

    async def _drop(self, made: Made) -> None:
        made.close()
        await asyncio.to_thread(made.group.end)

    def _later(self, what: Awaitable[Any]) -> None:
        """What nobody has to wait for: everything of the run has ended."""
        task = asyncio.ensure_future(what)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _live(
        self, life: Life, gate: Gate | None, seconds: float, group: Group, started: float
    ) -> Ending:
        task = asyncio.create_task(life.run(gate))
        timed_out = cancelled = False
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
            timed_out = not done
        except asyncio.CancelledError:
            # It may have ended in the same moment: then there was nothing to cancel.
            cancelled = not task.done()
        if not task.done():
            life.end()
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                task.cancel()
                raise
        code = await task
        out_of_memory = await asyncio.to_thread(group.out_of_memory)
        return Ending(
            code,
            timed_out,
            cancelled,
            time.monotonic() - started,
            out_of_memory,
            {**group.enforced},
        )

    def _prepare(self, wanted: Wanted) -> tuple[Group, Path]:
        """Blocking."""
        with self._lock:
            if self._etc is None:
                self._etc = make_skeleton(self._runtime_dir)
                self._groups.remove_stale()
        return self._group(wanted), self._etc

    def _group(self, wanted: Wanted) -> Group:
        limits = wanted.limits
        group = self._groups.make(
            str(next(self._numbers)),
            _GroupLimits(limits.memory_mb, limits.cpu_percent, limits.processes + OWN_PROCESSES),
        )
        held = group.enforced
        if os.geteuid() == 0 and not held["processes"].startswith("cgroup"):
            group.end()
            raise HostError(
                f"The number of processes cannot be limited for root: {held['processes']}.",
                fix="Delegate control groups to this service (systemd: Delegate=yes), or run the "
                "server as a user that is not root.",
                code="sandbox_unavailable",
            )
        for name, otherwise in (("memory", "rlimit of each process"), ("processes", "rlimit")):
            if not held[name].startswith("cgroup"):
                held[name] = otherwise
        return group


def _is_usual(command: Command, wanted: Wanted, opened: Places, overlay: Overlay | None) -> bool:
    """Whether a sandbox that was made for nobody in particular is the one that is asked for."""
    usual, asked = Wanted().limits, wanted.limits
    same = ("memory_mb", "cpu_percent", "processes", "scratch_mb")
    return (
        not opened.places
        and not command.secret_files
        and overlay is None
        and places.within(command.cwd, places.BASE, (SCRATCH,))
        and all(getattr(usual, name) == getattr(asked, name) for name in same)
    )


def find_program(program: str, cwd: str, opened: Places) -> str:
    """The program's full path as the sandbox will see it; raises `HostError`. Blocking."""
    visible = (*places.BASE, SCRATCH, *(place.path for place in opened.places))
    if "/" in program:
        candidates = [os.path.normpath(os.path.join(cwd, program))]  # noqa: PTH118
    else:
        candidates = [f"{folder}/{program}" for folder in SEARCH_PATH.split(":")]
    for candidate in candidates:
        if places.within(candidate, visible) and os.access(candidate, os.X_OK):
            return candidate
    raise HostError(
        f"The program {program[:200]!r} is not in the sandbox.",
        fix=f"Give a program of {SEARCH_PATH}, or declare the folder that it is in (read).",
        code="not_found",
    )


def signal_name(code: int | None) -> str | None:
    """The signal behind an exit code above 128, as a shell would say."""
    if code is None or code <= 128:
        return None
    with contextlib.suppress(ValueError):
        return signal.Signals(code - 128).name
    return None
