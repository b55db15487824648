"""Which processes belong to a server, exactly; and ending them all.

A server's processes are found by four signs, so that neither a wrapper shell nor a daemonised
grandchild is missed and no foreign process is ever touched:

1. the session that it was started in (while its leader is held, so the id cannot be reused);
2. the mark `HOSTWRIGHT_CHILD=<uuid>` that descendants inherit in their environment;
3. processes seen before as its descendants, by pid *and* start time;
4. children of all of those.

On Linux the daemon is a child subreaper (PR_SET_CHILD_SUBREAPER): orphans come to it instead of to
init and are reaped here. A process that in one go leaves the session, empties its environment and
loses its parents between two looks is not recognised; only a cgroup would hold it.

Reads /proc (proc(5)) on Linux, psutil elsewhere; signals through pidfds where there are pidfds.
Blocking functions, for a thread, except `end_family`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from hostwright.keeper.inherited import MARK

LINUX = sys.platform == "linux"
KILL_WAIT_SECONDS = 5.0
STRAY_SECONDS = 60.0


class ProcessId(NamedTuple):
    """One process and no other: a pid is reused, together with its start time it is not."""

    pid: int
    started: int
    """Clock ticks since boot on Linux, microseconds since the epoch elsewhere."""


class Process(NamedTuple):
    """One row of the process table."""

    id: ProcessId
    parent: int
    session: int
    zombie: bool


Table = dict[int, Process]
Memory = tuple[int, Literal["pss", "rss"]]


@dataclass
class Family:
    """A server's process and all that came of it."""

    mark: str
    leader: ProcessId | None = None
    leader_held: bool = True
    """Its pid cannot be reused: it runs, or has ended but is not reaped yet."""
    seen: set[ProcessId] = field(default_factory=set[ProcessId])


class Ended(NamedTuple):
    """What `end_family` did."""

    ended: frozenset[ProcessId]
    left: frozenset[ProcessId]


def become_subreaper() -> bool:
    """Have orphaned descendants handed to this process; False where the system cannot."""
    if not LINUX:
        return False
    return _libc().prctl(36, 1, 0, 0, 0) == 0


