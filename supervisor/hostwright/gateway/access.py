"""Who may come in over HTTP, decided from the headers of a request.

On TCP: the right host name (`hosts.py`), and for MCP a known bearer token. On the unix socket the
kernel has decided already: it is 0600 in a 0700 folder.

A token that was found good is remembered; whether the tokens were changed since then is asked for
every request, which costs microseconds, so a revoked one stops working at once.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from hostwright.gateway import codec
from hostwright.gateway.asker import Origin
from hostwright.gateway.hosts import Hosts
from hostwright.gateway.turn import once_per_turn
from hostwright.gateway.view import Views
from hostwright_kit.tokens import Tokens
from hostwright_kit.vouching import TOKEN_VARIABLE

if TYPE_CHECKING:
    from hostwright.gateway.http_head import Head

MAX_REMEMBERED = 1_000


class Access(Protocol):
    """The doorkeeper of one listener."""

    origin: Origin

    def refusal(self, head: Head, address: str) -> tuple[int, str] | None:
        """The status and the words of a refusal; sets the head's origin."""
        ...


class SocketAccess:
    """The unix socket's: everybody who gets here is the owner."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self.origin = Origin("socket", os.getuid())

    def refusal(self, head: Head, address: str) -> tuple[int, str] | None:
        """Only an endpoint that does not exist is refused."""
        del address
        return unknown_endpoint(self._views, head)


class TcpAccess:
    """The port's."""

    def __init__(
        self, views: Views, tokens: Tokens, *, required: bool, hosts: Sequence[str]
    ) -> None:
        self._views = views
        self._tokens = tokens
        self._required = required
        self._further = tuple(hosts)
        self._hosts: dict[str, Hosts] = {}
        self.origin = Origin("http")
        # Taken out of the environment: children must not inherit it.
        self._extra = os.environ.pop(TOKEN_VARIABLE, "")
        self._good: dict[str, Origin] = {}
        self._version = -1

    def refusal(self, head: Head, address: str) -> tuple[int, str] | None:
        """First whether it comes from where it may, then whose token it shows."""
        hosts = self._hosts.get(address)
        if hosts is None:
            hosts = self._hosts[address] = Hosts(address, self._further)
        named = head.named
        if (refused := hosts.refusal(named.get("host", ""), named.get("origin", ""))) is not None:
            return refused
        # Probes are open; who calls what is only for those who may call themselves.
        if head.endpoint is None and not head.path.startswith("/events"):
            return None
        shown = named.get("authorization")
        if shown is None:
            return unknown_endpoint(self._views, head) if not self._required else _UNKNOWN
        scheme, _, secret = shown.partition(" ")
        origin = self._known(secret.strip()) if scheme.lower() == "bearer" else None
        if origin is None:
            return _UNKNOWN
        head.origin = origin
        return unknown_endpoint(self._views, head)

    def _known(self, secret: str) -> Origin | None:
        version = once_per_turn(self._tokens.version)
        if version != self._version or len(self._good) > MAX_REMEMBERED:
            self._version, self._good = version, {}
        found = self._good.get(secret)
        if found is None and (name := self._name(secret)) is not None:
            found = self._good[secret] = Origin("http", None, name)
        return found

    def _name(self, secret: str) -> str | None:
        if not secret:
            return None
        if self._extra and hmac.compare_digest(secret.encode(), self._extra.encode()):
            return "environment"
        return self._tokens.verify(secret)


_UNKNOWN = (401, "A known bearer token is required")


def unknown_endpoint(views: Views, head: Head) -> tuple[int, str] | None:
    """The refusal of a name that no server has."""
    endpoint = head.endpoint
    if endpoint is None or views.is_one(endpoint):
        return None
    known = ", ".join(views.names())
    error = f"No server {endpoint[:80]!r}. Fix: use /mcp/NAME with one of: {known}."
    return 404, codec.encode({"error": error}).decode()
