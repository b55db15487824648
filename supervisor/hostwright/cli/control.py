"""Talking to the daemon over its unix socket."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import httpx2

from hostwright.cli.output import NoDaemonError
from hostwright.status import GATEWAY_SOCKET, DaemonStatus
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

# Stopping waits for processes to end; nothing the daemon does takes longer.
TIMEOUT_SECONDS = 90.0


class Control:
    """The daemon of this user."""

    def __init__(self) -> None:
        self.socket = resolve_paths().runtime_dir / GATEWAY_SOCKET
        self._http = httpx2.Client(
            # No certificates are loaded for a socket that has none.
            transport=httpx2.HTTPTransport(uds=str(self.socket), verify=False),
            base_url="http://hostwright",
            timeout=TIMEOUT_SECONDS,
        )

    def status(self) -> DaemonStatus:
        """How everything is."""
        return DaemonStatus.model_validate(self.get("/control/status"))

    def get(self, path: str) -> dict[str, Any]:
        """Ask."""
        return self._send("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Act."""
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx2.ConnectError as error:
            raise NoDaemonError from error
        except httpx2.HTTPError as error:
            raise HostError(
                f"The daemon did not answer: {error}.",
                fix="See `hostwright status`; if it hangs, `hostwright down`.",
                code="daemon_silent",
            ) from error
        try:
            body = cast("dict[str, Any]", answer.json())
        except ValueError as error:
            raise HostError(
                f"The daemon answered {method} {path} with HTTP {answer.status_code}.",
                fix="Its log says why: hostwright logs daemon.",
                code="daemon_failed",
            ) from error
        if "error" in body:
            found = body["error"]
            raise HostError(found["message"], fix=found["fix"], code=found["code"])
        return body


def tokens_changed() -> None:
    """Tell the daemon, if one runs, so that what is open sees it, too, and not the next request."""
    with suppress(NoDaemonError):
        Control().post("/control/tokens")
