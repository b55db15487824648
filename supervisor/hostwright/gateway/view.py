"""What one client sees: the servers behind an endpoint, as lists that are encoded once.

A view is made for an endpoint (all servers, or one) and, where a token has rules or a client wants
to search, for those too; `Views.resolve` is the one place that decides which view a request gets.
What it hides cannot be called either. Its pages are bytes, made when first asked for and kept until
the catalog changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from hostwright import __version__, views
from hostwright.gateway import codec
from hostwright.gateway.asker import LEGACY, MODERN, SERVER_META
from hostwright.gateway.catalog import Catalog, Kind, Owned
from hostwright.gateway.codec import RpcError
from hostwright.gateway.mirrored import Mirrored, mirrored
from hostwright.toolsearch import tools as toolsearch
from hostwright_kit.token_rules import ALL as EVERYTHING
from hostwright_kit.token_rules import Mode, TokenRules

ALL = "*"
"""The name of the endpoint that offers every server."""
KINDS: tuple[Kind, ...] = ("tools", "resources", "resourceTemplates", "prompts")
PAGE_SIZE = 200
MAX_CURSOR_DIGITS = 9
MAX_REMEMBERED = 200
INSTRUCTIONS = (
    "Tools of this machine, under its owner's control. A call that needs the owner's approval "
    "answers with an error that says how it is given."
)
# The new era wants them said; what changes is announced, so nothing is cached blindly.
CACHE = b'"ttlMs":0,"cacheScope":"private"'


class View:
    """A selection of servers, as one client sees them."""

    def __init__(
        self,
        name: str,
        catalog: Catalog,
        select: Callable[[], Sequence[str]],
        *,
        rules: TokenRules = EVERYTHING,
        mode: Mode = "full",
        about: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`about` tells what servers are for, to those who search."""
        self.name = name
        self.catalog = catalog
        self.select = select
        self.mode: Mode = mode
        self.endpoint = ALL
        """By what name it is asked for."""
        self.searching = False
        """Whether its client asked for the search, whatever the rules say."""
        self._rules = rules
        self._about = about
        self._tools: views.View[Owned] | None = None
        info = {"name": name, "version": __version__}
        capabilities = {kind: {"listChanged": True} for kind in ("tools", "resources", "prompts")}
        capabilities["resources"]["subscribe"] = True
        self._stamp = b'"_meta":' + codec.encode({SERVER_META: info})
        shared = {"instructions": INSTRUCTIONS, "capabilities": {**capabilities, "completions": {}}}
        discovered = {"supportedVersions": [MODERN], **shared}
        self.discover = codec.with_members(codec.encode(discovered), self._modern())
        """The result of `server/discover`."""
        initialized = {
            "serverInfo": info,
            **shared,
            "capabilities": {**shared["capabilities"], "logging": {}},  # type: ignore[dict-item]
        }
        self.initialize: Mapping[str, bytes] = {
            version: codec.encode({"protocolVersion": version, **initialized}) for version in LEGACY
        }
        """The result of `initialize`, by revision."""
        self._pages: dict[tuple[Kind, int, bool], bytes] = {}
        self._mirrored: dict[str, tuple[Mirrored, ...]] = {}
        self._pages_of: tuple[int, tuple[str, ...]] = (-1, ())

    def page(self, kind: Kind, cursor: str | None, *, modern: bool) -> bytes:
        """The result of a list request."""
        self._renew()
        start = 0 if cursor is None else self._position(kind, cursor)
        found = self._pages.get((kind, start, modern))
        if found is None:
            found = self._pages[kind, start, modern] = self._encoded(kind, start, modern=modern)
        return found

    def mirrored(self, tool: str) -> tuple[Mirrored, ...]:
        """The arguments of a tool that HTTP repeats in headers."""
        self._renew()
        found = self._mirrored.get(tool)
        if found is None:
            owned = self.owner("tools", tool)
            if owned is None:
                return ()
            found = self._mirrored[tool] = mirrored(owned.entry.get("inputSchema"))
        return found

    def _renew(self) -> None:
        now = (self.catalog.version, tuple(self.select()))
        if now != self._pages_of:
            self._pages, self._mirrored, self._pages_of, self._tools = {}, {}, now, None

    def restricted(self, rules: TokenRules, mode: Mode) -> View:
        """The same servers for somebody who sees less of them, or searches in them."""
        return View(self.name, self.catalog, self.select, rules=rules, mode=mode, about=self._about)

    def over(self, catalog: Catalog) -> View:
        """The same view of another catalog."""
        return View(
            self.name, catalog, self.select, rules=self._rules, mode=self.mode, about=self._about
        )

    @property
    def tools(self) -> views.View[Owned]:
        """The tools that are seen, whatever is listed: `tool_search` finds them."""
        self._renew()
        if self._tools is None:
            listing = self.catalog.listing("tools", self.select())
            self._tools = views.View(listing, self._rules, about=self._about(), mode=self.mode)
        return self._tools

    def owner(self, kind: Kind, shown: str) -> Owned | None:
        """Who owns the entry that clients know as `shown`."""
        if self._rules is EVERYTHING:
            return self.catalog.owner(kind, shown, self.select())
        if kind == "tools":
            return self.tools.lookup(shown)
        owned = self.catalog.owner(kind, shown, self.select())
        return owned if owned is not None and self._rules.sees_server(owned.server) else None

    def differs(self, other: View) -> list[Kind]:
        """The lists that are not the same in the two."""
        # What is seen is found by name, so `tools` differ where the search finds others, too.
        return [
            kind
            for kind in KINDS
            if self._entries(kind) != other._entries(kind)
            or (kind == "tools" and list(self.tools.items()) != list(other.tools.items()))
        ]

    def listing(self, kind: Kind) -> list[Owned]:
        """All entries of one kind, under the catalog's names."""
        items = self.catalog.listing(kind, self.select())
        if self._rules is EVERYTHING:
            return items
        if kind == "tools":
            return [item for _, item in self.tools.items()]
        return [item for item in items if self._rules.sees_server(item.server)]

    def _entries(self, kind: Kind) -> list[dict[str, Any]]:
        if kind != "tools" or (self._rules is EVERYTHING and self.mode == "full"):
            return [item.entry for item in self.listing(kind)]
        if self.mode == "search":
            return toolsearch.definitions()
        return [self.tools.entry(name) for name in self.tools.names()]

    def _encoded(self, kind: Kind, start: int, *, modern: bool) -> bytes:
        items = self._entries(kind)
        body = codec.encode({kind: items[start : start + PAGE_SIZE]})
        if start + PAGE_SIZE < len(items):
            body = codec.with_members(body, b'"nextCursor":"%d"' % (start + PAGE_SIZE))
        return codec.with_members(body, self._modern()) if modern else body

    def _modern(self) -> bytes:
        return b'"resultType":"complete",' + CACHE + b"," + self._stamp

    def _position(self, kind: Kind, cursor: str) -> int:
        ours = cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_CURSOR_DIGITS
        if not ours or int(cursor) > len(self._entries(kind)):
            raise RpcError(codec.INVALID_PARAMS, f"The cursor {cursor[:40]!r} is not one of ours.")
        return int(cursor)


