"""On whose behalf a request is made, and the envelope that tells a server so.

Inside, every request carries the revision, the client and its capabilities in `_meta`; a server of
ours gets the checked identity too, beside the key that proves who vouches (kit/identity.py). All of
that is the same for every request of one client, so it is encoded once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw

from hostwright import __version__
from hostwright.gateway import codec
from hostwright_kit.vouching import ACTOR_META

Transport = Literal["stdio", "http", "socket"]
MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST_LEGACY = LEGACY[-1]
VERSION_META = "io.modelcontextprotocol/protocolVersion"
CLIENT_META = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_META = "io.modelcontextprotocol/clientCapabilities"
SERVER_META = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_META = "io.modelcontextprotocol/subscriptionId"
MAX_REMEMBERED = 512


class Origin(NamedTuple):
    """What a listener knows of whoever connected to it."""

    transport: Transport
    uid: int | None = None
    token: str | None = None


class ClientInfo(msgspec.Struct, frozen=True):
    """What a client says of itself."""

    name: str
    version: str = ""


class Asker:
    """A client, as far as servers are concerned."""

    __slots__ = ("_metas", "capabilities", "client", "origin", "version")

    def __init__(
        self,
        origin: Origin,
        client: str = "unknown",
        version: str = "",
        capabilities: bytes = b"{}",
    ) -> None:
        self.origin = origin
        self.client = _plain(client, 200)
        self.version = _plain(version, 100)
        self.capabilities = capabilities
        self._metas: dict[str | None, bytes] = {}

    @property
    def name(self) -> str:
        """The short name: the token's, else the client's."""
        return self.origin.token or self.client

    def meta(self, link_key: str | None) -> bytes:
        """The members of `_meta`; with a key, those that only a server of ours may see."""
        found = self._metas.get(link_key)
        if found is None:
            found = self._metas[link_key] = self._encoded(link_key)
            if len(self._metas) > 64:  # a key per start of a server
                self._metas = {link_key: found}
        return found

    def _encoded(self, link_key: str | None) -> bytes:
        meta: dict[str, object] = {
            VERSION_META: MODERN,
            CLIENT_META: {"name": self.client, "version": self.version},
            CAPABILITIES_META: Raw(self.capabilities),
        }
        if link_key is not None:
            checked = {
                "client": self.client,
                "version": self.version,
                "uid": self.origin.uid,
                "transport": self.origin.transport,
                "token": self.origin.token,
                "via_gateway": True,
            }
            caller = {key: value for key, value in checked.items() if value is not None}
            meta[ACTOR_META] = {"key": link_key, "caller": caller}
        return codec.encode(meta)[1:-1]


_info = msgspec.json.Decoder(ClientInfo)
_known: dict[tuple[Origin, bytes, bytes], Asker] = {}


def asker(origin: Origin, info: Raw | None, capabilities: Raw | bytes) -> Asker:
    """The client of these words; ValueError when they are not what the protocol asks for."""
    key = (origin, bytes(info) if info is not None else b"", bytes(capabilities))
    found = _known.get(key)
    if found is not None:
        return found
    if key[2][:1] != b"{":
        raise ValueError("the client's capabilities are an object")
    said = ClientInfo("unknown")
    if info is not None and key[1] != codec.NULL:
        try:
            said = _info.decode(info)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ValueError("the client's info is an object with a name and a version") from None
    found = Asker(origin, said.name, said.version, key[2])
    if len(_known) >= MAX_REMEMBERED:
        _known.clear()
    _known[key] = found
    return found


def _plain(text: str, limit: int) -> str:
    """A stranger's word about itself, fit for the owner's prompt: no line breaks, no controls."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:limit])


SUPERVISOR = Asker(Origin("stdio"), "hostwright-supervisor", __version__)
"""Who asks when nobody outside does."""
