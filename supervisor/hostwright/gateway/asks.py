"""The least that is known of a connection to a server: it can be asked, and it can be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hostwright.gateway.codec import RpcError

CONNECTION_CLOSED = -32000


class LinkLostError(RpcError):
    """The server ended before it answered; whether the call took effect is not known here."""

    def __init__(self, server: str) -> None:
        super().__init__(CONNECTION_CLOSED, f"The server {server} ended before it answered.")


class Asks(Protocol):
    """What the catalog needs of a link."""

    server: str

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a request of the supervisor's own and return the result."""
        ...
