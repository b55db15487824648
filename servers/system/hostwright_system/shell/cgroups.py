"""The cgroups that commands get: where they are made, and ending those that were left behind.

Touches only cgroups v2 (cgroups(7), Linux) named `hostwright-PID-START-NAME` inside the server's
own; PID and START tell the server that made one, so that a later server knows what is stale.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

from hostwright_system.shell.warden.processes import kill_cgroup, read_stat, remove_cgroup
from hostwright_system.shell.warden.supervise import POLL_SECONDS


@functools.cache
def cgroup_parent() -> str | None:
    """The server's own cgroup v2, when it may make others in it. Blocking, once.

    Inside the own one: whoever stops the server's unit by cgroup stops its commands with it.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        own = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    # cgroups(7): the line of the unified hierarchy is "0::PATH".
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), None)
    if path is None or "/../" in f"{path}/":
        return None
    for line in mounts.splitlines():
        fields = line.split()
        # proc_pid_mountinfo(5): optional fields end with "-", then the file system's type.
        if fields[fields.index("-") + 1] == "cgroup2" and fields[3] == "/":
            folder = fields[4].encode().decode("unicode_escape") + path.rstrip("/")
            return folder if os.access(folder, os.W_OK | os.X_OK) else None
    return None


def cgroup_name(name: str) -> str:
    return f"hostwright-{os.getpid()}-{_ticks(os.getpid())}-{name}"


def remove_stale_cgroups() -> int:
    """End what servers that are gone left behind (they and their wardens killed). Blocking."""
    parent = cgroup_parent()
    removed = 0
    for folder in Path(parent).glob("hostwright-*-*-*") if parent else ():
        _, pid, ticks, _ = folder.name.split("-", 3)
        if pid.isdecimal() and str(_ticks(int(pid))) != ticks:
            end_cgroup(folder)
            removed += 1
    return removed


def end_cgroup(folder: Path) -> None:
    """SIGKILL to every member, then remove it. Blocking."""
    kill_cgroup(str(folder))
    deadline = time.monotonic() + 1
    while not remove_cgroup(str(folder)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _ticks(pid: int) -> int | None:
    stat = read_stat(pid)
    return stat.started_ticks if stat else None
