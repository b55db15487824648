"""Reading `/proc` without a library in between, for what is read for every process at once.

psutil opens several files per process and takes more than ten times as long for a plain listing,
so listings come from here and everything else from psutil. Formats: proc(5), proc_pid_stat(5),
proc_pid_cgroup(5), cgroups(7).

The root is a parameter so that odd content can be tested. A process that ends while it is read is
no error: the readers return None for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

PF_KTHREAD = 0x00200000  # include/linux/sched.h; field 9 of stat
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CHUNK = 1 << 16


def read_file(path: str, *, limit: int = 1 << 20, dir_fd: int | None = None) -> bytes:
    """The first `limit` bytes of a file. Files in /proc have no size, so it reads to the end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        data = os.read(fd, min(limit, _CHUNK))
        if not data:
            return data
        parts, size = [data], len(data)
        while size < limit:
            data = os.read(fd, min(limit - size, _CHUNK))
            if not data:
                break
            parts.append(data)
            size += len(data)
        return b"".join(parts)
    finally:
        os.close(fd)


def text(data: bytes) -> str:
    """Bytes from the kernel as text that is always valid UTF-8 (names and arguments are bytes)."""
    return data.decode("utf-8", "backslashreplace")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are used here, in the kernel's own units."""

    pid: int
    name: str
    state: str
    ppid: int
    flags: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    rss_pages: int

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)


def parse_stat(data: bytes) -> Stat:
    """One line of /proc/PID/stat. The name stands in parentheses and may itself hold spaces,
    parentheses and line breaks, so the *last* closing one ends it. ValueError if malformed."""
    left, right = data.index(b"("), data.rindex(b")")
    fields = data[right + 2 :].split()
    if right < left or len(fields) < 22:
        raise ValueError("not a /proc/PID/stat line")
    return Stat(
        pid=int(data[:left]),
        name=text(data[left + 1 : right]),
        state=text(fields[0]),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        rss_pages=int(fields[21]),
    )


class Container(NamedTuple):
    """A container as its cgroup names it; `id` is the runtime's own identifier."""

    runtime: str
    id: str


class CgroupPlace(NamedTuple):
    """Where a process stands: systemd unit, unit of the user's own manager, container."""

    unit: str | None
    user_unit: str | None
    container: Container | None


def parse_cgroup(data: bytes) -> CgroupPlace:
    """What /proc/PID/cgroup says. systemd owns the unified hierarchy (`0::`) or, on v1, the one
    named `name=systemd`; in hybrid set-ups both exist and agree."""
    paths: dict[str, str] = {}
    for line in text(data).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy.isdigit() and path.startswith("/"):
            paths[controllers] = path
    unit = user_unit = None
    for controllers in ("name=systemd", ""):
        if controllers in paths and unit is None:
            unit, user_unit = _units(paths[controllers])
    container = next((found for p in paths.values() if (found := _container(p))), None)
    return CgroupPlace(unit, user_unit, container)


def _units(path: str) -> tuple[str | None, str | None]:
    """Slices lead to the unit; the first component that is none is the unit. Below a user's
    manager (`user@UID.service`) the same walk starts again for the user's own unit."""
    parts = [p.removeprefix("_") for p in path.split("/") if p]
    unit, rest = _first_unit(parts)
    user_unit = None
    if unit is not None and unit.startswith("user@"):
        user_unit, _ = _first_unit(rest)
    return unit, user_unit


def _first_unit(parts: list[str]) -> tuple[str | None, list[str]]:
    for index, part in enumerate(parts):
        if part.endswith(".slice"):
            continue
        if part.endswith((".service", ".scope", ".socket", ".mount", ".swap")):
            return part, parts[index + 1 :]
        return None, []
    return None, []


# A scope or folder name of each runtime, and what stands before the identifier in it.
_SCOPE_PREFIXES = {
    "docker-": "docker",
    "cri-containerd-": "containerd",
    "crio-": "cri-o",
    "libpod-": "podman",
    "nerdctl-": "containerd",
}
_PARENT_FOLDERS = {"docker": "docker", "libpod_parent": "podman", "lxc": "lxc"}


