"""Who listens on a port, and whether that is one of ours: exactly, or not at all.

Reads /proc (proc(5)) on Linux, psutil elsewhere. A process is ours when it runs as this user and
carries this installation in its environment (`HOSTWRIGHT_CHILD` beside our state folder, or the
daemon's own command line with it), or when the record of started processes names it by pid and
start time. Whoever else holds a port is a stranger, whatever it is called.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostwright.rescue.ground import Ground, clip

if TYPE_CHECKING:
    from hostwright.keeper.processes import ProcessId

LISTEN = "0A"


@dataclass(frozen=True)
class Holder:
    """A process that holds something."""

    id: ProcessId
    uid: int | None
    command: str
    ours: str
    """Why it is ours; empty: it is not."""

    def words(self) -> str:
        """For people."""
        whose = f"ours: {self.ours}" if self.ours else "not ours"
        return f"pid {self.id.pid} (uid {self.uid}, {whose}): {self.command}"


def listeners(ground: Ground, port: int) -> list[Holder]:
    """The processes that listen there; none where that cannot be told (another user's)."""
    return [holder for pid in _listening(port) if (holder := holder_of(ground, pid)) is not None]


def holder_of(ground: Ground, pid: int) -> Holder | None:
    """What is known of one process; None when it has ended."""
    import psutil

    from hostwright.keeper import processes

    one = processes.identity(pid)
    if one is None:
        return None
    command, uid = "?", None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        uid = process.uids().real
        command = clip(" ".join(process.cmdline()) or process.name())
    ours = "" if pid == os.getpid() else _why_ours(ground, one, uid)
    # Between the two looks another process may have got the pid.
    return Holder(one, uid, command, ours) if processes.identity(pid) == one else None


def _why_ours(ground: Ground, one: ProcessId, uid: int | None) -> str:
    from hostwright.keeper.inherited import MARK

    if uid != os.getuid():
        return ""
    marks, exact = recorded(ground)
    if one in exact:
        return "named in the record of started processes"
    environ = _environ(one.pid)
    mark = environ.get(MARK)
    if mark is not None and mark in marks:
        return "carries the mark of a server in the record"
    if environ.get("HOSTWRIGHT_STATE_DIR") == str(ground.state):
        if mark is not None:
            return "a server's process of this state folder"
        if is_daemon(one.pid):
            return "a daemon of this state folder"
    return ""


def recorded(ground: Ground) -> tuple[frozenset[str], frozenset[ProcessId]]:
    """Marks and exact processes of the record, if it is of this boot and can be read."""
    from pydantic import ValidationError

    from hostwright.keeper import processes, records

    try:
        content = records._Content.model_validate_json(
            (ground.runtime / records.FILE_NAME).read_bytes()
        )
    except (OSError, ValidationError):
        return frozenset(), frozenset()
    if content.boot != processes.boot_id():
        return frozenset(), frozenset()
    exact = {
        one
        for child in content.children.values()
        for one in (*child.seen, *((child.leader,) if child.leader else ()))
    }
    return frozenset(content.children), frozenset(exact)


def _environ(pid: int) -> dict[str, str]:
    import psutil

    try:
        return psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return {}


def is_daemon(pid: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        words = psutil.Process(pid).cmdline()
        return "up" in words and any("hostwright" in word for word in words)
    return False


def _listening(port: int) -> list[int]:
    if sys.platform != "linux":
        import psutil

        with contextlib.suppress(psutil.Error):
            return sorted(
                {
                    one.pid
                    for one in psutil.net_connections("tcp")
                    if one.pid and one.status == psutil.CONN_LISTEN and one.laddr[1] == port
                }
            )
        return []
    inodes = set(_inodes(port))
    return sorted(pid for pid in pids() if inodes & _sockets(pid)) if inodes else []


def _inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
