"""`hostwright up`, begun early: what takes long is under way while this process still imports.

Interpreters that start one after the other are most of what a start takes. So the daemon's is
begun as soon as it is clear that it is wanted and that none runs, and the daemon begins its zygote
in the same way; what shows it comes after. A program that waits for the one JSON document needs
nothing else of ours, and takes no processor time from those that start. Few imports, therefore.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hostwright.keeper.pidfile import daemon_pid
from hostwright.zygote import early
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

# What cannot be wrong usage.
PLAIN = (["up", "--detach"], ["up", "--detach", "--json"])
HERE = (["up"], ["up", "--json"])


class Begun(NamedTuple):
    """A daemon on its way."""

    process: subprocess.Popen[bytes]
    log: Path
    offset: int
    """Where in its log this start begins."""


_begun: list[Begun] = []


def begin_early(words: list[str]) -> None:
    """Begin now if that is what the command line says; whatever is wrong is told later."""
    if words not in PLAIN and words not in HERE:
        return
    with contextlib.suppress(HostError, OSError):
        if daemon_pid(resolve_paths().ensure().runtime_dir) is not None:
            return
        if words in HERE:
            early.begin()
            return
        started = _start()
        _begun.append(started)
        if "--json" not in words:
            return
        # What asks over HTTP takes as long to import as all of this; the daemon is on its way now.
        from hostwright.cli.settling import settled

        if (state := settled(started.process)) is not None:
            _print(state)
            # Nothing of ours is open, and the interpreter's own end takes as long as it asked.
            os._exit(0)


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


def _print(state: dict[str, Any]) -> None:
    # Escaped beyond need, so that no character can do anything to a terminal.
    text = json.dumps(state, indent=2).replace("\x7f", "\\u007f")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
