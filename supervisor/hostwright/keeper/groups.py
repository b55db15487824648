"""Limits of a server and its descendants: control groups where they can be had, else rlimits.

cgroups v2 where the daemon's own group lends it controllers (a delegated systemd unit, a
container), v1 for the controllers that this machine still has there; setrlimit(2) of each process
for what no group holds. `Group.enforced` says for each limit which it is, or why it is none of
them; nothing is claimed that was not accepted by the kernel.

Groups are named `hostwright-server-PID-START-NAME` inside the daemon's own; PID and START tell the
daemon that made one, so that a later daemon knows what is stale. A group is joined from outside,
right after the process exists and long before the server's own code runs in a fresh interpreter;
descendants that were faster are brought in as well. Blocking functions, for a thread. cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostwright.keeper import processes
from hostwright.manifest_rules import Limits

PREFIX = "hostwright-server-"
DAEMON_LEAF = "hostwright-daemon"
PERIOD_US = 100_000
END_SECONDS = 5.0
LOOK_SECONDS = 0.005
CONTROLLERS: Mapping[str, str] = {"memory_mb": "memory", "cpu_percent": "cpu", "processes": "pids"}
"""The controller that holds each limit; open files have none."""
SHOWN = {"memory_mb": "memory", "cpu_percent": "cpu", "processes": "processes"}


class Group:
    """What holds one run of a server."""

    def __init__(self, limits: Limits, folders: Mapping[Path, int]) -> None:
        self._limits = limits
        self._folders = dict(folders)
        self.enforced: dict[str, str] = {}

    def join(self, pid: int) -> None:
        """Put a process that was just started under the limits, and what it has started since."""
        family = [pid]
        while family:
            one = family.pop()
            for folder in self._folders:
                with contextlib.suppress(ProcessLookupError):
                    (folder / "cgroup.procs").write_text(str(one))
            family += processes.children_of(one)
        self._set_rlimits(pid)

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        for folder, version in self._folders.items():
            file = folder / ("memory.events" if version == 2 else "memory.oom_control")
            with contextlib.suppress(OSError):
                for line in file.read_text().splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill" and int(count) > 0:
                        return True
        return False

    def end(self) -> tuple[int, ...]:
        """SIGKILL to whoever is still in it, then remove it; the pids that could not be ended."""
        deadline = time.monotonic() + END_SECONDS
        while True:
            left = self.members()
            if not left:
                self._folders = {f: v for f, v in self._folders.items() if not _removed(f)}
                if not self._folders:
                    return ()
            if time.monotonic() > deadline:
                return tuple(sorted(left))
            for folder, version in self._folders.items():
                _kill(folder, version)
            time.sleep(LOOK_SECONDS)

    def members(self) -> set[int]:
        """The processes in it; zombies are none."""
        return {pid for folder in self._folders for pid in _pids(folder)}

    def _set_rlimits(self, pid: int) -> None:
        limits, held = self._limits, self.enforced
        if limits.open_files is not None:
            held["open_files"] = _rlimit(pid, resource.RLIMIT_NOFILE, limits.open_files)
        if limits.memory_mb is not None and not held.get("memory", "").startswith("cgroup"):
            why = held.get("memory", "")
            got = _rlimit(pid, resource.RLIMIT_DATA, limits.memory_mb * 2**20)
            held["memory"] = got if got == "rlimit" else why or got


@dataclass
class Groups:
    """Where this daemon may make groups. Found once, when the first limit is asked for."""

    proc: Path = Path("/proc")
    _homes: dict[str, tuple[Path, int]] | None = field(default=None, init=False)
    _why: str = field(default="", init=False)

    def make(self, name: str, limits: Limits) -> Group:
        """A group for a process to come; it holds what can be held here."""
        homes = self._find()
        mine = f"{PREFIX}{os.getpid()}-{_ticks(os.getpid())}-{name}"
        folders: dict[Path, int] = {}
        enforced: dict[str, str] = {}
        for key, controller in CONTROLLERS.items():
            value = getattr(limits, key)
            if value is None:
                continue
            home, version = homes.get(controller, (None, 0))
            if home is None:
                enforced[SHOWN[key]] = f"not enforced ({self._why})"
                continue
            folder = home / mine
            try:
                folder.mkdir(exist_ok=True)
                folders[folder] = version
                _limit(folder, version, key, value)
            except OSError as error:
                enforced[SHOWN[key]] = f"not enforced ({folder}: {error.strerror})"
            else:
                enforced[SHOWN[key]] = f"cgroup{version}"
        group = Group(limits, folders)
        group.enforced = enforced
        return group

    def remove_stale(self) -> int:
        """End what daemons that are gone left in groups; how many groups there were."""
        removed = 0
        homes = {home for home, _ in _own_folders(self.proc).values()}
        for home in {folder.parent if folder.name == DAEMON_LEAF else folder for folder in homes}:
            for folder in home.glob(f"{PREFIX}*-*-*"):
                pid, ticks, _ = folder.name.removeprefix(PREFIX).split("-", 2)
                if pid.isdecimal() and str(_ticks(int(pid))) != ticks:
                    version = 2 if (folder / "cgroup.events").exists() else 1
                    Group(Limits(), {folder: version}).end()
                    removed += 1
        return removed

    def _find(self) -> Mapping[str, tuple[Path, int]]:
        if self._homes is None:
            own = _own_folders(self.proc)
            self._homes = {}
            why: list[str] = [] if own else ["this system has no control groups"]
            for controller in CONTROLLERS.values():
                folder, version = own.get(controller, (None, 0))
                if folder is None:
                    why.append(f"no group of ours has the controller {controller}")
                    continue
                try:
                    home = _lend(folder, controller) if version == 2 else folder
                    _try(home)
                except OSError as error:
                    why.append(f"{folder} is not delegated to us: {error.strerror}")
                else:
                    self._homes[controller] = (home, version)
            self._why = why[0] if why else ""
        return self._homes


def _own_folders(proc: Path) -> dict[str, tuple[Path, int]]:
    """Controller → the daemon's own group that has it, and of which version."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except OSError:
        return {}
    paths = {entry[1]: entry[2] for line in lines if len(entry := line.split(":", 2)) == 3}
    found: dict[str, tuple[Path, int]] = {}
    for line in mounts:
        fields = line.split()
        # proc_pid_mountinfo(5): optional fields end with "-", then type, source, options.
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        top, place = fields[3], Path(fields[4].encode().decode("unicode_escape"))
        if kind == "cgroup2" and (folder := _inside(place, top, paths.get("", "/.."))):
            with contextlib.suppress(OSError):
                for controller in (folder / "cgroup.controllers").read_text().split():
                    found.setdefault(controller, (folder, 2))
        elif kind == "cgroup":
            for names, path in paths.items():
                shared = set(names.split(",")) & set(options.split(","))
                if shared and (folder := _inside(place, top, path)):
                    found.update(dict.fromkeys(shared, (folder, 1)))
    return found


