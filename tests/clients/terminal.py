"""The owner at a terminal: a program on a pseudo-terminal of its own, and answers to its prompts.

PINs are read from the controlling terminal and nowhere else, so a test that grants something needs
a real one. An answer is typed only when its prompt is on the screen: what is typed before is
thrown away by programs that ask for secrets.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

from .harness import Room, end_group

# The leader of a new session that opens a terminal gets it as its controlling terminal.
ON_TERMINAL = 'exec "$@" <>"$0" >&0 2>&1'


def at_terminal(room: Room, argv: Sequence[str], answers: Mapping[str, str]) -> str:
    """Run a program to its end, answering each prompt once; what was on the screen.

    Raises AssertionError when a prompt does not come or the program fails.
    """
    # Our copy of their end stays open: without any, reading fails before the program has begun.
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["/bin/sh", "-c", ON_TERMINAL, os.ttyname(theirs), *argv],
        env={**room.env, "COLUMNS": "200"},
        cwd=room.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    screen = b""
    unanswered = dict(answers)
    deadline = time.monotonic() + 30
    try:
        while (data := _read(ours)) or process.poll() is None:
            assert time.monotonic() < deadline, f"still running, on the screen: {screen!r}"
            screen += data
            for prompt in [p for p in unanswered if p.encode() in screen]:
                os.write(ours, unanswered.pop(prompt).encode() + b"\n")
    finally:
        end_group(process.pid)
        process.wait()
        os.close(ours)
        os.close(theirs)
    shown = screen.decode(errors="replace")
    assert process.returncode == 0, f"$ {' '.join(argv)}\nexit {process.returncode}\n{shown}"
    assert not unanswered, f"not asked: {list(unanswered)}\n{shown}"
    return shown


def _read(terminal: int) -> bytes:
    """What the program has written, or nothing after a short wait."""
    readable, _, _ = select.select([terminal], [], [], 0.05)
    return os.read(terminal, 4096) if readable else b""
