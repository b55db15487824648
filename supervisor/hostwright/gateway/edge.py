"""The methods that clients may call, in either era: what is answered here, what a server answers.

Fronts (`line_front.py`, `http_front.py`) bring requests in; here each is checked, and answered from
the view's encoded lists or passed to the server that owns the name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from msgspec import Raw

from hostwright.gateway import codec, metrics, results
from hostwright.gateway.asker import MODERN, VERSION_META, Origin
from hostwright.gateway.behind import Behind
from hostwright.gateway.calls import SERVER_UNAVAILABLE, Call
from hostwright.gateway.catalog import Kind, Owned
from hostwright.gateway.codec import ABSENT, INVALID_PARAMS, Message, RpcError
from hostwright.gateway.envelope import meta_of, open_envelope, params_of, progress_token
from hostwright.gateway.listening import Listener, Listening
from hostwright.gateway.logs import LEVELS, lowest
from hostwright.gateway.request import Interrupted, Outlet, Request
from hostwright.gateway.resources import Resources
from hostwright.gateway.results import tool_error
from hostwright.gateway.session import Session
from hostwright.gateway.view import View
from hostwright.toolsearch import tools as toolsearch
from hostwright_kit.errors import HostError

# What a client asks right after the daemon's start is not answered with half of the truth. A list
# waits less long: one slow server must not keep the others from being seen.
LIST_SECONDS = 10.0
FIND_SECONDS = 20.0
LISTS: Mapping[str, Kind] = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}


class Edge:
    """What clients of every front can ask."""

    def __init__(self, behind: Behind, listening: Listening, resources: Resources) -> None:
        self._behind = behind
        self.listening = listening
        self.resources = resources
        self._waiting: set[asyncio.Future[None]] = set()
        shared: dict[str, Callable[[Request], None]] = {
            **dict.fromkeys(LISTS, self._list),
            "tools/call": self._call_tool,
            "resources/read": self._read,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete,
        }
        self._modern: Mapping[str, Callable[[Request], None]] = {
            **shared,
            "server/discover": lambda request: request.succeed(request.view.discover),
            "subscriptions/listen": self._listen,
        }
        self._legacy: Mapping[str, Callable[[Request], None]] = {
            **shared,
            "ping": lambda request: request.succeed(b"{}"),
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }

    # -- entrances -------------------------------------------------------------------------------

    def serve_modern(
        self,
        message: Message,
        outlet: Outlet,
        view: View,
        origin: Origin,
        *,
        headers: Mapping[str, str] | None = None,
        begin: Callable[[Request], bool] = lambda _: True,
        interrupted: Interrupted | None = None,
        connection: object | None = None,
    ) -> Request:
        """Work on a request that stands alone; raises `RpcError` when it is wrong in itself.

        `connection`: that of a client which has one to itself; `gone` tells its end.
        """
        method = codec.text(message.method) or ""
        envelope = open_envelope(method, params_of(message), origin, headers)
        handle = self._modern.get(method)
        if handle is None:
            raise _not_found(method)
        request = Request(
            bytes(message.id),
            method,
            envelope.params,
            asker=envelope.asker,
            view=view,
            outlet=outlet,
            progress=envelope.progress,
            interrupted=interrupted,
            log_level=envelope.log_level,
            connection=connection,
        )
        if begin(request):
            _handled(handle, request)
        return request

    def serve_legacy(
        self,
        message: Message,
        outlet: Outlet,
        session: Session,
        *,
        interrupted: Interrupted | None = None,
    ) -> Request:
        """Work on a request of a session; raises `RpcError` when it is wrong in itself."""
        method = codec.text(message.method) or ""
        handle = self._legacy.get(method)
        if handle is None:
            raise _not_found(method)
        params = params_of(message)
        meta = meta_of(params)
        if meta is not None and VERSION_META in meta:
            raise RpcError(
                codec.INVALID_REQUEST,
                "This session is of the handshake era; a request with the envelope of "
                f"{MODERN} is not for it.",
            )
        request = Request(
            bytes(message.id),
            method,
            params,
            asker=session.client,
            view=session.view,
            outlet=outlet,
            session=session,
            progress=progress_token(meta),
            interrupted=interrupted,
            log_level=session.log_level,
        )
        if session.begin(request):
            _handled(handle, request)
        return request

    def before_initialize(self, method: str) -> RpcError:
        """Why a request of the handshake era is refused that comes before the handshake."""
        if method not in self._legacy:
            return _not_found(method)
        return RpcError(INVALID_PARAMS, "Open the session first: initialize.")

    def open(self, session: Session) -> None:
        """A session says that it is ready (`notifications/initialized`)."""
        session.initialized = True
        self.listening.join(session)

    def watch_again(self, session: Session, uris: Iterable[str]) -> None:
        """Watch for a session what it watched before it was away, or before this daemon was."""
        wanted = list(uris)
        if not wanted:
            return

        async def later() -> None:
            await self._behind.met(session.view.select(), FIND_SECONDS)
            for uri in wanted:
                await self.resources.watch_for(session, uri)

        task = asyncio.ensure_future(later())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def close(self, session: Session) -> None:
        """A session ended."""
        self.listening.leave(session)
        self.resources.forget(session)
        session.close()
        self.gone(session)
        if session.log_level is not None:
            self._levels_changed()

    def gone(self, connection: object) -> None:
        """A connection with which a client ends was closed."""
        self._behind.gone(connection)

    def roots_changed(self, session: Session) -> None:
        """The client's folders are others now (`notifications/roots/list_changed`)."""
        self._behind.roots_changed(session)

    # -- lists -----------------------------------------------------------------------------------

    def _list(self, request: Request) -> None:
        cursor = request.params.get("cursor", ABSENT)
        where = codec.text(cursor)
        if where is None and bytes(cursor) not in (b"", codec.NULL):
            raise RpcError(INVALID_PARAMS, "A cursor is a text.")
        kind = LISTS[request.method]

        def answer() -> None:
            request.succeed(self._behind.seen(request).page(kind, where, modern=request.modern))

        self._once_met(request, LIST_SECONDS, answer)

    def _once_met(self, request: Request, seconds: float, go: Callable[[], None]) -> None:
        """Go on now; or, while servers are starting, when they have been met."""
        servers = request.view.select()
        if not self._behind.unmet(servers):
            go()
            return

        async def later() -> None:
            await self._behind.met(servers, seconds)
            if request.open:
                _handled(lambda _: go(), request)

        self._run(request, later())

    def _run(self, request: Request, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

        def cancel() -> None:
            task.cancel()

        request.on_cancel = cancel

    # -- what servers answer ---------------------------------------------------------------------

    def _call_tool(self, request: Request) -> None:
        name = _wanted(request, "name")
        if codec.first(request.params.get("arguments", ABSENT)) not in (b"", b"{", b"n"):
            raise RpcError(INVALID_PARAMS, "arguments is an object.")
        if request.view.mode == "search" and name in toolsearch.NAMES:
            self._once_met(request, FIND_SECONDS, lambda: self._search(request, name))
        else:
            self._to_tool(request, name)

    def _search(self, request: Request, name: str) -> None:
        """One of the three tools that stand for all others."""
        view, raw = self._behind.seen(request).tools, request.params.get("arguments", ABSENT)
        arguments = codec.value(raw) if codec.first(raw) == b"{" else {}
        try:
            if name != toolsearch.CALL:
                answer = toolsearch.answer(name, arguments, view)
                request.succeed(results.made(answer, modern=request.modern))
                return
            name, _ = toolsearch.target(arguments, view)
        except HostError as error:
            request.succeed(tool_error(error, modern=request.modern))
            return
        # As they came: built and encoded again they might not be the same.
        inner = codec.fields(raw).get("arguments", Raw(b"{}"))
        request.params = {**request.params, "arguments": inner}
        self._to_tool(request, name)

    def _to_tool(self, request: Request, name: str) -> None:
        def unknown() -> None:
            metrics.unknown_tool()
            error = HostError(
                f"There is no tool {name!r} here.",
                fix="Ask tools/list for the names.",
                code="unknown_tool",
            )
            if request.view.mode == "search":
                error = toolsearch.unknown(name, request.view.tools)
            request.succeed(tool_error(error, modern=request.modern))

        self._to_owner(request, "tools", name, unknown)

    def _get_prompt(self, request: Request) -> None:
        name = _wanted(request, "name")
        if codec.first(request.params.get("arguments", ABSENT)) not in (b"", b"{", b"n"):
            raise RpcError(INVALID_PARAMS, "arguments is an object.")

        def unknown() -> None:
            request.fail(RpcError(INVALID_PARAMS, f"Unknown prompt: {name!r}"))

        self._to_owner(request, "prompts", name, unknown)

    def _to_owner(
        self, request: Request, kind: Kind, name: str, unknown: Callable[[], None]
    ) -> None:
        owned = self._behind.seen(request).owner(kind, name)
        if self._refused(request, owned):
            return
        if owned is not None:
            self._pass_on(request, owned, name)
            return

        def again() -> None:
            if (found := self._behind.seen(request).owner(kind, name)) is not None:
                self._pass_on(request, found, name)
            else:
                unknown()

        self._once_met(request, FIND_SECONDS, again)

    def _refused(self, request: Request, owned: Owned | None = None) -> bool:
        """Whether everything is stopped; then the request has its answer."""
        panic = self._behind.panic
        if panic is None or panic.now is None:
            return False
        server, name = (owned.server, owned.name) if owned is not None else (None, None)
        error = panic.refusal(caller=request.asker.name, server=server, tool=name)
        if error is None:
            return False
        if request.method == "tools/call":
            request.succeed(tool_error(error, modern=request.modern))
        else:
            data = codec.encode(results.detail(error))
            request.fail(RpcError(SERVER_UNAVAILABLE, str(error), data))
        return True

    def _pass_on(self, request: Request, owned: Owned, called: str) -> None:
        params = request.params
        if owned.name != called or request.view.mode == "search":
            params = {**params, "name": Raw(codec.encode(owned.name))}
        Call(self._behind, request, owned, params).start()

    def _read(self, request: Request) -> None:
        uri = _wanted(request, "uri")
        if not self._refused(request):
            self._once_met(request, FIND_SECONDS, lambda: self.resources.read(request, uri))

    def _complete(self, request: Request) -> None:
        if not self._refused(request):
            self.resources.complete(request)

    # -- what is kept here -----------------------------------------------------------------------

    def _listen(self, request: Request) -> None:
        def listen() -> None:
            listener = self.listening.listen(request)
            if not listener.uris:
                request.on_cancel = lambda: self.listening.forget(request)
                listener.acknowledge()
                return
            # What is acknowledged is told from then on: the servers must know of it first.
            watching = asyncio.ensure_future(self._watch(listener))
            self._waiting.add(watching)
            watching.add_done_callback(self._waiting.discard)

            def forget() -> None:
                watching.cancel()
                self.listening.forget(request)
                self.resources.forget(listener)

            request.on_cancel = forget

        if request.interrupted is None:
            listen()
        else:
            # It was acknowledged by another daemon; here it must be known first who has what.
            self._once_met(request, FIND_SECONDS, listen)

    async def _watch(self, listener: Listener) -> None:
        await self.resources.watch(listener)
        if listener.request.open:
            listener.acknowledge()

    def _set_level(self, request: Request) -> None:
        level = codec.text(request.params.get("level"))
        if level not in LEVELS:
            raise RpcError(INVALID_PARAMS, f"level is one of {', '.join(LEVELS)}.")
        if request.session is not None:
            request.session.log_level = level
            self._levels_changed()
        request.succeed(b"{}")

    def _levels_changed(self) -> None:
        self._behind.log_from(lowest(one.log_level for one in self.listening.sessions()))

    def _subscribe(self, request: Request) -> None:
        uri = _wanted(request, "uri")
        if self._refused(request):
            return

        def subscribe() -> None:
            self._run(request, self.resources.subscribe(request, uri))

        self._once_met(request, FIND_SECONDS, subscribe)

    def _unsubscribe(self, request: Request) -> None:
        self._run(request, self.resources.unsubscribe(request, _wanted(request, "uri")))


def _handled(handle: Callable[[Request], None], request: Request) -> None:
    try:
        handle(request)
    except RpcError as error:
        request.fail(error)


def _wanted(request: Request, key: str) -> str:
    found = codec.text(request.params.get(key))
    if found is None:
        raise RpcError(INVALID_PARAMS, f"{request.method} needs {key}, a text.")
    return found


def _not_found(method: str) -> RpcError:
    return RpcError(codec.METHOD_NOT_FOUND, "Method not found", codec.encode(method[:200]))
