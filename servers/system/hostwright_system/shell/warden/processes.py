"""Processes as the kernel shows them: who descends from whom, and ending them exactly.

Reads /proc (Linux; elsewhere nothing is found), signals only what it is told to, writes only to
the cgroups that it is given. Standard library only, and little of it: the warden waits for it.
"""

from __future__ import annotations

# ruff: noqa: PTH106, PTH123, PTH208
import contextlib
import errno
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    # A pid, and the start time (in ticks) that tells it from a later process of that pid.
    Process: TypeAlias = tuple[int, int]


class Stat:
    """What /proc/PID/stat says of a process (proc_pid_stat(5))."""

    __slots__ = ("parent", "session", "started_ticks", "state")

    def __init__(self, text: bytes) -> None:
        # The command name (field 2) may hold spaces and parentheses: split after its last one.
        fields = text.rpartition(b")")[2].split()
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.started_ticks = int(fields[19])


def read_stat(pid: int) -> Stat | None:
    """None when it is gone; a zombie is gone, too."""
    text = read(f"/proc/{pid}/stat")
    stat = Stat(text) if text else None
    return stat if stat and stat.state not in "ZX" else None


def read(path: str) -> bytes:
    """The file; nothing when it cannot be read, as of a process that ended meanwhile."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def living() -> dict[int, Stat]:
    """Every process of the machine that is not a zombie. Linux; empty elsewhere."""
    if not sys.platform.startswith("linux"):
        return {}
    found: dict[int, Stat] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (stat := read_stat(int(name))):
            found[int(name)] = stat
    return found


def descendants(root: int) -> set[Process]:
    table = living()
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(stat.parent, []).append(pid)
    found: set[Process] = set()
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), ()):
            found.add((pid, table[pid].started_ticks))
            queue.append(pid)
    return found


def send(process: Process, number: int) -> None:
    """Signal exactly this process: the pidfd pins it, the start time proves that it is the one."""
    pid, started_ticks = process
    # Gone meanwhile, or (after sudo) not ours to signal: the caller looks at what is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = open_pidfd(pid)
        if handle is None:
            os.kill(pid, number)
            return
        try:
            stat = read_stat(pid)
            if stat and stat.started_ticks == started_ticks:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def open_pidfd(pid: int) -> int | None:
    """None where the system has none (not Linux, old, or filtered by seccomp)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EMFILE):
            return None
        raise


def kill_cgroup(cgroup: str) -> None:
    """SIGKILL to every member, atomically. A cgroup that is gone has no members."""
    with contextlib.suppress(FileNotFoundError), open(f"{cgroup}/cgroup.kill", "w") as file:
        file.write("1")


def remove_cgroup(cgroup: str) -> bool:
    """Remove it with any that the command made inside; False while it has members."""
    try:
        for entry in os.scandir(cgroup):
            if entry.is_dir(follow_symlinks=False):
                remove_cgroup(entry.path)
        os.rmdir(cgroup)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def kill_session(leader: int) -> set[Process]:
    """Last resort, for the server: SIGKILL to what is still in the session of `leader`."""
    found = {(p, s.started_ticks) for p, s in living().items() if s.session == leader}
    for process in found:
        send(process, signal.SIGKILL)
    return found
