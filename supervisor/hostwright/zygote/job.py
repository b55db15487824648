"""What one forked server needs to know, as it travels from the daemon to the child.

It travels in a file without a name (memfd_create(2)) whose descriptor the zygote passes on unread:
the environment may hold secrets, and what the zygote has once read, every later child would carry.
Standard library only: both sides read it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

STALE = "stale"
"""How a refusal begins when what the zygote loaded is not what is installed any more."""
Kind = Literal["entry_point", "file"]


@dataclass(frozen=True)
class Job:
    """One server to be."""

    name: str
    kind: Kind
    target: str
    """The entry point's name, or `FILE:OBJECT`."""
    mark: str
    daemon: int
    """Whose death is the server's."""
    env: dict[str, str] = field(repr=False)
    cwd: str | None
    numbers: tuple[int, ...]
    """Which descriptors the passed ones shall be: 0, 1, 2, then the daemon's own numbers."""
    rlimits: dict[str, tuple[int, int]]
    cgroup: str | None

    def to_file(self) -> int:
        """A descriptor from which `from_file` reads it."""
        handle = os.memfd_create("hostwright-job", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(handle), "wb") as file:
            # ASCII escapes carry what an environment may hold beside UTF-8 (surrogateescape).
            file.write(json.dumps(asdict(self)).encode())
        return handle

    @staticmethod
    def from_file(handle: int) -> Job:
        """Read it whole, wherever the descriptor stands."""
        fields = json.loads(os.pread(handle, os.fstat(handle).st_size, 0))
        fields["numbers"] = tuple(fields["numbers"])
        fields["rlimits"] = {name: (soft, hard) for name, (soft, hard) in fields["rlimits"].items()}
        return Job(**fields)

    def enter_cgroup(self) -> None:
        """Move the calling process into its control group, if it has one."""
        if self.cgroup is not None:
            Path(self.cgroup, "cgroup.procs").write_text("0")
