"""HTTP with the daemon over its unix socket, for those who must start fast: standard library."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class LocalConnection(http.client.HTTPConnection):
    """One connection."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("hostwright", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Open it."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """One request; the object that is the answer."""
        self.request(method, path)
        found: dict[str, Any] = json.loads(self.getresponse().read())
        return found


def exchange(socket_path: Path, method: str, path: str, seconds: float) -> dict[str, Any]:
    """One request on a connection of its own. Waits; not for the event loop's thread."""
    connection = LocalConnection(socket_path, seconds)
    try:
        return connection.ask(method, path)
    finally:
        connection.close()