def _container(path: str) -> Container | None:
    parts = [p for p in path.split("/") if p]
    in_kubernetes = any(p.startswith("kubepods") for p in parts)
    for parent, part in zip(["", *parts], parts, strict=False):
        if part.startswith("lxc.payload."):
            return Container("lxc", part.removeprefix("lxc.payload."))
        if part.startswith("machine-") and part.endswith(".scope"):
            name = part.removeprefix("machine-").removesuffix(".scope")
            return Container("machined", name.replace("\\x2d", "-"))
        bare = part.removesuffix(".scope")
        for prefix, runtime in _SCOPE_PREFIXES.items():
            if bare.startswith(prefix) and _is_id(bare.removeprefix(prefix)):
                return Container(runtime, bare.removeprefix(prefix))
        if parent == "lxc" or (parent in _PARENT_FOLDERS and _is_id(part)):
            return Container(_PARENT_FOLDERS[parent], part)
        if in_kubernetes and _is_id(part):
            return Container("kubernetes", part)
    return None


def _is_id(value: str) -> bool:
    """Runtimes name containers by 64 hexadecimal digits; nothing shorter is taken for one."""
    return len(value) == 64 and all(c in "0123456789abcdef" for c in value)


class Proc:
    """A /proc. `started_at` needs no file: it compares the clock since boot with the wall clock."""

    def __init__(self, root: str = "/proc") -> None:
        self.root = root

    def pids(self) -> list[int]:
        with os.scandir(self.root) as entries:
            return sorted(int(e.name) for e in entries if e.name.isdecimal())

    def stat(self, pid: int) -> Stat | None:
        try:
            return parse_stat(read_file(f"{self.root}/{pid}/stat", limit=8192))
        except (OSError, ValueError):
            return None

    def stats(self) -> Iterator[Stat]:
        for pid in self.pids():
            stat = self.stat(pid)
            if stat is not None:
                yield stat

    def arguments(self, pid: int, *, limit: int = 1 << 16) -> list[str] | None:
        """The process's argument list, empty for a kernel thread. Programs that write a title
        over it (nginx, postgres) give one argument with spaces; that is what the kernel holds."""
        try:
            data = read_file(f"{self.root}/{pid}/cmdline", limit=limit)
        except OSError:
            return None
        if not data:
            return []
        return [text(part) for part in data.removesuffix(b"\0").split(b"\0")]

    def executable(self, pid: int) -> str | None:
        """The real path of the program; None for a kernel thread or without permission. The
        kernel appends ` (deleted)` when the file was replaced (as an update does)."""
        try:
            path = os.readlink(f"{self.root}/{pid}/exe")  # noqa: PTH115 - hot loop, a str is wanted
        except OSError:
            return None
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def place(self, pid: int) -> CgroupPlace:
        try:
            return parse_cgroup(read_file(f"{self.root}/{pid}/cgroup", limit=1 << 16))
        except OSError:
            return CgroupPlace(None, None, None)

    def effective_uid(self, pid: int) -> int | None:
        """From `status`, not from the folder's owner: that is root for undumpable processes."""
        try:
            data = read_file(f"{self.root}/{pid}/status", limit=8192)
        except OSError:
            return None
        for line in data.splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[2])
        return None

    def namespace(self, pid: int | str, kind: str) -> int | None:
        """The inode that identifies a process's namespace (`net`, `pid`), or None if hidden."""
        try:
            link = os.readlink(f"{self.root}/{pid}/ns/{kind}")  # noqa: PTH115 - hot loop
        except OSError:
            return None
        number = link.partition("[")[2].removesuffix("]")
        return int(number) if number.isdecimal() else None


def epoch_of_start(start_ticks: int) -> float:
    """Wall-clock time at which a process with this start field began."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + start_ticks / CLOCK_TICKS
