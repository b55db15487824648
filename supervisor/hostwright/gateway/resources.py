"""Resources that are found through templates, completed, and watched.

A resource need not be listed: whoever has a template that fits is asked, one after the other. What
a client watches (`resources/subscribe`, or `resourceSubscriptions` of `subscriptions/listen`) is
watched once at the server, however many clients want it, and again after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.behind import Behind
from hostwright.gateway.calls import Call
from hostwright.gateway.catalog import Owned
from hostwright.gateway.codec import ABSENT, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from hostwright.gateway.listening import Listener
from hostwright.gateway.request import Request
from hostwright.gateway.session import Session
from hostwright.gateway.view import View
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

NOT_FOUND = (INVALID_PARAMS, -32002)
"""The new era's code, and the one of the handshake era."""
MAX_WATCHED = 10_000
NO_COMPLETION = b'{"completion":{"values":[]}}'
Watcher = Session | Listener
Place = tuple[str, str]
"""A server, and the name that it knows a resource by."""


class Resources:
    """Reading, completing, watching."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._watched: dict[Place, dict[Watcher, str]] = {}
        self._working: set[asyncio.Task[None]] = set()

    def read(self, request: Request, uri: str) -> None:
        """Ask the servers that may have it, until one has."""
        places = _places(request.view, uri)

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
        owned = request.view.owner(kind, shown) if isinstance(shown, str) else None  # type: ignore[arg-type]
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
        places = _places(request.view, uri)
        if session is None or not places:
            data = codec.encode({"uri": uri})
            request.fail(RpcError(NOT_FOUND[1], f"Resource not found: {uri!r}", data))
            return
        able = [one for one in places if self._can_watch(one[0])]
        if not able:
            request.fail(RpcError(METHOD_NOT_FOUND, "Method not found: nothing to subscribe to."))
            return
        try:
            await self._watch(able[0], session, uri)
        except RpcError as error:
            request.fail(error)
        except HostError as error:
            request.fail(RpcError(codec.INTERNAL_ERROR, str(error)))
        else:
            session.subscribed.add(uri)
            request.succeed(b"{}")

    async def watch_for(self, session: Session, uri: str) -> None:
        """The same once more for a session that another daemon served, as far as it can be."""
        able = [one for one in _places(session.view, uri) if self._can_watch(one[0])]
        if not able:
            return
        try:
            await self._watch(able[0], session, uri)
        except (RpcError, HostError) as error:
            logger.info("a subscription was not renewed: %s", error)
        else:
            session.subscribed.add(uri)

    async def unsubscribe(self, request: Request, uri: str) -> None:
        """`resources/unsubscribe` of a session."""
        if (session := request.session) is not None:
            session.subscribed.discard(uri)
            for place in _places(request.view, uri):
                self._unwatch(place, session)
        request.succeed(b"{}")

    def watch(self, listener: Listener) -> None:
        """What a client of the new era wants to hear of; what cannot be watched is never told."""
        for uri in listener.uris:
            for place in _places(listener.request.view, uri)[:1]:
                if self._can_watch(place[0]):
                    self._run(self._watch(place, listener, uri))
        ended = listener.request.on_cancel

        def forget() -> None:
            ended()
            self.forget(listener)

        listener.request.on_cancel = forget

    def forget(self, watcher: Watcher) -> None:
        """It hears nothing more."""
        for place in [place for place, who in self._watched.items() if watcher in who]:
            self._unwatch(place, watcher)

    def updated(self, server: str, params: Raw) -> None:
        """A server says that a resource changed."""
        said = codec.fields(params) if codec.first(params) == b"{" else {}
        name = codec.text(said.get("uri"))
        if name is None:
            return
        for watcher, shown in list(self._watched.get((server, name), {}).items()):
            if isinstance(watcher, Session):
                body = codec.encode({"uri": shown})
                watcher.say(codec.notice("notifications/resources/updated", body))
            else:
                watcher.tell("resources/updated", {"uri": shown})

    def renew(self, server: str) -> None:
        """A server was started anew and knows of no subscription."""
        for place in [place for place in self._watched if place[0] == server]:
            self._run(self._tell_server("resources/subscribe", place))

    def _can_watch(self, server: str) -> bool:
        return bool((self._behind.capabilities(server).get("resources") or {}).get("subscribe"))

    async def _watch(self, place: Place, watcher: Watcher, shown: str) -> None:
        if place not in self._watched:
            if len(self._watched) >= MAX_WATCHED:
                raise RpcError(codec.INTERNAL_ERROR, f"{MAX_WATCHED} resources are watched.")
            await self._tell_server("resources/subscribe", place)
        self._watched.setdefault(place, {})[watcher] = shown

    def _unwatch(self, place: Place, watcher: Watcher) -> None:
        watchers = self._watched.get(place, {})
        if watchers.pop(watcher, None) is not None and not watchers:
            del self._watched[place]
            self._run(self._tell_server("resources/unsubscribe", place))

    async def _tell_server(self, method: str, place: Place) -> None:
        link = await self._behind.link(place[0])
        await link.request(method, {"uri": place[1]})

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except (RpcError, HostError) as error:
                logger.info("a subscription was not passed on: %s", error)

        task = asyncio.create_task(logged())
        self._working.add(task)
        task.add_done_callback(self._working.discard)


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