def boot_id() -> str:
    """Names this boot and process-id namespace: process ids mean nothing outside of it."""
    if not LINUX:
        return f"boot-{psutil.boot_time():.0f}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def table() -> Table:
    """Every process that this user can see."""
    if LINUX:
        rows = (_row(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    else:
        rows = (_row(pid) for pid in psutil.pids())
    return {row.id.pid: row for row in rows if row is not None}


def identity(pid: int) -> ProcessId | None:
    """The process that has this pid now; a zombie counts."""
    row = _row(pid)
    return row.id if row else None


def runs(one: ProcessId | None) -> bool:
    """Whether this very process still runs; a zombie does not."""
    row = _row(one.pid) if one else None
    return row is not None and row.id == one and not row.zombie


def mark_of(pid: int) -> str | None:
    """The mark in the environment that the process was executed with, if it can be read."""
    if not LINUX:
        try:
            return psutil.Process(pid).environ().get(MARK)
        except psutil.Error:
            return None
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    start = f"{MARK}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(start):
            return entry[len(start) :].decode(errors="replace")
    return None


def members(family: Family, rows: Table, *, search_marks: bool = True) -> dict[int, Process]:
    """The family's processes in `rows`, zombies too; `family.seen` learns of them.

    Without `search_marks`, environments are read only of this process's own adopted orphans:
    cheap enough for a look every few seconds.
    """
    me = os.getpid()
    leader = family.leader
    found: dict[int, Process] = {}
    for row in rows.values():
        if row.id.pid == me:
            continue
        if leader and family.leader_held and row.session == leader.pid:
            found[row.id.pid] = row
        elif row.id in family.seen or row.id == leader:
            # Exact already; a different mark could only be a server of another daemon.
            if mark_of(row.id.pid) in (family.mark, None):
                found[row.id.pid] = row
        elif (
            (search_marks or row.parent == me)
            and (leader is None or row.id.started >= leader.started)
            and not row.zombie
            and mark_of(row.id.pid) == family.mark
        ):
            found[row.id.pid] = row
    _add_children(found, rows, me)
    family.seen = {row.id for row in found.values()}
    return found


async def end_family(family: Family, *, grace_seconds: float) -> Ended:
    """SIGTERM to every member but the leader, SIGKILL to who is left after the grace.

    The leader is the caller's (it holds its exit status); after it was waited for, this ends the
    rest. Returns when two fresh looks find nobody (in the middle of an execve(2) a process shows
    no environment), or when SIGKILL did not help for some seconds.
    """
    if clearly_alone(family):
        family.seen = set()
        return Ended(frozenset(), frozenset())
    asked: set[ProcessId] = set()
    nobody = 0
    began = time.monotonic()
    while True:
        alive = await asyncio.to_thread(_living, family)
        waited = time.monotonic() - began
        nobody = 0 if alive else nobody + 1
        if nobody == 2 or waited > grace_seconds + KILL_WAIT_SECONDS:
            return Ended(frozenset(asked - alive), frozenset(alive))
        for member in alive:
            if waited >= grace_seconds:
                send(member, signal.SIGKILL)
            elif member not in asked:
                send(member, signal.SIGTERM)
            asked.add(member)
        await asyncio.sleep(0.01 if waited < 0.1 else 0.05)


def _living(family: Family) -> set[ProcessId]:
    """The members that still run, without the leader; zombies that fell to us are reaped."""
    found = members(family, table())
    alive: set[ProcessId] = set()
    for row in found.values():
        if row.id == family.leader and family.leader_held:
            continue
        if not row.zombie:
            alive.add(row.id)
        elif row.parent == os.getpid():
            reap(row.id.pid)
    return alive


def children_of(pid: int) -> list[int]:
    """Its children, zombies too, at once and without reading the whole table. Linux; else none."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def clearly_alone(family: Family) -> bool:
    """Whether a leader that has ended left nobody, told by a look at our own children alone.

    As the nearest subreaper, this process inherits what an ended server leaves, at the latest when
    its end shows (exit_notify in the kernel): so whoever is left descends from a child of ours. A
    child that is older than the leader, or that carries another server's mark, is none of it; any
    other one means that the table must be read. Never wrongly True.
    """
    leader = family.leader
    if not LINUX or leader is None or not family.leader_held or runs(leader):
        return False
    me = os.getpid()
    if not Path(f"/proc/{me}/task/{me}/children").exists():  # CONFIG_PROC_CHILDREN
        return False
    if not _is_subreaper():
        return False
    for pid in children_of(me):
        row = _row(pid)
        if row is None or row.zombie or row.id.started < leader.started:
            continue
        if mark_of(pid) in (None, family.mark):
            return False
    return True


def _is_subreaper() -> bool:
    answer = ctypes.c_int(0)
    asked = _libc().prctl(37, ctypes.byref(answer), 0, 0, 0)
    return asked == 0 and answer.value == 1


def send(target: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it no longer exists."""
    with contextlib.suppress(ProcessLookupError):
        if not LINUX:
            if identity(target.pid) == target:
                os.kill(target.pid, number)
                return True
            return False
        handle = os.pidfd_open(target.pid)
        try:
            # The handle names one process for good; is it the one that was meant?
            if identity(target.pid) == target:
                signal.pidfd_send_signal(handle, number)
                return True
        finally:
            os.close(handle)
    return False


def reap(pid: int) -> bool:
    """Take the exit status of an orphan that became our child; False when it is not ours."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def reap_orphans(rows: Table, families: list[Family], strays: dict[ProcessId, float]) -> None:
    """Reap ended orphans that a subreaper inherits; `strays` remembers those of unknown origin.

    Not by waiting for any child: that would take exit statuses which other code waits for. A dead
    child that is no server's is reaped only after nobody else did for a while.
    """
    me, now = os.getpid(), time.monotonic()
    leaders = {family.leader for family in families}
    sessions = {leader.pid for leader in leaders if leader}
    seen = {one for family in families for one in family.seen}
    dead = {row.id: row for row in rows.values() if row.zombie and row.parent == me}
    for gone in strays.keys() - dead.keys():
        del strays[gone]
    for one, row in dead.items():
        if one in leaders:
            continue  # its `Child` takes its status
        ours = row.session in sessions or one in seen
        if ours or now - strays.setdefault(one, now) > STRAY_SECONDS:
            reap(one.pid)


def memory_bytes(pids: set[int]) -> Memory:
    """What these processes occupy together: shared pages counted once (PSS) where the kernel tells.

    The worse kind of figure names the sum: one process without PSS makes it "rss".
    """
    total, kind = 0, "pss" if LINUX else "rss"
    for pid in pids:
        pss = _pss(pid) if LINUX else None
        if pss is not None:
            total += pss
            continue
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
        kind = "rss"
    return total, "pss" if kind == "pss" else "rss"


def _pss(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except FileNotFoundError:
        return 0 if not Path(f"/proc/{pid}").exists() else None
    except ProcessLookupError:
        return 0  # it ended; nothing is occupied any more
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0
    )


def _add_children(found: dict[int, Process], rows: Table, me: int) -> None:
    children: dict[int, list[Process]] = {}
    for row in rows.values():
        children.setdefault(row.parent, []).append(row)
    queue = list(found)
    while queue:
        for row in children.get(queue.pop(), ()):
            if row.id.pid not in found and row.id.pid != me:
                found[row.id.pid] = row
                queue.append(row.id.pid)


@functools.cache
def _libc() -> ctypes.CDLL:
    """Once: each one is a new class, which its base remembers for ever."""
    return ctypes.CDLL(None, use_errno=True)


def _row(pid: int) -> Process | None:
    if LINUX:
        try:
            # Not by pathlib, which keeps every part of every path that it has seen for a while.
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                stat = file.read(4_096)
        except OSError:
            return None
        # The name in parentheses may hold anything, parentheses and spaces too.
        fields = stat[stat.rindex(b")") + 2 :].split()
        return Process(
            ProcessId(pid, int(fields[19])),
            parent=int(fields[1]),
            session=int(fields[3]),
            zombie=fields[0] in (b"Z", b"X"),
        )
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Process(
                ProcessId(pid, round(process.create_time() * 1_000_000)),
                parent=process.ppid(),
                session=os.getsid(pid),
                zombie=process.status() == psutil.STATUS_ZOMBIE,
            )
    except (psutil.Error, OSError):
        return None
