"""Limits of a server and its descendants: control groups where they can be had, else rlimits.

The groups are the kit's (`hostwright_kit/control_groups.py`), named `hostwright-server-PID-START-
NAME`; here is what is a server's own: setrlimit(2) of each process for what no group holds, and
joining. A group is joined from outside, right after the process exists and long before the
server's own code runs in a fresh interpreter; descendants that were faster are brought in as well.
Blocking functions, for a thread.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Mapping
from pathlib import Path

from hostwright.keeper import processes
from hostwright.manifest_rules import Limits
from hostwright_kit import control_groups

PREFIX = "hostwright-server-"


class Group(control_groups.Group):
    """What holds one run of a server."""

    def __init__(
        self, limits: Limits, folders: Mapping[Path, int], enforced: Mapping[str, str] = {}
    ) -> None:
        super().__init__(folders, enforced)
        self._limits = limits

    def join(self, pid: int) -> None:
        """Put a process that was just started under the limits, and what it has started since."""
        family = [pid]
        while family:
            one = family.pop()
            for folder in self.folders:
                with contextlib.suppress(ProcessLookupError):
                    (folder / "cgroup.procs").write_text(str(one))
            family += processes.children_of(one)
        self._set_rlimits(pid)

    def _set_rlimits(self, pid: int) -> None:
        limits, held = self._limits, self.enforced
        if limits.open_files is not None:
            held["open_files"] = _rlimit(pid, resource.RLIMIT_NOFILE, limits.open_files)
        if limits.memory_mb is not None and not held.get("memory", "").startswith("cgroup"):
            why = held.get("memory", "")
            got = _rlimit(pid, resource.RLIMIT_DATA, limits.memory_mb * 2**20)
            held["memory"] = got if got == "rlimit" else why or got


class Groups:
    """Where this daemon may make groups."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._groups = control_groups.Groups(PREFIX, proc)

    def make(self, name: str, limits: Limits) -> Group:
        """A group for a process to come; it holds what can be held here."""
        made = self._groups.make(name, limits)
        return Group(limits, made.held_by, made.enforced)

    def homes(self) -> set[Path]:
        """The folders in which groups can be made."""
        return {folder for folder, _ in self._groups.find().values()}

    def remove_stale(self) -> int:
        """End what daemons that are gone left in groups; how many groups there were."""
        return self._groups.remove_stale()


def _rlimit(pid: int, which: int, value: int) -> str:
    if not hasattr(resource, "prlimit"):
        return "not enforced (this system cannot limit another process)"
    try:
        resource.prlimit(pid, which, (value, value))
    except (OSError, ValueError) as error:
        return f"not enforced (setrlimit: {error})"
    return "rlimit"
