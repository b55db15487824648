"""What kind of machine this is: operating system, container, virtual machine, cgroup limits.

`systemd-detect-virt` decides where it is installed, as it knows far more cases than are worth
repeating; without it the well-known marks are read (the container interface of systemd, the marker
files of Docker and Podman, cgroup names, DMI, the processor's hypervisor flag). Limits follow
cgroups(7): memory.max and cpu.max on v2, memory.limit_in_bytes and cpu.cfs_quota_us on v1, and the
tightest of all levels holds. Blocking; the answer that needs a program is kept.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, Field

from hostwright_system.host.disks import Mount, parse_mountinfo
from hostwright_system.host.procfs import Proc, read_file, text

DETECT_TIMEOUT_SECONDS = 2.0
# Limits above this are the kernel's way to say "none" on cgroup v1.
_NO_LIMIT_BYTES = 1 << 60

# First words of DMI sys_vendor, product_name or board_vendor → systemd's name of the hypervisor.
_DMI = (
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
)


class OperatingSystem(BaseModel, frozen=True):
    name: str = Field(description="As the system calls itself, such as Debian GNU/Linux 12.")
    id: str = Field(description="os-release's ID (debian, nixos, …) or the kernel's name.")
    version: str | None
    kernel: str
    kernel_release: str
    architecture: str
    hostname: str


class Virtualization(BaseModel, frozen=True):
    """Names are those of systemd-detect-virt(1); null means: none that could be recognised."""

    container: str | None
    virtual_machine: str | None
    evidence: tuple[str, ...] = Field(description="What each answer rests on.")


class CgroupLimits(BaseModel, frozen=True):
    """What this process's cgroup and those above it allow; null means: no limit set."""

    memory_limit_bytes: int | None
    memory_used_bytes: int | None = Field(description="Of the group whose limit is told.")
    cpu_limit_cores: float | None


def operating_system() -> OperatingSystem:
    """Names and versions; os-release(5) on Linux."""
    release: dict[str, str] = {}
    try:
        release = platform.freedesktop_os_release()
    except (OSError, UnicodeDecodeError):  # absent or unreadable: the kernel's name must do
        if sys.platform == "darwin":
            release = {"NAME": "macOS", "VERSION_ID": platform.mac_ver()[0]}
    kernel = platform.system()
    return OperatingSystem(
        name=release.get("PRETTY_NAME") or release.get("NAME") or kernel,
        id=release.get("ID") or kernel.lower(),
        version=release.get("VERSION_ID"),
        kernel=kernel,
        kernel_release=platform.release(),
        architecture=platform.machine(),
        hostname=socket.gethostname(),
    )


@lru_cache(maxsize=1)
def virtualization() -> Virtualization:
    """What this machine is, decided once: it does not change while the process lives."""
    if shutil.which("systemd-detect-virt"):
        answers = [_ask_systemd(option) for option in ("--container", "--vm")]
        if None not in answers:
            container, machine = (None if a == "none" else a for a in answers)
            return Virtualization(
                container=container,
                virtual_machine=machine,
                evidence=("systemd-detect-virt",),
            )
    return detect_virtualization(Path("/"))


def _ask_systemd(option: str) -> str | None:
    try:
        done = subprocess.run(
            ["systemd-detect-virt", option],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DETECT_TIMEOUT_SECONDS,
            check=False,  # "none" comes with exit code 1
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return text(done.stdout).strip() or None


def detect_virtualization(root: Path) -> Virtualization:
    """The same question answered from the marks under `root`."""
    container, container_mark = _container(root)
    machine, machine_mark = _virtual_machine(root)
    return Virtualization(
        container=container,
        virtual_machine=machine,
        evidence=tuple(mark for mark in (container_mark, machine_mark) if mark),
    )


def _container(root: Path) -> tuple[str | None, str]:
    named = _read(root / "run/systemd/container")
    if named:
        return named.split()[0], "/run/systemd/container"
    if "microsoft" in _read(root / "proc/sys/kernel/osrelease").lower():
        return "wsl", "/proc/sys/kernel/osrelease"
    for marker, name in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / marker).exists():
            return name, f"/{marker}"
    found = Proc(str(root / "proc")).place(1).container
    if found is not None:
        return found.runtime, "/proc/1/cgroup"
    return None, ""


def _virtual_machine(root: Path) -> tuple[str | None, str]:
    for name in ("sys_vendor", "product_name", "board_vendor", "bios_vendor"):
        value = _read(root / "sys/class/dmi/id" / name)
        for prefix, machine in _DMI:
            if value.startswith(prefix):
                return machine, f"/sys/class/dmi/id/{name}"
    hypervisor = _read(root / "sys/hypervisor/type")
    if hypervisor:
        return hypervisor, "/sys/hypervisor/type"
    for line in _read(root / "proc/cpuinfo", limit=1 << 16).splitlines():
        key, _, flags = line.partition(":")
        if key.strip() == "flags":
            if "hypervisor" in flags.split():
                return "vm-other", "/proc/cpuinfo"
            break
    return None, ""


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits | None:
    """The limits that hold for this process; None where there are no cgroups."""
    try:
        membership = text(read_file(str(root / "proc/self/cgroup")))
        mounts = list(parse_mountinfo(read_file(str(root / "proc/self/mountinfo"), limit=8 << 20)))
    except OSError:
        return None
    memory: list[tuple[int, int | None]] = []
    cpu: list[float] = []
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = frozenset(controllers.split(",")) - {""}
        for folder in _levels(root, mounts, names, path):
            memory += _memory_limit(folder)
            cpu += _cpu_limit(folder)
    limit, used = min(memory, key=lambda pair: pair[0], default=(None, None))
    return CgroupLimits(
        memory_limit_bytes=limit,
        memory_used_bytes=used,
        cpu_limit_cores=round(min(cpu), 3) if cpu else None,
    )


def _levels(root: Path, mounts: list[Mount], controllers: frozenset[str], path: str) -> list[Path]:
    """The group's folder and those above it, as far as they are mounted here."""
    for mount in mounts:
        if mount.file_system == "cgroup2":
            fits = not controllers
        else:
            fits = mount.file_system == "cgroup" and bool(controllers & mount.super_options)
        if not fits:
            continue
        top = root / mount.mount_point.lstrip("/")
        # In a container without a cgroup namespace the mount shows only the container's own part.
        inside = PurePosixPath(path)
        if inside.is_relative_to(mount.root):
            inside = inside.relative_to(mount.root)
        folder = top / str(inside).lstrip("/")
        if ".." in inside.parts or not folder.is_dir():
            return [top]
        return [folder, *(p for p in folder.parents if p == top or top in p.parents)]
    return []


def _memory_limit(folder: Path) -> list[tuple[int, int | None]]:
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for limit_name, used_name in names:
        limit = _read(folder / limit_name)
        if limit.isdecimal() and int(limit) < _NO_LIMIT_BYTES:
            used = _read(folder / used_name)
            return [(int(limit), int(used) if used.isdecimal() else None)]
    return []


def _cpu_limit(folder: Path) -> list[float]:
    quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return [int(quota) / int(period)]
    return []


def _read(file: Path, *, limit: int = 4096) -> str:
    try:
        return text(read_file(os.fspath(file), limit=limit)).strip()
    except OSError:
        return ""
