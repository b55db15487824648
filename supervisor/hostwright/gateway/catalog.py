"""What the servers offer, remembered: tools, resources, prompts, and which server owns which.

Lists are answered from here, so `tools/list` costs no round trip and keeps answering while a
server restarts. Each list is refreshed when its server becomes ready, when it says that the list
changed, and with every health check. An entry that is not what the protocol says is left out: one
server's mistake must not take everybody's list away.

Where several servers are offered in one, our own keep their names and third-party ones are shown
as SERVER__NAME, always: were it only done on a collision, a name could come to mean another
server's tool when a server starts or stops, and a stranger's tool could pass for one of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from hostwright.gateway.asks import Asks, LinkLostError
from hostwright.gateway.codec import RpcError
from hostwright.gateway.entries import fault
from hostwright.views import settle

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
MAX_ENTRIES = 5_000

Entries = list[dict[str, Any]]


class Owned(NamedTuple):
    """One entry of a list, as clients see it, with its owner and the name it has there."""

    server: str
    name: str
    shown: str
    entry: dict[str, Any]


class Offer:
    """What one server offers: as it said, and what of that can be shown."""

    def __init__(self) -> None:
        self.said: dict[Kind, list[Any]] = {kind: [] for kind in METHODS}
        self.shown: dict[Kind, Entries] = {kind: [] for kind in METHODS}


class Catalog:
    """The offers of all servers."""

    def __init__(
        self,
        is_ours: Callable[[str], bool],
        offers: Callable[[str, str], bool],
        renames: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """`offers` says whether a server's tool of that name may be offered at all; `renames` what
        the owner calls some of its tools."""
        self.is_ours = is_ours
        self.may = offers
        self.renames = renames
        self._offers: MutableMapping[str, Offer] = {}
        self._listings: dict[tuple[Kind, tuple[str, ...]], dict[str, Owned]] = {}
        self.version = 0
        """Counts changes: what was made of the lists is good while it stays the same."""

    async def refresh(
        self, link: Asks, capabilities: Mapping[str, Any], kinds: Iterable[Kind] = METHODS
    ) -> frozenset[Kind]:
        """Fetch the lists of one server; returns those that changed.

        Raises `LinkLostError` when the server ends meanwhile, and `RpcError` when it does not
        tell its tools; what was known before then stays.
        """
        offer = self._offers.get(link.server) or Offer()
        changed: set[Kind] = set()
        for kind in kinds:
            if CAPABILITY[kind] not in capabilities:
                continue
            said = await _fetch(link, kind)
            if said is None or said == offer.said[kind]:
                continue
            offer.said[kind] = said
            offer.shown[kind] = self._fit_to_be_shown(link.server, kind, said)
            self._forget()
            changed.add(kind)
        if link.server not in self._offers:
            # Only now: half an offer would look like all of it.
            self._offers[link.server] = offer
            self._forget()
        return frozenset(changed)

    @property
    def offers(self) -> MutableMapping[str, Offer]:
        """By server, as far as they were asked."""
        return self._offers

    def reconsider(self) -> None:
        """Manifests changed: apply what they hide and rename to what the servers said."""
        for server, offer in self._offers.items():
            offer.shown["tools"] = self._fit_to_be_shown(server, "tools", offer.said["tools"])
        self._forget()

    def count(self, server: str, kind: Kind = "tools") -> int | None:
        """How many entries a server has; None when it was never asked."""
        offer = self._offers.get(server)
        return None if offer is None else len(offer.shown[kind])

    def listing(self, kind: Kind, servers: Sequence[str]) -> list[Owned]:
        """The entries of `servers`, earlier ones first. No name stands for two of them."""
        return list(self._by_name(kind, servers).values())

    def owner(self, kind: Kind, shown: str, servers: Sequence[str]) -> Owned | None:
        """Who owns the entry that clients know as `shown`."""
        return self._by_name(kind, servers).get(shown)

    def _forget(self) -> None:
        self._listings.clear()
        self.version += 1

    def _by_name(self, kind: Kind, servers: Sequence[str]) -> dict[str, Owned]:
        wanted = (kind, tuple(servers))
        if (found := self._listings.get(wanted)) is None:
            found = self._listings[wanted] = self._listed(kind, servers)
        return found

    def _listed(self, kind: Kind, servers: Sequence[str]) -> dict[str, Owned]:
        key = IDENTITY[kind]
        found: dict[str, Owned] = {}
        for server in servers:
            offer = self._offers.get(server)
            entries = offer.shown[kind] if offer else []
            bare = len(servers) == 1 or self.is_ours(server)
            renames = self.renames(server) if kind == "tools" else {}
            called = settle([str(entry[key]) for entry in entries], renames)
            for entry in entries:
                name = str(entry[key])
                number = 1
                shown = called[name] if bare else qualified(kind, server, called[name])
                while shown in found:
                    shown = qualified(kind, server, called[name], number)
                    number += 1
                found[shown] = Owned(
                    server=server, name=name, shown=shown, entry={**entry, key: shown}
                )
        return found

    def _fit_to_be_shown(self, server: str, kind: Kind, said: Sequence[Any]) -> Entries:
        entries: Entries = []
        names: set[str] = set()
        key = IDENTITY[kind]
        for entry in said:
            if (why := fault(kind, entry)) is not None:
                logger.warning("an entry of %s's %s is left out: %s", server, kind, why)
                continue
            name = str(entry[key])
            if name in names:
                logger.warning("%s lists %.200r twice among its %s", server, name, kind)
            elif kind != "tools" or self.may(server, name):
                names.add(name)
                entries.append(entry)
        return entries


def qualified(kind: Kind, server: str, name: str, number: int = 1) -> str:
    """The name with its server's, and with a number when even that is taken.

    SERVER__NAME, and SERVER+URI, which is a URI again: a scheme may hold a plus (RFC 3986, 3.1).
    """
    again = "" if number == 1 else str(number)
    return f"{server}{again}{'__' if IDENTITY[kind] == 'name' else '+'}{name}"


async def _fetch(link: Asks, kind: Kind) -> list[Any] | None:
    """All pages of one list; None when the server has no such list, or does not tell it now."""
    entries: list[Any] = []
    cursor: object = None
    for _ in range(MAX_PAGES):
        try:
            page = await link.request(METHODS[kind], {"cursor": cursor} if cursor else {})
        except LinkLostError:
            raise
        except RpcError as error:
            if kind == "tools":
                raise
            # A server may declare resources and yet know no templates.
            logger.info("%s does not list its %s: %s", link.server, kind, error)
            return None
        found = page.get(kind)
        entries += cast("list[Any]", found) if isinstance(found, list) else []
        cursor = page.get("nextCursor")
        if not cursor or len(entries) > MAX_ENTRIES:
            break
    if cursor or len(entries) > MAX_ENTRIES:
        logger.warning("%s has more %s than are shown (%d)", link.server, kind, MAX_ENTRIES)
    return entries[:MAX_ENTRIES]
