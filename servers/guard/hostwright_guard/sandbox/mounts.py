"""Where the kernel's own file systems are mounted on this machine, beside their usual places.

A chroot, a container's root or a build root often has a /proc and a /sys of its own, which are the
machine's. A folder that is declared would show them, and for a server of root's they would be open
to writing: whatever checks capabilities inside, these ask for the user. proc_pid_mountinfo(5).
Reads only.
"""

from __future__ import annotations

import re
from pathlib import Path

KERNEL_FILE_SYSTEMS = frozenset(
    (
        "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs",
        "securityfs", "configfs", "bpf", "efivarfs", "pstore", "fusectl", "binfmt_misc", "mqueue",
        "hugetlbfs", "selinuxfs", "smackfs", "nsfs", "rpc_pipefs", "nfsd", "resctrl",
    )
)  # fmt: skip
_ESCAPED = re.compile(r"\\([0-7]{3})")


def kernel_mounts(mountinfo: bytes | None = None) -> tuple[str, ...]:
    """The places of all mounts that show the kernel's own files. Blocking."""
    data = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_bytes()
    found: dict[str, None] = {}
    # One character per byte, until the escapes are gone.
    for line in data.decode("latin-1").split("\n")[:-1]:
        fields = line.split(" ")
        # Optional fields end with "-", then comes the type.
        kind = fields[fields.index("-") + 1]
        if kind in KERNEL_FILE_SYSTEMS:
            place = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
            found[place.encode("latin-1").decode("utf-8", "surrogateescape")] = None
    return tuple(found)
