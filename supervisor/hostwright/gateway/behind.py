"""What the gateway asks of those behind it: the servers, and the guard of calls to strangers."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hostwright.gateway.base_link import BaseLink
from hostwright.gateway.catalog import Catalog, Owned
from hostwright.gateway.codec import Fields
from hostwright.gateway.held import HeldCalls
from hostwright.gateway.peer import Peer
from hostwright.gateway.request import Request
from hostwright.gateway.session import Session
from hostwright.gateway.view import View
from hostwright.telemetry import Tracer
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.gateway.calls import Call


class Guarded(Protocol):
    """What a guard of third-party calls is given: the call, and the way to make it."""

    owned: Owned
    request: Request

    def act(self, changes: Fields, *, again: bool) -> Awaitable[bytes]:
        """Ask the server, with these params changed (`ABSENT`: left out); the result as it came.

        `again`: whether what may be repeated is, should the server end under it.
        """
        ...

    def lost(self) -> Awaitable[HostError]:
        """What is known when the server ended under it."""
        ...


class Guard(Protocol):
    """Policy, approval and record around the calls to servers that have none inside."""

    def is_free(self, call: Guarded) -> bool:
        """Whether this one needs none of that."""
        ...

    def __call__(self, call: Guarded) -> Awaitable[bytes]:
        """The result that the client gets, of `call.act()` or instead of it."""
        ...


class Events(Protocol):
    """Takes what happens. Cheap; never raises."""

    def emit(self, kind: str, /, **fields: Any) -> None:
        """One event."""
        ...


class Stops(Protocol):
    """What may stop everything."""

    @property
    def now(self) -> object | None:
        """What stops it now; None: nothing."""
        ...

    def refusal(
        self, *, caller: str, server: str | None = None, tool: str | None = None
    ) -> HostError | None:
        """Why this is not done, if it is not; on record."""
        ...


class Behind(Protocol):
    """The servers behind the gateway."""

    catalog: Catalog
    guard: Guard | None
    events: Events | None
    tracer: Tracer | None
    held: HeldCalls

    @property
    def panic(self) -> Stops | None:
        """What may stop everything."""
        ...

    def names(self) -> Sequence[str]:
        """The servers that are offered."""
        ...

    def is_ours(self, server: str) -> bool:
        """Whether a server guards itself."""
        ...

    def capabilities(self, server: str) -> Mapping[str, Any]:
        """What a server declared when it was last met."""
        ...

    def ready(self, server: str, client: Request | Peer | None) -> BaseLink | None:
        """The open link of a server for this client, if it is there now."""
        ...

    def log_from(self, level: str | None) -> None:
        """From which level on somebody hears what servers of the handshake era log."""
        ...

    async def link(self, server: str, client: Request | Peer | None = None) -> BaseLink:
        """The open link of a server; waits, bounded, while the server starts.

        `client`: for whom, where each client has a session of its own; None: for nobody.
        """
        ...

    def peer_at(self, server: str, client: Request | Session) -> Peer | None:
        """Who has a session of its own at a server; None: all share one."""
        ...

    def seen(self, client: Request | Session) -> View:
        """What a client sees, with what its own sessions offer."""
        ...

    def gone(self, connection: object) -> None:
        """A session of the handshake era or a connection over lines ended."""
        ...

    def roots_changed(self, session: Session) -> None:
        """A client's folders are others now."""
        ...

    def reread(self, server: str, peer: Peer | None = None) -> None:
        """Fetch the lists of a server again, in the background."""
        ...

    def unmet(self, servers: Sequence[str]) -> bool:
        """Whether one of these starts and has not said yet what it offers."""
        ...

    async def met(self, servers: Sequence[str], timeout_seconds: float) -> None:
        """Wait, bounded, until all of these have said what they offer."""
        ...

    async def lost(self, call: Call) -> HostError:
        """What is known of a call whose server ended under it."""
        ...
