"""HTTP for MCP clients, without a stack of layers for each call: all connections of a listener.

`/mcp` and `/mcp/NAME` are answered by the gateway (`http_exchange.py`), every other path by an ASGI
application (`asgi.py`). A connection is an `HttpConnection` (`http_connection.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostwright.gateway.access import Access
from hostwright.gateway.edge import Edge
from hostwright.gateway.http_connection import HttpConnection
from hostwright.gateway.http_head import Head
from hostwright.gateway.http_sessions import HttpSessions
from hostwright.gateway.view import View, Views

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SWEEP_SECONDS = 5.0
GRACE_SECONDS = 1.0
LOOK_SECONDS = 0.005


class HttpFront:
    """What all connections of one listener share."""

    def __init__(
        self,
        edge: Edge,
        views: Views,
        sessions: HttpSessions,
        access: Access,
        app: ASGIApp,
    ) -> None:
        self.edge = edge
        self.views = views
        self.sessions = sessions
        self.access = access
        self.app = app
        self.ending = False
        self.idle = asyncio.Event()
        """While it ends: nothing runs any longer."""
        self.connections: set[HttpConnection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    def connection(self) -> HttpConnection:
        """The protocol of a new connection."""
        if self._sweeping is None:
            self._sweep()
        return HttpConnection(self)

    def view(self, head: Head) -> View | None:
        """What the client of this request sees."""
        endpoint = head.endpoint
        if endpoint is None:
            return None
        return self.views.resolve(endpoint, head.origin.token, head.query.decode("latin-1"))

    def recheck(self) -> None:
        """Who may come in changed: end the streams of those who may no longer."""
        for connection in list(self.connections):
            connection.recheck()

    async def end(self) -> None:
        """Close streams at once, give requests a moment, then close everything."""
        self.ending = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self.connections):
            connection.end(streams_only=True)
        if any(one.busy for one in self.connections):
            self.idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.idle.wait(), GRACE_SECONDS)
        for connection in list(self.connections):
            connection.end(streams_only=False)
        await asyncio.sleep(0)

    async def hand_over(self, deadline: float) -> list[int]:
        """Let what runs end until `deadline` (of the loop's clock), then stop reading.

        Returns copies of the descriptors of those connections that can go on with another daemon.
        The rest is as it is, for `end`.
        """
        for connection in self.connections:
            connection.end_stream()
        handed: dict[HttpConnection, int] = {}
        while True:
            for connection in self.connections - handed.keys():
                if connection.hold():
                    handed[connection] = os.dup(connection.fileno())
            if not self.connections - handed.keys() or self._clock() >= deadline:
                return list(handed.values())
            await asyncio.sleep(LOOK_SECONDS)

    async def take_back(self, handed: Sequence[int]) -> None:
        """Go on with connections of another daemon."""
        loop = asyncio.get_running_loop()
        for fd in handed:
            with contextlib.suppress(OSError):  # its client went meanwhile
                await loop.connect_accepted_socket(self.connection, socket.socket(fileno=fd))

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def answered(self) -> None:
        """A request was answered, or its client went."""
        if self.ending and not any(one.busy for one in self.connections):
            self.idle.set()

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(now)
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
