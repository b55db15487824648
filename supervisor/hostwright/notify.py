"""Telling systemd how the daemon is: ready, reloading, stopping, alive.

The protocol is sd_notify(3): datagrams of `KEY=value` lines to the socket that `NOTIFY_SOCKET`
names. Does nothing where there is no such socket. The watchdog's sign of life comes from the event
loop, so a loop that hangs gives none and systemd restarts the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""What systemd gives this process alone; no server inherits them."""


class Notifier:
    """What systemd is told; every method is cheap and raises nothing."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog(environ) if self._address else None

    def ready(self, status: str = "") -> None:
        """Every listener is open; also what ends `reloading`."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """The configuration is read again, or the program replaced; `ready` follows."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The end was asked for."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    async def keep_alive(self) -> None:
        """Signs of life, twice as often as they are due; returns at once where none are."""
        if self.watchdog_seconds is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("systemd could not be told %s: %s", lines[0], error)


def _address(named: str) -> str | None:
    if named.startswith("@"):
        return "\0" + named[1:]
    if named and not named.startswith("/"):
        logger.warning("NOTIFY_SOCKET=%s is of a kind that is not known here", named)
        return None
    return named or None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    meant = not pid or pid == str(os.getpid())
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() else None


def _line(text: str) -> str:
    """What is told is one line each: no text may add a line of its own."""
    return text.replace("\n", " ")
