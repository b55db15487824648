"""`top`'s side of the unix socket, and the owner's own files beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx2

from hostwright.cli.output import NoDaemonError
from hostwright.deciding import decide, open_approvals
from hostwright.events.client import Message, Wanted, listen
from hostwright.keeper import logs
from hostwright.status import GATEWAY_SOCKET, DaemonStatus
from hostwright_kit.approvals import Approval
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths

TIMEOUT_SECONDS = 90.0


class Daemon:
    """What can be asked of it and told to it."""

    def __init__(self, paths: Paths) -> None:
        self._socket = paths.runtime_dir / GATEWAY_SOCKET
        self._logs: Path = paths.state_dir / "logs"

    def events(self, *, follow: bool) -> AsyncGenerator[Message]:
        """What happened lately, and then what happens."""
        return listen(self._socket, Wanted(), cursor="recent", follow=follow)

    async def status(self) -> DaemonStatus:
        """How everything is."""
        return DaemonStatus.model_validate(await self._ask("GET", "/control/status"))

    async def act(self, server: str, action: str) -> str:
        """Start, stop or restart a server; what came of it."""
        result = await self._ask("POST", f"/control/servers/{server}/{action}")
        return str(result["message"])

    async def pending(self) -> Sequence[Approval]:
        """What waits for the owner."""

        def look() -> Sequence[Approval]:
            with open_approvals() as approvals:
                return approvals.pending()

        return await asyncio.to_thread(look)

    async def decide(self, approval_id: str, pin: str, *, grant: bool) -> Approval:
        """As `hostwright approve` and `deny` do."""

        def act() -> Approval:
            with open_approvals() as approvals:
                return decide(approvals, approval_id, pin, grant=grant)

        return await asyncio.to_thread(act)

    async def tail(self, server: str, lines: int) -> Sequence[str]:
        """The end of a server's log."""
        return await asyncio.to_thread(logs.tail, self._logs / f"{server}.jsonl", lines)

    async def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            async with httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(uds=str(self._socket)),
                base_url="http://hostwright",
                timeout=TIMEOUT_SECONDS,
            ) as http:
                body = cast("dict[str, Any]", (await http.request(method, path)).json())
        except (httpx2.HTTPError, ValueError) as error:
            raise NoDaemonError from error
        if "error" in body:
            found = body["error"]
            raise HostError(found["message"], fix=found["fix"], code=found["code"])
        return body
