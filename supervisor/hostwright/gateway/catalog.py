"""What the servers offer, remembered: tools, resources, prompts, and which server owns which.

Lists are answered from here, so `tools/list` costs no round trip and keeps answering while a
server restarts. Each list is refreshed when its server becomes ready, when it says that the list
changed, and with every health check.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from hostwright.gateway.link import Asks

logger = logging.getLogger(__name__)

Kind = Literal["tools", "resources", "resourceTemplates", "prompts"]
METHODS: Mapping[Kind, str] = {
    "tools": "tools/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
    "prompts": "prompts/list",
}
CAPABILITY: Mapping[Kind, str] = {
    "tools": "tools",
    "resources": "resources",
    "resourceTemplates": "resources",
    "prompts": "prompts",
}
IDENTITY: Mapping[Kind, str] = {
    "tools": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
    "prompts": "name",
}
MAX_PAGES = 50
SEPARATOR = "__"


class Owned(BaseModel, frozen=True):
    """One entry of a list, as clients see it, with its owner and the name it has there."""

    server: str
    name: str
    shown: str
    entry: dict[str, Any]


class Offer:
    """What one server offers."""

    def __init__(self) -> None:
        self.lists: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in METHODS}


class Catalog:
    """The offers of all servers, in the order in which the servers were first seen."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}

    async def refresh(
        self, link: Asks, capabilities: Mapping[str, Any], kinds: Iterable[Kind] = METHODS
    ) -> bool:
        """Fetch the lists of one server; True when anything changed."""
        offer = self._offers.setdefault(link.server, Offer())
        changed = False
        for kind in kinds:
            if CAPABILITY[kind] not in capabilities:
                continue
            fetched = await _fetch(link, kind)
            changed = changed or fetched != offer.lists[kind]
            offer.lists[kind] = fetched
        return changed

    def forget(self, server: str) -> None:
        """Drop a server that was taken away for good."""
        self._offers.pop(server, None)

    def count(self, server: str, kind: Kind = "tools") -> int | None:
        """How many entries a server has; None when it was never asked."""
        offer = self._offers.get(server)
        return None if offer is None else len(offer.lists[kind])

    def listing(self, kind: Kind, servers: Sequence[str]) -> list[Owned]:
        """The entries of `servers`. Of two with one name the later is shown as SERVER__NAME."""
        key = IDENTITY[kind]
        seen: set[str] = set()
        found: list[Owned] = []
        for server in servers:
            offer = self._offers.get(server)
            for entry in offer.lists[kind] if offer else ():
                name = str(entry[key])
                shown = name if name not in seen else f"{server}{SEPARATOR}{name}"
                seen.add(shown)
                found.append(
                    Owned(server=server, name=name, shown=shown, entry={**entry, key: shown})
                )
        return found

    def owner(self, kind: Kind, shown: str, servers: Sequence[str]) -> Owned | None:
        """Who owns the entry that clients know as `shown`."""
        return next((item for item in self.listing(kind, servers) if item.shown == shown), None)


async def _fetch(link: Asks, kind: Kind) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            page = await link.request(METHODS[kind], {"cursor": cursor} if cursor else {})
        except MCPError as error:
            # A server may declare resources and yet know no templates.
            logger.info("%s does not list its %s: %s", link.server, kind, error)
            return entries
        entries += cast("list[dict[str, Any]]", page.get(kind, []))
        cursor = page.get("nextCursor")
        if not cursor:
            return entries
    logger.warning(
        "%s lists more than %d pages of %s; the rest is cut", link.server, MAX_PAGES, kind
    )
    return entries
