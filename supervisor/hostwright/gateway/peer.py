"""A client, as far as it must be told apart from every other one.

Most servers are the same for everybody and are told who calls with each call. One of the handshake
era that gets a session for each client, or that asks something, is concerned with one client: a
session of the handshake era, a connection over lines, or, in the stateless era over HTTP, whoever
comes with the same token and says the same of itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin

CAPABILITIES = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a client must have declared to be asked."""


class Peer(NamedTuple):
    """One client; equal to itself only."""

    connection: object | None
    """The session or the connection with which it ends."""
    origin: Origin
    client: str
    version: str
    capabilities: bytes

    def can(self, method: str) -> bool:
        """Whether it may be asked this."""
        return CAPABILITIES.get(method) in self.declared

    @property
    def declared(self) -> dict[str, Any]:
        """Its capabilities, as far as they are about being asked."""
        said = codec.value(Raw(self.capabilities))
        found = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
        return {
            name: found[name] for name in CAPABILITIES.values() if isinstance(found.get(name), dict)
        }


class Site(NamedTuple):
    """Where something is watched: at a server, in the session of one client if each has its own."""

    server: str
    peer: Peer | None = None
