"""What one client is offered where servers have a session for it: the catalog with its own lists.

A server may offer a client what it does not offer others: tools for what that client can, resources
that its calls made. So the lists of a client's own session go before those that the server shows to
the gateway.
"""

from __future__ import annotations

from collections import ChainMap

from hostwright.gateway.catalog import METHODS, Catalog, Kind, Offer
from hostwright.gateway.view import View


class Overlay(Catalog):
    """A catalog in which some servers' lists are others."""

    def __init__(self, base: Catalog) -> None:
        super().__init__(base.is_ours, base.may, base.renames)
        self._base = base
        self._own: dict[str, Offer] = {}
        self._offers = ChainMap(self._own, base.offers)
        self._seen = base.version
        self._views: dict[View, View] = {}

    def begin(self, server: str) -> None:
        """A session with this server begins; it is taken to offer what the server does."""
        base = self._base.offers.get(server) or Offer()
        mine = self._own[server] = Offer()
        mine.said = {kind: list(said) for kind, said in base.said.items()}
        mine.shown = {kind: list(shown) for kind, shown in base.shown.items()}

    def end(self, server: str) -> frozenset[Kind]:
        """The session ended; the lists that change by that."""
        mine = self._own.pop(server, None)
        base = self._base.offers.get(server)
        self._forget()
        if mine is None or base is None:
            return frozenset()
        return frozenset(kind for kind in METHODS if mine.said[kind] != base.said[kind])

    @property
    def empty(self) -> bool:
        """Whether it says nothing of its own."""
        return not self._own

    def view(self, of: View) -> View:
        """The same view of this catalog."""
        if self._seen != self._base.version:
            # What was made of the base's lists is out of date.
            self._seen = self._base.version
            self._forget()
        if (found := self._views.get(of)) is None:
            found = self._views[of] = of.over(self)
        return found
