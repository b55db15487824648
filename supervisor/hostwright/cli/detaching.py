"""`hostwright up --detach`, begun early: the daemon boots while this process still imports.

Two interpreters that start one after the other are most of what a start takes. So the daemon's is
begun as soon as it is clear that it is wanted and that none runs; what shows it comes after.
Few imports, therefore.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hostwright.keeper.pidfile import daemon_pid
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

PLAIN = (["up", "--detach"], ["up", "--detach", "--json"])
"""What cannot be wrong usage."""


class Begun(NamedTuple):
    """A daemon on its way."""

    process: subprocess.Popen[bytes]
    log: Path
    offset: int
    """Where in its log this start begins."""


_begun: list[Begun] = []


def begin_early(words: list[str]) -> None:
    """Begin now if that is what the command line says; whatever is wrong is told later."""
    if words not in PLAIN:
        return
    with contextlib.suppress(HostError, OSError):
        if daemon_pid(resolve_paths().ensure().runtime_dir) is None:
            _begun.append(_start())


def begun() -> bool:
    """Whether the daemon that runs may be the one that was begun here."""
    return bool(_begun)


def begin() -> Begun:
    """The daemon that was begun early, or one that is begun now."""
    return _begun.pop() if _begun else _start()


def _start() -> Begun:
    folder = resolve_paths().state_dir / "logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    log = folder / "daemon.log"
    offset = log.stat().st_size if log.exists() else 0
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "hostwright", "up"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "NO_COLOR": "1"},
        )
    return Begun(process, log, offset)
