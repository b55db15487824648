"""Resources that are found through templates, completed, and watched.

A resource need not be listed: whoever has a template that fits is asked, one after the other. What
a client watches (`resources/subscribe`, or `resourceSubscriptions` of `subscriptions/listen`) is
watched once at the server, however many clients want it, and again after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.behind import Behind
from hostwright.gateway.calls import Call
from hostwright.gateway.catalog import Owned
from hostwright.gateway.codec import ABSENT, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from hostwright.gateway.listening import MAX_URIS, Listener
from hostwright.gateway.peer import Site
from hostwright.gateway.request import Request
from hostwright.gateway.session import Session
from hostwright.gateway.upstream import Upstream
from hostwright.gateway.view import View
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

NOT_FOUND = (INVALID_PARAMS, -32002)
"""The new era's code, and the one of the handshake era."""
MAX_WATCHED = 10_000
MAX_DEPTH = 32
"""How far above what changed a client may watch and still hear of it."""
WATCH_SECONDS = 15.0
NO_COMPLETION = b'{"completion":{"values":[]}}'
Watcher = Session | Listener
Place = tuple[str, str]
"""A server, and the name that it knows a resource by."""


class Resources:
    """Reading, completing, watching."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._watched: dict[Site, dict[str, dict[Watcher, str]]] = {}
        self.upstream = Upstream(behind, lambda site: self._watched.get(site, {}), self._missed)

    def read(self, request: Request, uri: str) -> None:
        """Ask the servers that may have it, until one has."""
        places = _places(self._behind.seen(request), uri)

        def ask_next(_: RpcError | None = None) -> bool:
            if not places:
                data = codec.encode({"uri": uri})
                request.fail(RpcError(INVALID_PARAMS, f"Resource not found: {uri!r}", data))
                return True
            server, name = places.pop(0)
            params = {**request.params, "uri": Raw(codec.encode(name))}
            call = Call(self._behind, request, Owned(server, name, uri, {}), params)
            # Not one of this server's templates; the next may know it.
            call.otherwise = lambda error: error.code in NOT_FOUND and ask_next(error)
            call.start()
            return True

        ask_next()

    def complete(self, request: Request) -> None:
        """Pass a question for completions to whoever owns the prompt or the template."""
        ref = codec.value(request.params.get("ref", ABSENT))
        argument = codec.value(request.params.get("argument", ABSENT))
        if not isinstance(ref, dict) or not isinstance(argument, dict):
            raise RpcError(INVALID_PARAMS, "completion/complete needs ref and argument, objects.")
        key, kind = (
            ("uri", "resourceTemplates")
            if ref.get("type") == "ref/resource"
            else (
                "name",
                "prompts",
            )
        )
        shown = ref.get(key)
        seen = self._behind.seen(request)
        owned = seen.owner(kind, shown) if isinstance(shown, str) else None  # type: ignore[arg-type]
        if owned is None:
            raise RpcError(INVALID_PARAMS, f"There is no {key} {str(shown)[:200]!r} here.")
        params = {**request.params, "ref": Raw(codec.encode({**ref, key: owned.name}))}
        call = Call(self._behind, request, owned, params)

        def none_known(error: RpcError) -> bool:
            if error.code != METHOD_NOT_FOUND:
                return False
            more = b'"resultType":"complete"'
            request.succeed(
                codec.with_members(NO_COMPLETION, more) if request.modern else NO_COMPLETION
            )
            return True

        call.otherwise = none_known
        call.start()

    # -- watching --------------------------------------------------------------------------------

    async def subscribe(self, request: Request, uri: str) -> None:
        """`resources/subscribe` of a session."""
        session = request.session
        places = _places(self._behind.seen(request), uri)
        if session is None or not places:
            data = codec.encode({"uri": uri})
            request.fail(RpcError(NOT_FOUND[1], f"Resource not found: {uri!r}", data))
            return
        able = self._able(places)
        if able is None:
            request.fail(RpcError(METHOD_NOT_FOUND, "Method not found: nothing to subscribe to."))
            return
        if len(session.subscribed) >= MAX_URIS:
            request.fail(RpcError(codec.INTERNAL_ERROR, f"{MAX_URIS} resources are watched."))
            return
        try:
            await self._watch(able, session, uri)
        except RpcError as error:
            request.fail(error)
        except HostError as error:
            request.fail(RpcError(codec.INTERNAL_ERROR, str(error)))
        else:
            session.subscribed.add(uri)
            request.succeed(b"{}")

    async def watch_for(self, session: Session, uri: str) -> None:
        """The same once more for a session that was away, or that another daemon served."""
        if await self._watched_for(session, uri):
            session.subscribed.add(uri)

    async def unsubscribe(self, request: Request, uri: str) -> None:
        """`resources/unsubscribe` of a session."""
        if (session := request.session) is not None:
            session.subscribed.discard(uri)
            for place in _places(self._behind.seen(request), uri):
                self._unwatch(place, session)
        request.succeed(b"{}")

    async def watch(self, listener: Listener) -> None:
        """What a client of the new era wants to hear of; what cannot be watched is left out."""
        work = {uri: asyncio.create_task(self._watched_for(listener, uri)) for uri in listener.uris}
        try:
            await asyncio.wait(work.values(), timeout=WATCH_SECONDS)
        finally:
            for task in work.values():
                task.cancel()
        listener.uris = {
            uri
            for uri, task in work.items()
            if task.done() and not task.cancelled() and task.result()
        }

    def forget(self, watcher: Watcher) -> None:
        """It hears nothing more."""
        for site, names in list(self._watched.items()):
            for name in [name for name, who in names.items() if watcher in who]:
                self._unwatch((site.server, name), watcher)

    def reconsider(self, watcher: Watcher) -> None:
        """Its client sees less than before: it hears no more of the rest."""
        view = self._behind.seen(_client(watcher))
        for site, names in list(self._watched.items()):
            for name in [name for name, who in names.items() if watcher in who]:
                shown = names[name][watcher]
                if (site.server, name) in _places(view, shown):
                    continue
                self._unwatch((site.server, name), watcher)
                if isinstance(watcher, Session):
                    watcher.subscribed.discard(shown)

    def updated(self, site: Site, params: Raw) -> None:
        """A server says that a resource changed, or one below a resource."""
        said = codec.fields(params) if codec.first(params) == b"{" else {}
        found = codec.text(said.get("uri"))
        if found is None:
            return
        names, name = self._watched.get(site, {}), found
        for _ in range(MAX_DEPTH):
            for watcher, shown in list(names.get(name, {}).items()):
                _tell(watcher, shown + found[len(name) :])
            name, slash, _ = name.rpartition("/")
            if not slash:
                return

    def _missed(self, site: Site) -> None:
        """What changed for a while, a server did not tell: all that it tells may have."""
        self._behind.reread(site.server, site.peer)
        for watchers in list(self._watched.get(site, {}).values()):
            for watcher, shown in list(watchers.items()):
                _tell(watcher, shown)

    def is_watched(self, server: str) -> bool:
        """Whether somebody would hear of it now."""
        return any(
            watcher.hears
            for site, names in self._watched.items()
            if site.server == server
            for watchers in names.values()
            for watcher in watchers
        )

    def _able(self, places: Iterable[Place]) -> Place | None:
        """The first whose server tells when a resource changes."""
        return next((one for one in places if self.upstream.can_watch(one[0])), None)

    async def _watched_for(self, watcher: Watcher, uri: str) -> bool:
        view = self._behind.seen(_client(watcher))
        if (place := self._able(_places(view, uri))) is None:
            return False
        try:
            await self._watch(place, watcher, uri)
        except (RpcError, HostError) as error:
            logger.info("a subscription was not passed on to %s: %s", place[0], error)
            return False
        return True

    async def _watch(self, place: Place, watcher: Watcher, shown: str) -> None:
        site, name = self._site(place, watcher), place[1]
        names = self._watched.setdefault(site, {})
        if name not in names and sum(map(len, self._watched.values())) >= MAX_WATCHED:
            raise RpcError(codec.INTERNAL_ERROR, f"{MAX_WATCHED} resources are watched.")
        watchers = names.setdefault(name, {})
        before = watcher in watchers
        # First, so that whoever vanishes meanwhile is found and forgotten.
        watchers[watcher] = shown
        try:
            await self.upstream.watch(site, name)
        except BaseException:
            if not before:
                self._unwatch(place, watcher)
            raise

    def _unwatch(self, place: Place, watcher: Watcher) -> None:
        site, name = self._site(place, watcher), place[1]
        names = self._watched.get(site, {})
        watchers = names.get(name, {})
        if watchers.pop(watcher, None) is not None and not watchers:
            del names[name]
            if not names:
                del self._watched[site]
            self.upstream.unwatch(site, name)

    def _site(self, place: Place, watcher: Watcher) -> Site:
        return Site(place[0], self._behind.peer_at(place[0], _client(watcher)))


def _client(watcher: Watcher) -> Session | Request:
    return watcher if isinstance(watcher, Session) else watcher.request


def _tell(watcher: Watcher, shown: str) -> None:
    if isinstance(watcher, Session):
        body = codec.encode({"uri": shown})
        watcher.say(codec.notice("notifications/resources/updated", body))
    else:
        watcher.tell("resources/updated", {"uri": shown})


def _places(view: View, uri: str) -> list[Place]:
    """The servers that may have a resource, each with the name that it knows it by."""
    if (owned := view.owner("resources", uri)) is not None:
        return [(owned.server, owned.name)]
    found: dict[Place, None] = {}
    for item in view.listing("resourceTemplates"):
        # What stands before the first variable (RFC 6570) tells most servers apart; each judges
        # the rest itself.
        if uri.startswith(item.shown.partition("{")[0]):
            found[item.server, uri.removeprefix(item.shown.removesuffix(item.name))] = None
    return list(found)
