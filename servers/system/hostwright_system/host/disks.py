"""Mounted file systems with their space and inodes, without hanging on dead ones.

Mounts come from `/proc/self/mountinfo` (proc_pid_mountinfo(5)), which needs no contact with the
file system; sizes come from statvfs(3), which does. Local file systems answer at once; those that
somebody else answers for (network, FUSE) are asked side by side under one deadline. Automount
points are not asked at all: the question would mount them. Blocking, at most TIMEOUT_SECONDS.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import psutil
from pydantic import BaseModel, Field

from hostwright_system.host import table
from hostwright_system.host.bounded import BoundedCalls, Silent
from hostwright_system.host.procfs import read_file, text

TIMEOUT_SECONDS = 1.0
MAX_OTHER_MOUNTS = 20

StorageClass = Literal["local", "network", "fuse", "memory", "overlay"]

_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2"}
    | {"pvfs2", "smb3", "smbfs", "virtiofs"}
)
_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
# Types without a device that nevertheless keep data; every other one is an interface of the kernel.
_LOCAL_WITHOUT_DEVICE = frozenset({"zfs", "btrfs", "bcachefs", "ubifs", "jffs2", "vboxsf", "drvfs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device_number` (major:minor) is the same for bind mounts."""

    device_number: str
    root: str
    mount_point: str
    options: frozenset[str]
    file_system: str
    source: str
    super_options: frozenset[str]


class DiskRow(BaseModel, frozen=True, extra="forbid"):
    """One file system, shown at its shortest mount point."""

    mount_point: str
    device: str
    file_system: str
    storage: StorageClass
    read_only: bool
    status: Literal["ok", "not_answering", "error"]
    reason: str | None = Field(description="Why there are no sizes.")
    total_bytes: int | None
    used_bytes: int | None
    available_bytes: int | None = Field(description="To ordinary users, without the reserve.")
    used_percent: float | None = Field(description="used / (used + available), as df(1) shows.")
    inodes_total: int | None = Field(description="Null where inodes are not limited.")
    inodes_used: int | None
    inodes_used_percent: float | None
    other_mount_points: tuple[str, ...] = Field(description="Bind mounts, at most 20.")


TABLE: table.Table[DiskRow] = table.Table(
    kind="disks",
    fields=(
        table.Field("mount_point", "text"),
        table.Field("device", "text"),
        table.Field("file_system", "choice"),
        table.Field("storage", "choice"),
        table.Field("read_only", "flag"),
        table.Field("status", "choice"),
        table.Field("total_bytes", "number"),
        table.Field("used_bytes", "number"),
        table.Field("available_bytes", "number"),
        table.Field("used_percent", "number"),
        table.Field("inodes_total", "number"),
        table.Field("inodes_used", "number"),
        table.Field("inodes_used_percent", "number"),
    ),
    identity=lambda row: row.mount_point,
    default_sort="mount_point",
)

_calls: BoundedCalls[os.statvfs_result] = BoundedCalls()
_OCTAL = re.compile(rb"\\([0-7]{3})")


def parse_mountinfo(data: bytes) -> Iterator[Mount]:
    """The mounts in the order in which they were made; torn lines are passed over. Space, tab,
    line break and backslash stand as octal escapes."""
    # Not splitlines: the kernel escapes the line break alone, a name may hold any other.
    for line in data.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        first, second = left.split(b" "), right.split(b" ")
        if not separator or len(first) < 6 or len(second) < 3:
            continue
        yield Mount(
            device_number=text(first[2]),
            root=_unescape(first[3]),
            mount_point=_unescape(first[4]),
            options=frozenset(text(first[5]).split(",")),
            file_system=text(second[0]),
            source=_unescape(second[1]),
            super_options=frozenset(text(second[2]).split(",")),
        )


def _unescape(value: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda m: bytes([int(m.group(1), 8) & 0xFF]), value))


def storage_class(mount: Mount) -> StorageClass | None:
    """What stands behind a mount; None for the kernel's own interfaces (proc, cgroup, …)."""
    kind = mount.file_system
    if kind in _NETWORK:
        return "network"
    if kind in _MEMORY:
        return "memory"
    if kind == "overlay":
        return "overlay"
    if kind in ("fuse", "fuseblk") or (
        kind.startswith("fuse.") and kind not in ("fuse.portal", "fuse.lxcfs")
    ):
        return "fuse"
    major = mount.device_number.partition(":")[0]
    return "local" if kind in _LOCAL_WITHOUT_DEVICE or major != "0" else None


