"""Which processes keep this suite alive: the daemon, and what it started and marks as its own.

A command that `shell_exec` runs is no such process: its environment is scrubbed of the mark. Read
from `/proc`; where there is none, only the pids that are known anyway are told apart. The names are
those that the supervisor writes (`hostwright/keeper/processes.py`, `pidfile.py`); a server does not
import it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from hostwright_system.host.procfs import Proc, read_file

MARK = b"HOSTWRIGHT_CHILD="
PID_FILE = "daemon.pid"
_MAX_ENVIRONMENT_BYTES = 4 << 20


class SuiteProcesses:
    """Asked just before a signal is sent; remembers nothing."""

    def __init__(
        self, runtime_dir: Path, known: Collection[int] = (), *, proc: Proc | None = None
    ) -> None:
        """`known`: pids that are the suite's whatever `/proc` says (the parent of this server)."""
        self._pid_file = runtime_dir / PID_FILE
        self._known = frozenset(known)
        self._proc = proc or Proc()

    def why(self, pid: int) -> str | None:
        """What this process is to the suite, or None when it is nothing to it."""
        if pid in self._known:
            return "it belongs to the supervisor of this server"
        if pid == self._daemon():
            return "it is the supervisor"
        stat = self._proc.stat(pid)
        if stat is not None and stat.ppid == os.getpid():
            # A warden: without it a command could leave behind what it started.
            return "it holds a command of shell_exec or shell_start together (use job_cancel)"
        if self._marked(pid):
            return "the supervisor started it and looks after it"
        return None

    def _daemon(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        # A daemon that was killed leaves the number behind, and it may be another process's now.
        arguments = self._proc.arguments(pid) or []
        return pid if any("hostwright" in argument for argument in arguments) else None

    def _marked(self, pid: int) -> bool:
        try:
            environment = read_file(
                f"{self._proc.root}/{pid}/environ", limit=_MAX_ENVIRONMENT_BYTES
            )
        except OSError:
            return False  # ended, or another user's, whom only root could signal
        return any(entry.startswith(MARK) for entry in environment.split(b"\0"))
