"""What this machine can hold a command with, and what to do where it cannot.

There is no fall-back: where something is missing, nothing is run, and the answer names the fix.
Looks at the system, and starts nothing but `bwrap --version`.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, Field

from hostwright_guard.sandbox.seccomp import ARCHITECTURES
from hostwright_guard.sandbox.warden import kernel
from hostwright_kit.errors import HostError

MIN_BWRAP = (0, 8)


class Machine(BaseModel, frozen=True):
    """What there is. `problem` is None where sandboxes can be had."""

    system: str = Field(description="Operating system and processor.")
    bwrap: str | None = Field(default=None, description="Path of bubblewrap.")
    bwrap_version: str | None = None
    landlock: int = Field(default=0, description="The kernel's Landlock version; 0: none.")
    problem: str | None = Field(default=None, description="Why nothing can be run.")
    fix: str | None = None

    def require(self) -> str:
        """The path of bwrap; raises `HostError` where nothing can be run."""
        if self.problem or self.bwrap is None:
            raise HostError(
                f"No sandbox can be had here: {self.problem}",
                fix=self.fix or "Use another machine.",
                code="sandbox_unavailable",
            )
        return self.bwrap


@functools.cache
def machine() -> Machine:
    """Look, once. Blocking."""
    system = f"{sys.platform} {platform.machine()}"
    if not sys.platform.startswith("linux"):
        return Machine(
            system=system,
            problem=f"there is no sandbox for {sys.platform}; it needs Linux.",
            fix="Run the server on Linux, or in a Linux virtual machine.",
        )
    if platform.machine() not in ARCHITECTURES:
        return Machine(
            system=system,
            problem=f"there is no system call filter for {platform.machine()}.",
            fix=f"Use {' or '.join(ARCHITECTURES)}.",
        )
    return _linux(system)


def _linux(system: str) -> Machine:
    found = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if found is None:
        return Machine(
            system=system,
            problem="bubblewrap is not installed.",
            fix="apt-get install bubblewrap (or dnf, pacman, apk: the package is called the same).",
        )
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    text = version.stdout.split()[-1] if version.stdout.split() else "0"
    landlock = kernel.landlock_version()
    common = {"system": system, "bwrap": found, "bwrap_version": text, "landlock": landlock}
    if _numbers(text) < MIN_BWRAP:
        return Machine.model_validate(
            {
                **common,
                "problem": f"bubblewrap {text} is too old.",
                "fix": "Install 0.8 or newer: it can forbid further user namespaces.",
            }
        )
    if Path(found).stat().st_mode & 0o4000:
        return Machine.model_validate(
            {
                **common,
                "problem": f"{found} is set-user-ID root, and then takes no namespace options.",
                "fix": f"chmod u-s {found}, and allow user namespaces.",
            }
        )
    if landlock < 1:
        return Machine.model_validate(
            {
                **common,
                "problem": "this kernel has no Landlock.",
                "fix": "Use Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in "
                "the kernel's lsm= list.",
            }
        )
    return Machine.model_validate(common)


def explain(stderr: str) -> str:
    """What to do about bwrap's complaint."""
    text = stderr.lower()
    if "user namespace" in text or "uid map" in text or "no permissions" in text:
        return (
            "Allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), "
            "user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0 "
            "(Ubuntu); in a container, its seccomp profile must allow unshare and mount."
        )
    if "loopback" in text or "netns" in text:
        return "Allow network namespaces: user.max_net_namespaces above 0."
    if "mount" in text or "remount" in text:
        return (
            "In a container, /proc must not be masked (for Docker: --security-opt "
            "systempaths=unconfined)."
        )
    return "Run `hostwright-guard --check`; it starts a command in a sandbox and says what fails."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
