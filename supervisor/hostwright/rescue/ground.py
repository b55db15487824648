"""What every check stands on: the folders, the environment, the time, what the daemon says."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostwright.keeper.pidfile import daemon_pid
from hostwright_kit.control_socket import ask_daemon
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths

ANSWER_SECONDS = 10.0
MAX_EVIDENCE_CHARS = 300


@dataclass
class Ground:
    """One installation as it is now. `daemon` is asked once, when it is first wanted."""

    paths: Paths
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: float = field(default_factory=time.time)
    _daemon: Daemon | None = None

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.paths.state_dir

    @property
    def config(self) -> Path:
        """The configuration folder."""
        return self.paths.config_dir

    @property
    def runtime(self) -> Path:
        """The folder of sockets and locks."""
        return self.paths.runtime_dir

    @property
    def daemon(self) -> Daemon:
        """Whether it runs, and what it says."""
        if self._daemon is None:
            self._daemon = _ask(self.runtime)
        return self._daemon

    def again(self) -> Ground:
        """The same, looked at anew."""
        return Ground(self.paths, self.environ)

    def named(self, path: Path) -> str:
        """A file's name in ids: by the folder that it is in."""
        for word, folder in (
            ("state", self.state),
            ("config", self.config),
            ("runtime", self.runtime),
        ):
            if path == folder:
                return word
            if path.is_relative_to(folder):
                return f"{word}/{path.relative_to(folder)}"
        return str(path)


@dataclass(frozen=True)
class Daemon:
    """The daemon of these folders."""

    pid: int | None
    """While it holds its lock."""
    status: dict[str, Any] | None
    silence: str = ""
    """Why it says nothing."""


def _ask(runtime_dir: Path) -> Daemon:
    try:
        pid = daemon_pid(runtime_dir)
    except OSError as error:
        return Daemon(None, None, f"{error.filename}: {error.strerror}")
    try:
        status = ask_daemon(runtime_dir, "GET", "/control/status", timeout_seconds=ANSWER_SECONDS)
    except HostError as error:
        return Daemon(pid, None, error.message)
    return Daemon(pid, status)


def clip(text: str) -> str:
    """One line of evidence, of bounded length and without secrets."""
    from hostwright_kit.redact import redact_text

    one = " ".join(text.split())
    return redact_text(one if len(one) <= MAX_EVIDENCE_CHARS else f"{one[:MAX_EVIDENCE_CHARS]}…")
