"""From what a run may have to what bwrap(1) is told. Pure: makes lists of arguments.

The order of bwrap's arguments is the order of its mounts. Nothing is inherited: no capability, no
namespace, no variable, no file that is not listed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostwright_guard.sandbox.capabilities import Limits
from hostwright_guard.sandbox.gate.answers import GATE_ADDRESS
from hostwright_guard.sandbox.places import BASE, Places
from hostwright_guard.sandbox.skeleton import HOSTS, NOBODY
from hostwright_guard.sandbox.warden import kernel
from hostwright_guard.sandbox.warden.life import FILTER, FIRST_DATA

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECRETS = "/run/secrets"
SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own, in memory
# The kernel's own tables, which tell about the whole machine: those that everybody may read, and
# those that only root may. A sandbox of root's has root's number.
MASKED = ("/proc/kallsyms", "/proc/keys", "/proc/sched_debug", "/proc/latency_stats")
MASKED_FOR_ROOT = (
    *MASKED,
    *("/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup"),
    *("/proc/slabinfo", "/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/iomem"),
    *("/proc/ioports", "/proc/timer_list", "/proc/config.gz"),
)


@dataclass(frozen=True)
class Plan:
    """bwrap's arguments, the contents of the files that it is given, and the second layer."""

    arguments: tuple[str, ...]
    data: tuple[bytes, ...]
    binds: tuple[str, ...]
    rights: Mapping[str, int]
    masks: tuple[str, ...]
    """Files that the warden covers: bwrap takes ten times as long for each."""


def make_plan(
    places: Places,
    limits: Limits,
    *,
    cwd: str,
    secret_files: Mapping[str, bytes],
    names: Sequence[str] | None,
    etc: Path,
    as_root: bool,
    instead: Mapping[str, str] = {},
    root: Path = Path("/"),
) -> Plan:
    """`etc`: the skeleton. `names`: what /etc/hosts lists of the network; None: there is none.
    `instead`: what is shown in the place of a declared folder (an overlay of it).

    Looks at `root` only to see which folders the system has.
    """
    arguments: list[str] = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--seccomp", str(FILTER)),
    ]
    data: list[bytes] = []
    # Everything that is visible may be listed.
    rights: dict[str, int] = {"/": kernel.READ_DIR}

    def give_file(path: str, content: bytes, mode: str) -> None:
        arguments.extend(("--perms", mode, "--ro-bind-data", str(FIRST_DATA + len(data)), path))
        data.append(content)

    _base(root, arguments, rights)
    arguments += ("--ro-bind", str(etc), "/etc")
    if names:
        hosts = HOSTS + "".join(f"{GATE_ADDRESS} {name}\n" for name in names)
        give_file("/etc/hosts", hosts.encode(), "0444")
    rights["/etc"] = kernel.READ
    size = str(limits.scratch_mb * 2**20)
    arguments += ("--proc", "/proc", "--dev", "/dev")
    # bwrap's own is as large as half of the memory.
    arguments += ("--perms", "1777", "--size", size, "--tmpfs", "/dev/shm")  # noqa: S108
    arguments += ("--perms", "1777", "--size", size, "--tmpfs", SCRATCH)
    rights |= {
        "/proc": kernel.READ_FILE | kernel.READ_DIR,
        "/dev": kernel.DEVICES,
        "/dev/shm": kernel.WRITE,  # noqa: S108
        SCRATCH: kernel.WRITE,
    }
    if secret_files:
        arguments += ("--perms", "0700", "--dir", SECRETS)
        rights[SECRETS] = kernel.READ_FILE | kernel.READ_DIR
        for name, content in secret_files.items():
            give_file(f"{SECRETS}/{name}", content, "0400")
    for place in places.places:
        source = instead.get(place.path, place.path)
        arguments += ("--bind" if place.writable else "--ro-bind", source, place.path)
        rights[place.path] = kernel.READ | (kernel.WRITE if place.writable else 0)
    # An overlay keeps the folder itself as it is.
    for path in () if instead else places.pinned:
        # A mount on itself: who is inside cannot rename it.
        arguments += ("--bind", path, path)
    for path in places.hidden_folders:
        arguments += ("--perms", "0000", "--tmpfs", path, "--remount-ro", path)
    for path in places.hidden_files:
        give_file(path, b"", "0000")
    arguments += ("--remount-ro", "/", "--chdir", cwd)
    return Plan(
        tuple(arguments),
        tuple(data),
        tuple(place.path for place in places.places),
        rights,
        MASKED_FOR_ROOT if as_root else MASKED,
    )


def _base(root: Path, arguments: list[str], rights: dict[str, int]) -> None:
    """The system's programs and libraries, as they are laid out here."""
    for path in BASE:
        here = root / path.lstrip("/")
        if here.is_symlink():
            arguments += ("--symlink", str(here.readlink()), path)
        elif here.is_dir():
            arguments += ("--ro-bind", path, path)
            rights[path] = kernel.READ


def rlimits(limits: Limits, held: Mapping[str, str]) -> dict[int, tuple[int, int]]:
    """setrlimit(2) of each process; also for what no control group holds."""
    import resource  # noqa: PLC0415 - not there on every system that may import this

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_mb * 2**20,
        resource.RLIMIT_MEMLOCK: 64 * 1024,
    }
    if limits.cpu_seconds is not None:
        wanted[resource.RLIMIT_CPU] = limits.cpu_seconds
    if not held.get("memory", "").startswith("cgroup"):
        wanted[resource.RLIMIT_DATA] = limits.memory_mb * 2**20
    if not held.get("processes", "").startswith("cgroup"):
        wanted[resource.RLIMIT_NPROC] = limits.processes
    return {number: (value, value) for number, value in wanted.items()}


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """All that a command has: nothing is inherited."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        **given,
    }
