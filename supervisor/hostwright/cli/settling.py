"""Waiting for a daemon that was just begun, by asking it over its socket. Standard library only."""

from __future__ import annotations

import http.client
import subprocess
import time
from typing import Any

from hostwright.local_http import LocalConnection
from hostwright_kit.paths import resolve_paths

UNSETTLED = ("stopped", "starting")
START_SECONDS = 60.0
LOOK_SECONDS = 0.02
SOCKET = "gateway.sock"


def settled(daemon: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """How it is once every server has answered or failed once; None when it is not as it should be,
    which is told by those who can tell more."""
    connection = LocalConnection(resolve_paths().runtime_dir / SOCKET, START_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        try:
            states = connection.ask("GET", "/readyz")["servers"]
            if not any(state in UNSETTLED for state in states.values()):
                found = connection.ask("GET", "/control/status")
                return None if "error" in found else found
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            connection.close()
        time.sleep(LOOK_SECONDS)
    return None
