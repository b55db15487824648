"""Asking the daemon of this installation over its unix socket, with the standard library alone.

The socket is 0600 in a 0700 folder: whoever reaches it is the owner, or a server that the owner
runs. For those who must work where little else does (`hostwright rescue`, `hostwright panic`) and
for servers, which carry no HTTP client for one question. Blocking; one connection a question.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, cast

from hostwright_kit.errors import HostError

GATEWAY_SOCKET = "gateway.sock"
# Stopping waits for processes to end; nothing the daemon does takes longer.
TIMEOUT_SECONDS = 90.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class _Local(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("hostwright", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_daemon(
    runtime_dir: Path,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """The daemon's answer; its errors come back as they were.

    Raises `HostError` with the code `no_daemon` when there is none, `daemon_silent` when the one
    that is there does not answer.
    """
    connection = _Local(runtime_dir / GATEWAY_SOCKET, timeout_seconds)
    try:
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise HostError(
                "No daemon runs here.",
                fix="The owner starts it with `hostwright up --detach`.",
                code="no_daemon",
            ) from error
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer: Any = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HostError(
            f"The daemon did not answer ({type(error).__name__}).",
            fix="The owner sees how it is with `hostwright status` and `hostwright rescue`.",
            code="daemon_silent",
        ) from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise HostError("The daemon's answer is none.", fix="Restart it.", code="daemon_silent")
    found = cast("dict[str, Any]", answer)
    if "error" in found:
        problem = found["error"]
        raise HostError(problem["message"], fix=problem["fix"], code=problem["code"])
    return found
