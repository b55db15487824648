"""Asking for the owner's PIN, on a terminal and nowhere else."""

from __future__ import annotations

import os
from getpass import getpass

from hostwright_kit.errors import HostError


def ask_pin(prompt: str) -> str:
    """From the terminal itself, never from stdin: a pipe is something an agent can hold."""
    try:
        return getpass(prompt, stream=None) if _has_terminal() else _no_terminal()
    except EOFError:
        return _no_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _no_terminal() -> str:
    raise HostError(
        "The PIN is asked on a terminal, and this process has none.",
        fix="Run the command in a terminal (ssh -t …).",
        code="no_terminal",
    )
