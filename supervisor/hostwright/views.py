"""What one client is shown of the catalog, and what it may call: the same thing by construction.

A `View` is made of a listing (as the catalog gives it, names already unambiguous) and a token's
rules. What a rule hides cannot be called either, because calls are looked up in the view. A rename
that would take the name of something else that is visible is not applied, so that no name ever
stands for two tools, and none comes to stand for another one by a rename. Pure.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from hostwright.toolsearch.index import Document, ToolIndex
from hostwright_kit.token_rules import SEPARATOR, Mode, TokenRules

logger = logging.getLogger(__name__)


class Item(Protocol):
    """One tool of a listing (the catalog's `Owned`)."""

    @property
    def server(self) -> str:
        """Whose it is."""
        ...

    @property
    def name(self) -> str:
        """What the server calls it."""
        ...

    @property
    def shown(self) -> str:
        """What clients call it where no rule renames it."""
        ...

    @property
    def entry(self) -> Mapping[str, Any]:
        """Its description, under the shown name."""
        ...


AnyItem = TypeVar("AnyItem", bound=Item)


class View(Generic[AnyItem]):
    """The tools that one client sees, under the names that it sees."""

    def __init__(
        self,
        listing: Iterable[AnyItem],
        rules: TokenRules,
        *,
        about: Mapping[str, str] | None = None,
        mode: Mode | None = None,
    ) -> None:
        """`about` holds descriptions of servers, for the search; `mode` overrides the rules'."""
        self.mode: Mode = mode or rules.mode
        self._about = about or {}
        self._index: ToolIndex | None = None
        visible = [item for item in listing if rules.sees_tool(item.server, *names_of(item))]
        wanted = {
            item.shown: rules.rename[name]
            for item in visible
            for name in names_of(item)
            if name in rules.rename
        }
        names = settle([item.shown for item in visible], wanted)
        self._items: dict[str, AnyItem] = {names[item.shown]: item for item in visible}

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> Iterable[tuple[str, AnyItem]]:
        """Shown name and item, in the listing's order."""
        return self._items.items()

    def names(self) -> Sequence[str]:
        """The shown names."""
        return list(self._items)

    def lookup(self, shown: str) -> AnyItem | None:
        """The tool that this client knows by that name."""
        return self._items.get(shown)

    def entry(self, shown: str) -> dict[str, Any]:
        """How the tool is listed here."""
        return {**self._items[shown].entry, "name": shown}

    @property
    def index(self) -> ToolIndex:
        """The search over what is visible, made when it is first needed."""
        if self._index is None:
            self._index = ToolIndex(
                Document.of(shown, item.server, item.entry, self._about.get(item.server, ""))
                for shown, item in self._items.items()
            )
        return self._index


def names_of(item: Item) -> tuple[str, str]:
    """The names that rules may use for it."""
    return item.shown, f"{item.server}{SEPARATOR}{item.name}"


def settle(names: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Old → new for every name, no two alike: of renames that collide, none is applied.

    `names` are distinct. Each round takes away at least one rename, so it ends.
    """
    renames = {old: wanted[old] for old in names if old in wanted}
    while True:
        bearers: dict[str, list[str]] = {}
        for old in names:
            bearers.setdefault(renames.get(old, old), []).append(old)
        colliding = [old for olds in bearers.values() if len(olds) > 1 for old in olds]
        refused = [old for old in colliding if old in renames]
        if not refused:
            return {old: renames.get(old, old) for old in names}
        for old in refused:
            logger.warning("%s is not called %s: that name is taken", old, renames.pop(old))


class Views(Generic[AnyItem]):
    """Views remembered for as long as what they are made of is the same."""

    MAX = 200

    def __init__(self) -> None:
        self._views: dict[Hashable, tuple[object, View[AnyItem]]] = {}

    def view(
        self,
        listing: Sequence[AnyItem],
        version: object,
        rules: TokenRules,
        *,
        endpoint: Hashable,
        mode: Mode | None = None,
        about: Mapping[str, str] | None = None,
    ) -> View[AnyItem]:
        """The view of one endpoint's listing; `version` differs whenever the listing does."""
        key = (endpoint, mode, rules.model_dump_json())
        found = self._views.get(key)
        if found is None or found[0] != version:
            if len(self._views) >= self.MAX:
                self._views.clear()
            found = self._views[key] = (version, View(listing, rules, about=about, mode=mode))
        return found[1]
