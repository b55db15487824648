"""The gateway as a whole: views, edge and fronts, put together for one daemon."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from hostwright.gateway import logs
from hostwright.gateway.access import SocketAccess, TcpAccess
from hostwright.gateway.base_link import Party
from hostwright.gateway.behind import Behind
from hostwright.gateway.catalog import Kind
from hostwright.gateway.connect_front import ConnectSocket, HandedLine
from hostwright.gateway.edge import Edge
from hostwright.gateway.http_front import HttpFront
from hostwright.gateway.http_sessions import HttpSessions
from hostwright.gateway.line_front import LineClient
from hostwright.gateway.listening import Listening
from hostwright.gateway.peer import Peer, Site
from hostwright.gateway.resources import Resources
from hostwright.gateway.view import ALL, View, Views
from hostwright.policing import Policing
from hostwright_kit.tokens import Tokens

if TYPE_CHECKING:
    from starlette.types import ASGIApp


KINDS: tuple[Kind, ...] = ("tools", "resources", "prompts")


class Handed(msgspec.Struct):
    """Clients on their way from one daemon to the next."""

    http: list[list[int]]
    """Descriptors of connections, by front."""
    lines: list[HandedLine]


class Serving:
    """All the fronts of one daemon while they are open."""

    def __init__(
        self, fronts: Sequence[HttpFront], lines: ConnectSocket, listening: Listening
    ) -> None:
        self.servers: list[asyncio.Server] = []
        self._fronts = fronts
        self._lines = lines
        self._listening = listening

    async def hand_over(self, seconds: float) -> Handed:
        """Accept nobody any more; give what runs so much time; what can go on is handed over.

        Who connects meanwhile waits in the listeners, of which the caller has copies.
        """
        for server in self.servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + seconds
        self._listening.end(lambda request: not isinstance(request.outlet, LineClient))
        http = asyncio.gather(*(front.hand_over(deadline) for front in self._fronts))
        lines = await self._lines.hand_over(deadline)
        return Handed(await http, lines)


class Gateway:
    """Made once per daemon; told by the servers what changes."""

    def __init__(self, servers: Behind, state_dir: Path, policing: Policing) -> None:
        self._servers = servers
        self._policing = policing
        self.views = Views(self._make_views(), policing.token_rules)
        self.listening = Listening()
        self.resources = Resources(servers)
        self.edge = Edge(servers, self.listening, self.resources)
        self.sessions = HttpSessions(self.edge, self.views, state_dir)
        self._fronts: list[HttpFront] = []
        """Those where tokens are shown."""

    def _make_views(self) -> dict[str, View]:
        servers = self._servers
        about = self._policing.about
        views = {ALL: View("hostwright", servers.catalog, servers.names, about=about)}
        return views | {name: self._view_of(name) for name in servers.names()}

    def _view_of(self, name: str) -> View:
        about = self._policing.about
        return View(f"hostwright-{name}", self._servers.catalog, lambda: (name,), about=about)

    def reloaded(self, before: Sequence[str], touched: Iterable[str]) -> None:
        """Other servers are offered; those `touched` are offered, or no longer, or otherwise."""
        for name in self._servers.names():
            if name not in before:
                self.views.add(name, self._view_of(name))
        for name in touched:
            self.listening.changed(self.views.showing(name), KINDS)

    def tokens_changed(self) -> None:
        """Tokens see something else, or are worth nothing any more: who is connected is told.

        Streams that were opened with a token of no worth end.
        """
        for front in self._fronts:
            front.recheck()
        for session in self.listening.sessions():
            view = self.views.again(session.view, session.client.origin.token)
            if view is not session.view:
                before, session.view = session.view, view
                self.resources.reconsider(session)
                self.listening.tell(session, view.differs(before))
        for listener in self.listening.listeners():
            request = listener.request
            view = self.views.again(request.view, request.asker.origin.token)
            if view is not request.view:
                before, request.view = request.view, view
                self.resources.reconsider(listener)
                self.listening.tell(listener, view.differs(before))

    # -- what servers say ------------------------------------------------------------------------

    def changed(self, server: str, kinds: Iterable[Kind], peer: Peer | None = None) -> None:
        """Lists of a server changed; `peer`: in the session that this client has there."""
        self.listening.changed(self.views.showing(server), kinds, peer)

    def updated(self, server: str, params: Raw, peer: Peer | None = None) -> None:
        """A resource that is watched changed."""
        self.resources.updated(Site(server, peer), params)

    def logged(self, server: str, params: Raw, parties: Sequence[Party]) -> None:
        """A server of the handshake era logged, and does not say for whom.

        So it is for every session that set a level and sees that server, and for nobody else: a
        client of the new era asks for what its own request makes the server say.
        """
        seen_in = {id(view) for view in self.views.showing(server)}
        for session in self.listening.sessions():
            if id(session.view) not in seen_in or not logs.is_wanted(params, session.log_level):
                continue
            waiting = [party for party in parties if party.hearer is session]
            if waiting:
                waiting[-1].logged(params)
            else:
                session.say(logs.line(params))

    def acknowledged(self, server: str, params: Raw, peer: Peer | None = None) -> None:
        """A server tells from now on what it was asked to tell."""
        self.resources.upstream.acknowledged(Site(server, peer), params)

    def is_watched(self, server: str) -> bool:
        """Whether somebody would hear of a change of its resources now."""
        return self.resources.is_watched(server)

    def restarted(self, server: str, peer: Peer | None = None) -> None:
        """A server is there again, or the session that a client has there."""
        self.resources.upstream.renew(Site(server, peer))

    def ended(self, server: str, peer: Peer) -> None:
        """The session of a client at a server is no more."""
        self.resources.upstream.forget(Site(server, peer))

    # -- fronts ----------------------------------------------------------------------------------

    def tcp(
        self, tokens: Tokens, app: ASGIApp, *, required: bool, hosts: Sequence[str]
    ) -> HttpFront:
        """The front of the port."""
        access = TcpAccess(self.views, tokens, required=required, hosts=hosts)
        front = HttpFront(self.edge, self.views, self.sessions, access, app)
        self._fronts.append(front)
        return front

    def local(self, app: ASGIApp) -> HttpFront:
        """The front of the unix socket."""
        access = SocketAccess(self.views)
        return HttpFront(self.edge, self.views, self.sessions, access, app)

    @asynccontextmanager
    async def serving(
        self,
        fronts: Sequence[tuple[HttpFront, socket.socket]],
        connect: socket.socket,
        runtime_dir: Path,
        handed: Handed | None = None,
    ) -> AsyncGenerator[Serving]:
        """Accept clients until left; then end what they have open, gently and bounded.

        `handed` are clients whom another daemon served until now.
        """
        loop = asyncio.get_running_loop()
        lines = ConnectSocket(self.edge, self.views, runtime_dir)
        serving = Serving([front for front, _ in fronts], lines, self.listening)
        async with AsyncExitStack() as stack:
            stack.callback(self.sessions.close)
            for front, listener in fronts:
                unix = listener.family == socket.AF_UNIX
                create = loop.create_unix_server if unix else loop.create_server
                server = await create(front.connection, sock=listener)
                serving.servers.append(server)
                stack.callback(server.close)
            if handed is not None:
                for (front, _), descriptors in zip(fronts, handed.http, strict=True):
                    await front.take_back(descriptors)
                await lines.take_back(handed.lines)
            await stack.enter_async_context(lines.listen(connect))
            try:
                yield serving
            finally:
                self.listening.end()
                await asyncio.gather(*(front.end() for front, _ in fronts))