class Views:
    """All endpoints, and which view of one a client gets."""

    def __init__(
        self,
        views: Mapping[str, View],
        rules_of: Callable[[str | None], TokenRules] = lambda _: EVERYTHING,
    ) -> None:
        """`rules_of` says what the holder of a token may see."""
        self._views: dict[str, View] = {}
        for name, view in views.items():
            self.add(name, view)
        self._rules_of = rules_of
        # Sessions keep theirs alive, and the latest ones live on for requests that stand alone.
        self._restricted: WeakValueDictionary[tuple[str, str, bool], View] = WeakValueDictionary()
        self._latest: deque[View] = deque(maxlen=MAX_REMEMBERED)

    def names(self) -> list[str]:
        """The endpoints with a name of their own."""
        return sorted(set(self._views) - {ALL})

    def is_one(self, endpoint: str) -> bool:
        """Whether there is such an endpoint."""
        return endpoint in self._views

    def resolve(self, endpoint: str, token: str | None = None, query: str = "") -> View | None:
        """The view that this client gets; None when there is no such endpoint."""
        base = self._views.get(endpoint)
        if base is None:
            return None
        searching = bool(query) and "search" in parse_qs(query).get("tools", ())
        return self._of(base, token, searching=searching)

    def again(self, view: View, token: str | None) -> View:
        """What the client that got `view` would get now; the same one, if nothing changed."""
        return self._of(self._views[view.endpoint], token, searching=view.searching)

    def _of(self, base: View, token: str | None, *, searching: bool) -> View:
        rules = self._rules_of(token)
        mode: Mode = "search" if searching else rules.mode
        if rules is EVERYTHING and mode == "full":
            return base
        key = (base.endpoint, "" if rules is EVERYTHING else rules.model_dump_json(), searching)
        found = self._restricted.get(key)
        if found is None:
            found = self._restricted[key] = base.restricted(rules, mode)
            found.endpoint, found.searching = base.endpoint, searching
            self._latest.append(found)
        return found

    def add(self, name: str, view: View) -> None:
        """A server came; the endpoint of one that went stays, and offers nothing."""
        view.endpoint = name
        self._views.setdefault(name, view)

    def showing(self, server: str) -> list[View]:
        """The views in which a server is, or was, to be seen."""
        seen = (ALL, server)
        found = [view for name, view in self._views.items() if name in seen]
        return found + [view for key, view in self._restricted.items() if key[0] in seen]
