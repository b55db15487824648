"""What one client sees: the servers behind an endpoint, as lists that are encoded once.

A view is made for an endpoint (all servers, or one); `Views.resolve` is the one place that decides
which view a request gets, from the endpoint, the token and the query. Its pages are bytes, made
when first asked for and kept until the catalog changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hostwright import __version__
from hostwright.gateway import codec
from hostwright.gateway.asker import LEGACY, MODERN, SERVER_META
from hostwright.gateway.catalog import Catalog, Kind, Owned
from hostwright.gateway.codec import RpcError
from hostwright.gateway.mirrored import Mirrored, mirrored

ALL = "*"
"""The name of the endpoint that offers every server."""
PAGE_SIZE = 200
MAX_CURSOR_DIGITS = 9
INSTRUCTIONS = (
    "Tools of this machine, under its owner's control. A call that needs the owner's approval "
    "answers with an error that says how it is given."
)
# The new era wants them said; what changes is announced, so nothing is cached blindly.
CACHE = b'"ttlMs":0,"cacheScope":"private"'


class View:
    """A selection of servers, as one client sees them."""

    def __init__(self, name: str, catalog: Catalog, select: Callable[[], Sequence[str]]) -> None:
        self.name = name
        self.catalog = catalog
        self.select = select
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
            self._pages, self._mirrored, self._pages_of = {}, {}, now

    def owner(self, kind: Kind, shown: str) -> Owned | None:
        """Who owns the entry that clients know as `shown`."""
        return self.catalog.owner(kind, shown, self.select())

    def listing(self, kind: Kind) -> list[Owned]:
        """All entries of one kind."""
        return self.catalog.listing(kind, self.select())

    def _encoded(self, kind: Kind, start: int, *, modern: bool) -> bytes:
        items = self.listing(kind)
        body = codec.encode({kind: [item.entry for item in items[start : start + PAGE_SIZE]]})
        if start + PAGE_SIZE < len(items):
            body = codec.with_members(body, b'"nextCursor":"%d"' % (start + PAGE_SIZE))
        return codec.with_members(body, self._modern()) if modern else body

    def _modern(self) -> bytes:
        return b'"resultType":"complete",' + CACHE + b"," + self._stamp

    def _position(self, kind: Kind, cursor: str) -> int:
        ours = cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_CURSOR_DIGITS
        if not ours or int(cursor) > len(self.listing(kind)):
            raise RpcError(codec.INVALID_PARAMS, f"The cursor {cursor[:40]!r} is not one of ours.")
        return int(cursor)


class Views:
    """All endpoints, and which view of one a client gets."""

    def __init__(self, views: Mapping[str, View]) -> None:
        self._views = dict(views)

    def names(self) -> list[str]:
        """The endpoints with a name of their own."""
        return sorted(set(self._views) - {ALL})

    def resolve(self, endpoint: str, token: str | None = None, query: str = "") -> View | None:
        """The view that this client gets; None when there is no such endpoint."""
        del token, query  # Every client sees an endpoint alike.
        return self._views.get(endpoint)

    def add(self, name: str, view: View) -> None:
        """A server came; the endpoint of one that went stays, and offers nothing."""
        self._views.setdefault(name, view)

    def showing(self, server: str) -> list[View]:
        """The views in which a server is, or was, to be seen."""
        return [view for name, view in self._views.items() if name in (ALL, server)]
