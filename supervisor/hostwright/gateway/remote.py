"""A link to a server that runs elsewhere, over streamable HTTP.

The official client does transport, eras and sessions; the gateway's identity is what the other
side sees, because it has no reason to believe who we say is calling.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
import mcp_types as mcp
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, METHOD_NOT_FOUND
from pydantic import BaseModel, ConfigDict, ValidationError

from hostwright.gateway.link import SUPERVISOR, Asker, LinkLostError
from hostwright.gateway.reports import Progress
from hostwright.keeper.server import Remote


class _Raw(BaseModel):
    """A result of any shape, taken as it is."""

    model_config = ConfigDict(extra="allow")


class RemoteLink:
    """The same questions as `Link`, put over HTTP."""

    def __init__(self, remote: Remote) -> None:
        self.server = remote.name
        self._client: Client[Any] = Client(
            StreamableHttpTransport(remote.url, headers=dict(remote.headers))
        )
        self._open = AsyncExitStack()

    @property
    def alive(self) -> bool:
        """Whether the connection is still thought to hold."""
        return self._client.is_connected()

    async def open(self) -> dict[str, Any]:
        """Connect and negotiate; returns what the server declared."""
        await self._open.enter_async_context(self._client)
        declared = self._client.session.server_capabilities
        return declared.model_dump(by_alias=True, exclude_none=True) if declared else {}

    async def check(self) -> None:
        """One round trip that asks for nothing."""
        try:
            await self.request("ping", {})
        except MCPError as error:
            # The new era has no ping; that it says so is as good an answer.
            if error.error.code != METHOD_NOT_FOUND:
                raise

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        asker: Asker = SUPERVISOR,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask; raises `MCPError` when the server answers with an error."""
        if not self.alive:
            raise LinkLostError(self.server)
        rest = {key: value for key, value in params.items() if key != "_meta"}
        # Parametrized: the bare class would keep only the params that it knows, that is none.
        request = mcp.Request[dict[str, Any], str](method=method, params=rest)
        try:
            session = self._client.session
            answer = await session.send_request(request, _Raw, progress_callback=progress)
        except (httpx2.HTTPError, RuntimeError, anyio.ClosedResourceError) as error:
            raise LinkLostError(self.server) from error
        except (ValidationError, ValueError) as error:
            text = f"The server {self.server} answered with what the protocol does not allow."
            raise MCPError(INTERNAL_ERROR, text) from error
        return answer.model_dump()

    async def close(self) -> None:
        """Hang up."""
        await self._open.aclose()