def read_mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of this process's namespace; of several on one point the last, which is on top."""
    visible = {m.mount_point: m for m in parse_mountinfo(read_file(path, limit=8 << 20))}
    return list(visible.values())


def disk_rows(*, with_memory: bool = True) -> tuple[list[DiskRow], list[str]]:
    """Every file system that keeps data, and notes. `with_memory` adds tmpfs and its like."""
    mounts = read_mounts() if sys.platform.startswith("linux") else list(_psutil_mounts())
    groups: dict[str, list[tuple[Mount, StorageClass]]] = {}
    for mount in mounts:
        storage = storage_class(mount)
        if storage is not None and (with_memory or storage != "memory"):
            groups.setdefault(mount.device_number, []).append((mount, storage))
    shown = [_shortest(group) for group in groups.values()]
    sizes = _sizes((mount, storage) for mount, storage, _ in shown)
    rows = [_row(m, storage, others, sizes[m.mount_point]) for m, storage, others in shown]
    return sorted(rows, key=lambda row: row.mount_point), []


def _shortest(
    group: list[tuple[Mount, StorageClass]],
) -> tuple[Mount, StorageClass, tuple[str, ...]]:
    # A mount of the file system's own root tells more than a bind of some folder or file in it.
    group.sort(key=lambda item: (item[0].root != "/", len(item[0].mount_point)))
    mount, storage = group[0]
    others = tuple(_printable(m.mount_point) for m, _ in group[1 : MAX_OTHER_MOUNTS + 1])
    return mount, storage, others


def _sizes(
    mounts: Iterable[tuple[Mount, StorageClass]],
) -> dict[str, os.statvfs_result | OSError | Silent]:
    answers: dict[str, os.statvfs_result | OSError | Silent] = {}
    remote: list[str] = []
    for mount, storage in mounts:
        if storage in ("network", "fuse"):
            remote.append(mount.mount_point)
            continue
        try:
            answers[mount.mount_point] = os.statvfs(mount.mount_point)
        except OSError as error:
            answers[mount.mount_point] = error
    questions = {point: lambda point=point: os.statvfs(point) for point in remote}
    return answers | _calls.run(questions, timeout_seconds=TIMEOUT_SECONDS)


def _row(
    mount: Mount,
    storage: StorageClass,
    others: tuple[str, ...],
    size: os.statvfs_result | OSError | Silent,
) -> DiskRow:
    status: Literal["ok", "not_answering", "error"] = "ok"
    reason = total = used = available = inodes = inodes_used = None
    if isinstance(size, Silent):
        status = "not_answering"
        reason = f"statvfs has not answered for {size.seconds:.1f} s; the server may be gone."
    elif isinstance(size, OSError):
        status, reason = "error", size.strerror or str(size)
    else:
        total = size.f_blocks * size.f_frsize
        used = (size.f_blocks - size.f_bfree) * size.f_frsize
        available = size.f_bavail * size.f_frsize
        if size.f_files:
            inodes, inodes_used = size.f_files, size.f_files - size.f_ffree
    return DiskRow(
        mount_point=_printable(mount.mount_point),
        device=_printable(mount.source),
        file_system=mount.file_system,
        storage=storage,
        read_only="ro" in mount.options or "ro" in mount.super_options,
        status=status,
        reason=reason,
        total_bytes=total,
        used_bytes=used,
        available_bytes=available,
        used_percent=_percent(used, None if used is None else used + (available or 0)),
        inodes_total=inodes,
        inodes_used=inodes_used,
        inodes_used_percent=_percent(inodes_used, inodes),
        other_mount_points=others,
    )


def _printable(path: str) -> str:
    """A path as valid UTF-8; bytes that are none are shown escaped."""
    return text(os.fsencode(path))


def _percent(part: int | None, whole: int | None) -> float | None:
    return round(part / whole * 100, 1) if part is not None and whole else None


def _psutil_mounts() -> Iterator[Mount]:
    for partition in psutil.disk_partitions(all=False):
        yield Mount(
            device_number=partition.device,
            root="/",
            mount_point=partition.mountpoint,
            options=frozenset(partition.opts.split(",")),
            file_system=partition.fstype,
            source=partition.device,
            super_options=frozenset(),
        )
