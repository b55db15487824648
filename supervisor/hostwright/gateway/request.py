"""One request of a client, from its arrival to its one answer.

A `Request` knows who asks, through which view, and where the answer goes; it does not know how
(`Outlet`: a line on a pipe, an HTTP response, an event on a stream). It is answered at most once:
what comes after a cancellation or a disconnect finds it closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import Asker
from hostwright.gateway.codec import Fields, RpcError
from hostwright.gateway.peer import Peer
from hostwright.gateway.session import Session
from hostwright.gateway.view import View


class Interrupted(NamedTuple):
    """That a request was begun by a daemon that is gone."""

    since: float
    whole: bool
    """Whether everything that it said is known."""


class Outlet(Protocol):
    """Where a client hears of one request."""

    @property
    def carrier(self) -> Mapping[str, str]:
        """What came beside the message: HTTP's headers, in lower case."""
        ...

    def respond(self, request: Request, line: bytes, code: int | None) -> None:
        """The answer, at last; `code` is that of an error."""
        ...

    def tell(self, request: Request, line: bytes) -> None:
        """A message on the way to it."""
        ...

    def report(self, request: Request, line: bytes) -> None:
        """Progress: advisory, so dropped while the client does not read."""
        ...

    def ask(self, request: Request, line: bytes) -> None:
        """A question to the client, which the answer waits for."""
        ...


def _nothing() -> None:
    """What there is to cancel before anything was begun."""


class Request:
    """A request that is being worked on."""

    __slots__ = (
        *(
            "asker",
            "connection",
            "id",
            "interrupted",
            "key",
            "log_level",
            "method",
            "on_cancel",
            "open",
        ),
        *("outlet", "params", "progress", "session", "view"),
    )

    def __init__(
        self,
        message_id: bytes,
        method: str,
        params: Fields,
        *,
        asker: Asker,
        view: View,
        outlet: Outlet,
        session: Session | None = None,
        progress: bytes | None = None,
        interrupted: Interrupted | None = None,
        log_level: str | None = None,
        connection: object | None = None,
    ) -> None:
        """`session` is that of a client of the handshake era; `progress` its token, encoded.

        `log_level`: from which on it is told what its server logs; `connection`: what ends with
        its client, where that is known.
        """
        self.connection = session or connection
        self.log_level = log_level
        self.interrupted = interrupted
        self.id = message_id
        self.key = codec.request_id(Raw(message_id))
        self.method = method
        self.params = params
        self.asker = asker
        self.view = view
        self.outlet = outlet
        self.session = session
        self.progress = progress
        self.open = True
        self.on_cancel: Callable[[], None] = _nothing

    @property
    def modern(self) -> bool:
        """Whether it stands alone, as in the revision 2026-07-28."""
        return self.session is None

    @property
    def peer(self) -> Peer:
        """The client."""
        who = self.asker
        return Peer(self.connection, who.origin, who.client, who.version, who.capabilities)

    def succeed(self, result: bytes) -> None:
        """Answer."""
        if self.open:
            self._over()
            self.outlet.respond(self, codec.answer(self.id, result), None)

    def fail(self, error: RpcError) -> None:
        """Answer with an error."""
        if self.open:
            self._over()
            self.outlet.respond(self, codec.failure(self.id, error), error.code)

    def cancel(self) -> None:
        """Nobody waits for the answer any longer."""
        if self.open:
            self._over()
            self.on_cancel()

    def _over(self) -> None:
        self.open = False
        if self.session is not None:
            self.session.end(self)
