"""Limits of a process and its descendants by control groups, where they can be had.

cgroups v2 where our own group lends us controllers (a delegated systemd unit, a container), v1 for
the controllers that this machine still has there. `Group.enforced` says for each limit which it
is, or why it is none of them; nothing is claimed that was not accepted by the kernel.

Groups are named `PREFIX-PID-START-NAME` inside our own; PID and START tell the process that made
one, so that a later one knows what is stale. Blocking functions, for a thread. cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DAEMON_LEAF = "hostwright-daemon"
PERIOD_US = 100_000
END_SECONDS = 5.0
LOOK_SECONDS = 0.005
CONTROLLERS: Mapping[str, str] = {"memory_mb": "memory", "cpu_percent": "cpu", "processes": "pids"}
"""The controller that holds each limit; open files have none."""
SHOWN = {"memory_mb": "memory", "cpu_percent": "cpu", "processes": "processes"}


class Group:
    """What holds one family of processes. `enforced`: which limit is held by what, or why not."""

    def __init__(self, folders: Mapping[Path, int], enforced: Mapping[str, str] = {}) -> None:
        self._folders = dict(folders)
        self.enforced = dict(enforced)

    @property
    def held_by(self) -> Mapping[Path, int]:
        """Its folders, each with the version of its hierarchy."""
        return self._folders

    @property
    def folders(self) -> tuple[Path, ...]:
        """Whoever writes itself into `cgroup.procs` of each of them is in the group."""
        return tuple(self._folders)

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


class Groups:
    """Where this process may make groups. Found once, when the first limit is asked for."""

    def __init__(self, prefix: str, proc: Path = Path("/proc")) -> None:
        self._prefix = prefix
        self._proc = proc
        self._homes: dict[str, tuple[Path, int]] | None = None
        self._why = ""

    def make(self, name: str, limits: Any) -> Group:
        """A group for a process to come; it holds what can be held here.

        `limits` has the attributes that `CONTROLLERS` names; None is no limit.
        """
        homes = self.find()
        mine = f"{self._prefix}{os.getpid()}-{_ticks(os.getpid())}-{name}"
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
        return Group(folders, enforced)

    def remove_stale(self) -> int:
        """End what makers that are gone left in groups; how many groups there were."""
        removed = 0
        homes = {home for home, _ in _own_folders(self._proc).values()}
        for home in {folder.parent if folder.name == DAEMON_LEAF else folder for folder in homes}:
            for folder in home.glob(f"{self._prefix}*-*-*"):
                pid, ticks, _ = folder.name.removeprefix(self._prefix).split("-", 2)
                if pid.isdecimal() and str(_ticks(int(pid))) != ticks:
                    version = 2 if (folder / "cgroup.events").exists() else 1
                    Group({folder: version}).end()
                    removed += 1
        return removed

    def find(self) -> Mapping[str, tuple[Path, int]]:
        """Controller → the folder to make groups in, and its version."""
        if self._homes is None:
            own = _own_folders(self._proc)
            self._homes = {}
            why: list[str] = [] if own else ["this system has no control groups"]
            for controller in CONTROLLERS.values():
                folder, version = own.get(controller, (None, 0))
                if folder is None:
                    why.append(f"no group of ours has the controller {controller}")
                    continue
                try:
                    home = _lend(folder, controller) if version == 2 else folder
                    self._try(home)
                except OSError as error:
                    why.append(f"{folder} is not delegated to us: {error.strerror}")
                else:
                    self._homes[controller] = (home, version)
            self._why = why[0] if why else ""
        return self._homes

    def _try(self, home: Path) -> None:
        probe = home / f"{self._prefix}{os.getpid()}-{_ticks(os.getpid())}-"
        probe.mkdir(exist_ok=True)
        probe.rmdir()


def _own_folders(proc: Path) -> dict[str, tuple[Path, int]]:
    """Controller → our own group that has it, and of which version."""
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
    """Make a v2 group pass its controller on; this process steps aside if it must."""
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


def _kill(folder: Path, version: int) -> None:
    if version == 2 and (folder / "cgroup.kill").exists():
        with contextlib.suppress(OSError):
            (folder / "cgroup.kill").write_text("1")
        return
    for pid in _pids(folder):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                # Still a member: so it is not another process that got the number meanwhile.
                if pid in _pids(folder):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def _pids(folder: Path) -> set[int]:
    try:
        found = {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
    return {pid for pid in found if (stat := _stat(pid)) and stat[0] not in (b"Z", b"X")}


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _ticks(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[19]) if stat else None


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third on (proc_pid_stat(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses and spaces too.
    return stat[stat.rindex(b")") + 2 :].split()