def _inside(place: Path, top: str, path: str) -> Path | None:
    """Where the group `path` is seen under a mount whose root is the group `top`."""
    if "/../" in f"{path}/" or not f"{path}/".startswith(f"{top.rstrip('/')}/"):
        return None
    return place / path[len(top.rstrip("/")) :].lstrip("/")


def _lend(own: Path, controller: str) -> Path:
    """Make a v2 group pass its controller on; the daemon itself steps aside if it must."""
    home = own.parent if own.name == DAEMON_LEAF else own
    control = home / "cgroup.subtree_control"
    if controller in control.read_text().split():
        return home
    try:
        control.write_text(f"+{controller}")
    except OSError as error:
        # A group with processes of its own may not pass controllers on (cgroups(7)). Ours may be
        # moved into a leaf; where others live beside us, it is not ours to arrange.
        if error.errno != errno.EBUSY or _pids(home) != {os.getpid()}:
            raise
        leaf = home / DAEMON_LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        control.write_text(f"+{controller}")
    return home


def _try(home: Path) -> None:
    probe = home / f"{PREFIX}{os.getpid()}-{_ticks(os.getpid())}-"
    probe.mkdir(exist_ok=True)
    probe.rmdir()


def _limit(folder: Path, version: int, key: str, value: float) -> None:
    if key == "memory_mb":
        text = str(int(value) * 2**20)
        if version == 1:
            (folder / "memory.limit_in_bytes").write_text(text)
            _where_there_is(folder / "memory.memsw.limit_in_bytes", text)
            return
        (folder / "memory.max").write_text(text)
        _where_there_is(folder / "memory.swap.max", "0")
        # All of it or nothing: a server without its helper is worse than a restarted one.
        _where_there_is(folder / "memory.oom.group", "1")
    elif key == "cpu_percent":
        quota = int(value * PERIOD_US / 100)
        if version == 1:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
    else:
        (folder / "pids.max").write_text(str(int(value)))


def _where_there_is(file: Path, text: str) -> None:
    if file.exists():
        file.write_text(text)


def _rlimit(pid: int, which: int, value: int) -> str:
    if not hasattr(resource, "prlimit"):
        return "not enforced (this system cannot limit another process)"
    try:
        resource.prlimit(pid, which, (value, value))
    except (OSError, ValueError) as error:
        return f"not enforced (setrlimit: {error})"
    return "rlimit"


def _kill(folder: Path, version: int) -> None:
    if version == 2 and (folder / "cgroup.kill").exists():
        with contextlib.suppress(OSError):
            (folder / "cgroup.kill").write_text("1")
        return
    for pid in _pids(folder):
        one = processes.identity(pid)
        # Still a member: so it is not another process that got the number meanwhile.
        if one and pid in _pids(folder):
            processes.send(one, signal.SIGKILL)


def _pids(folder: Path) -> set[int]:
    try:
        found = {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
    return {pid for pid in found if processes.runs(processes.identity(pid))}


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _ticks(pid: int) -> int | None:
    one = processes.identity(pid)
    return one.started if one else None
