"""The gateway as a whole: views, edge and fronts, put together for one daemon."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Raw

from hostwright.gateway.access import SocketAccess, TcpAccess
from hostwright.gateway.behind import Behind
from hostwright.gateway.catalog import Kind
from hostwright.gateway.connect_front import ConnectSocket
from hostwright.gateway.edge import Edge
from hostwright.gateway.http_front import HttpFront
from hostwright.gateway.http_sessions import HttpSessions
from hostwright.gateway.listening import Listening
from hostwright.gateway.resources import Resources
from hostwright.gateway.view import ALL, View, Views
from hostwright.policing import Policing
from hostwright_kit.tokens import Tokens

if TYPE_CHECKING:
    from starlette.types import ASGIApp


KINDS: tuple[Kind, ...] = ("tools", "resources", "prompts")


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

    # -- what servers say ------------------------------------------------------------------------

    def changed(self, server: str, kinds: Iterable[Kind]) -> None:
        """Lists of a server changed."""
        self.listening.changed(self.views.showing(server), kinds)

    def updated(self, server: str, params: Raw) -> None:
        """A resource that is watched changed."""
        self.resources.updated(server, params)

    def restarted(self, server: str) -> None:
        """A server is there again."""
        self.resources.renew(server)

    # -- fronts ----------------------------------------------------------------------------------

    def tcp(
        self, tokens: Tokens, app: ASGIApp, *, required: bool, hosts: Sequence[str]
    ) -> HttpFront:
        """The front of the port."""
        access = TcpAccess(self.views, tokens, required=required, hosts=hosts)
        return HttpFront(self.edge, self.views, self.sessions, access, app)

    def local(self, app: ASGIApp) -> HttpFront:
        """The front of the unix socket."""
        access = SocketAccess(self.views)
        return HttpFront(self.edge, self.views, self.sessions, access, app)

    @asynccontextmanager
    async def serving(
        self,
        fronts: Sequence[tuple[HttpFront, socket.socket]],
        connect: socket.socket,
    ) -> AsyncGenerator[None]:
        """Accept clients until left; then end what they have open, gently and bounded."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            stack.callback(self.sessions.close)
            for front, listener in fronts:
                unix = listener.family == socket.AF_UNIX
                create = loop.create_unix_server if unix else loop.create_server
                server = await create(front.connection, sock=listener)
                stack.callback(server.close)
            await stack.enter_async_context(ConnectSocket(self.edge, self.views).listen(connect))
            try:
                yield
            finally:
                self.listening.end()
                await asyncio.gather(*(front.end() for front, _ in fronts))
