"""A session for each client at servers that need one (`session = "per-client"`).

A client's first call opens its session: over stdio a process of its own, started and ended by the
keeper; over `url` one more connection. The handshake says what *this* client can. It ends with the
client; where nothing tells that the client is gone (HTTP), when it was idle for long. One that
crashes, or answers its health checks no more, fails the calls that run in it, and the next call
opens another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Raw

from hostwright.gateway import logs
from hostwright.gateway.base_link import BaseLink, Notified, Party
from hostwright.gateway.catalog import Catalog, Kind
from hostwright.gateway.codec import RpcError
from hostwright.gateway.link import Link
from hostwright.gateway.overlay import Overlay
from hostwright.gateway.peer import Peer
from hostwright.gateway.questions import Whom
from hostwright.gateway.session import ROOTS_CHANGED, Session
from hostwright.gateway.upstream import ACKNOWLEDGED
from hostwright.gateway.view import View
from hostwright.keeper.checks import Checks
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import Input
from hostwright.keeper.reload import needs_restart
from hostwright.keeper.server import Target
from hostwright.keeper.sessions import SessionProcess
from hostwright.keeper.status import Activity, Health
from hostwright.manifest import Manifest
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.gateway.remote import RemoteLink

logger = logging.getLogger(__name__)

MAX_SESSIONS = 32
"""Of one server."""
IDLE_SECONDS = 1_800.0
MAX_REMEMBERED = 1_000
SWEEP_SECONDS = 30.0
READY_SECONDS = 20.0
Key = tuple[str, Peer]
LIST_CHANGED: Mapping[str, tuple[Kind, ...]] = {
    "notifications/tools/list_changed": ("tools",),
    "notifications/resources/list_changed": ("resources", "resourceTemplates"),
    "notifications/prompts/list_changed": ("prompts",),
}
RESOURCE_UPDATED = "notifications/resources/updated"


class Tells(Protocol):
    """Who is told of what a server says in a client's session."""

    def changed(self, server: str, kinds: Iterable[Kind], peer: Peer | None = None) -> None:
        """Lists changed."""
        ...

    def updated(self, server: str, params: Raw, peer: Peer | None = None) -> None:
        """A resource that is watched changed."""
        ...

    def acknowledged(self, server: str, params: Raw, peer: Peer | None = None) -> None:
        """A server of the new era says that it has begun to tell changes."""
        ...

    def restarted(self, server: str, peer: Peer | None = None) -> None:
        """The server knows nothing of what was asked of it before."""
        ...

    def ended(self, server: str, peer: Peer) -> None:
        """The session of a client is no more."""
        ...


class Opens(Protocol):
    """How a link to a target is made and opened."""

    def __call__(
        self, target: Target, notified: Notified, whom: Whom, lost: Callable[[], None]
    ) -> Link | RemoteLink:
        """The link, not opened yet."""
        ...


class ClientSession:
    """The session of one client at one server."""

    def __init__(self, key: Key, manifest: Manifest, process: SessionProcess) -> None:
        self.key = key
        self.manifest = manifest
        self.process = process
        self.capabilities: Mapping[str, Any] = {}
        self.level: str | None = None
        self.used = time.monotonic()
        self.checking: asyncio.Task[None] | None = None

    link: Link | RemoteLink

    @property
    def idle_after(self) -> float | None:
        """When it ends unused; None: with its client, whose end will show."""
        if self.manifest.idle_after_seconds:
            return self.manifest.idle_after_seconds
        return None if self.key[1].origin.transport == "stdio" else IDLE_SECONDS


class ClientSessions:
    """All of them."""

    def __init__(
        self,
        catalog: Catalog,
        make: Opens,
        meet: Callable[[Link | RemoteLink], Coroutine[Any, Any, Mapping[str, Any]]],
        keeper: Callable[[], Keeper | None],
        tells: Callable[[], Tells | None],
    ) -> None:
        self._catalog = catalog
        self._make = make
        self._meet = meet
        self._manifests: dict[str, Manifest] = {}
        self._open: dict[Key, ClientSession] = {}
        self._opening: dict[Key, asyncio.Task[ClientSession]] = {}
        self._ended: set[Key] = set()
        """Sessions that ended while their client may still be there."""
        self._overlays: dict[Peer, Overlay] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._keeper = keeper
        self._tells = tells

    def adopt(self, manifests: Iterable[Manifest]) -> None:
        """These are the servers from now on."""
        self._manifests = {one.name: one for one in manifests if one.session == "per-client"}
        for key, one in list(self._open.items()):
            now = self._manifests.get(key[0])
            if now is None or needs_restart(one.manifest, now):
                self._drop(one)
            else:
                one.manifest = now

    @property
    def any(self) -> bool:
        """Whether there is such a server."""
        return bool(self._manifests)

    def serves(self, server: str) -> bool:
        """Whether this is one of them."""
        return server in self._manifests

    def ready(self, server: str, peer: Peer) -> Link | RemoteLink | None:
        """The link of a client's session, if it is open."""
        found = self._open.get((server, peer))
        if found is None or not found.link.alive:
            return None
        found.used = time.monotonic()
        return found.link

    async def link(self, server: str, peer: Peer) -> BaseLink:
        """The same, opened where it is not."""
        if (link := self.ready(server, peer)) is not None:
            return link
        key = (server, peer)
        if (opening := self._opening.get(key)) is None:
            opening = self._opening[key] = asyncio.create_task(self._begin(key))
            opening.add_done_callback(lambda done: self._opened(key, done))
        # Others may wait for it too.
        return (await asyncio.shield(opening)).link

    def logged_from(self, server: str, peer: Peer, level: str | None) -> None:
        """A call wants to hear what is logged from this level on."""
        found = self._open.get((server, peer))
        if found is None or level is None or not found.link.legacy:
            return
        if "logging" in found.capabilities and logs.lowest([found.level, level]) != found.level:
            found.level = level
            self._run(found.link.request(logs.SET_LEVEL, {"level": level}))

    def view(self, peer: Peer, view: View) -> View:
        """What a client sees: what its sessions offer, where it has some."""
        overlay = self._overlays.get(peer)
        return view if overlay is None else overlay.view(view)

    def activity(self, server: str) -> list[Activity]:
        """How busy the sessions of a server are."""
        return [one.link.activity() for key, one in self._open.items() if key[0] == server]

    def roots_changed(self, session: Session) -> None:
        """A client's folders are others now: its sessions are told."""
        for key, one in self._open.items():
            if key[1].connection is session and one.link.legacy:
                if isinstance(one.link, Link):
                    one.link.notify(ROOTS_CHANGED)
                else:
                    self._run(one.link.roots_changed())

    def gone(self, connection: object) -> None:
        """A client ended."""
        for key, task in self._opening.items():
            if key[1].connection is connection:
                task.cancel()
        for key, one in list(self._open.items()):
            if key[1].connection is connection:
                self._drop(one)
        self._ended = {key for key in self._ended if key[1].connection is not connection}

    def reread(self, server: str, peer: Peer) -> None:
        """Fetch the lists of a client's session again."""
        if (found := self._open.get((server, peer))) is not None:
            self._run(self._refresh(found, None))

    async def close(self) -> None:
        """The daemon ends."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in self._opening.values():
            task.cancel()
        for one in list(self._open.values()):
            self._drop(one)
        waiting = [*self._opening.values(), *self._working]
        if waiting:
            await asyncio.wait(waiting)

    # -- opening and ending ----------------------------------------------------------------------

    async def _begin(self, key: Key) -> ClientSession:
        server, peer = key
        if (keeper := self._keeper()) is None:
            raise RuntimeError("sessions are asked for before the keeper exists")
        self._make_room(server)
        await keeper.wait_ready(server, timeout_seconds=READY_SECONDS)
        manifest = self._manifests[server]
        process = await keeper.open_session(server)
        session = ClientSession(key, manifest, process)
        try:
            session.link = self._make(
                process.target,
                lambda method, params: self._notified(session, method, params),
                peer,
                lambda: self._lost(session),
            )
            try:
                async with asyncio.timeout(manifest.start_timeout_seconds):
                    session.capabilities = await self._meet(session.link)
            except (TimeoutError, RpcError, OSError, RuntimeError) as error:
                raise _not_opened(server, error) from error
        except BaseException:
            self._run(self._end(session))
            raise
        self._open[key] = session
        session.checking = asyncio.create_task(self._check(session))
        self._overlay(peer).begin(server)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        self._run(self._refresh(session, None))
        tells = self._tells()
        if tells is not None and (key in self._ended or not session.link.legacy):
            tells.restarted(server, peer)
        self._ended.discard(key)
        return session

    def _opened(self, key: Key, task: asyncio.Task[ClientSession]) -> None:
        self._opening.pop(key, None)
        if not task.cancelled():
            # Looked at, or asyncio would log it as forgotten when all who waited are gone.
            task.exception()

    def _make_room(self, server: str) -> None:
        """Refuse when there are too many, counting those that are being opened."""
        there = [one for key, one in self._open.items() if key[0] == server]
        others = sum(key[0] == server for key in self._opening)
        if len(there) + others > MAX_SESSIONS:
            raise HostError(
                f"{MAX_SESSIONS} clients have a session of {server} already.",
                fix="Close clients that are not used; an idle one of HTTP loses its session after "
                f"{IDLE_SECONDS / 60:g} minutes (idle_after_seconds in the manifest).",
                code="busy",
            )

    def _overlay(self, peer: Peer) -> Overlay:
        if (found := self._overlays.get(peer)) is None:
            found = self._overlays[peer] = Overlay(self._catalog)
        return found

    def _lost(self, session: ClientSession) -> None:
        if self._open.get(session.key) is session:
            self._drop(session)

    async def _check(self, session: ClientSession) -> None:
        """As the keeper checks the server itself; here nothing is started anew."""

        async def ask() -> Health:
            started = time.perf_counter()
            await session.link.check()
            return Health(latency_ms=(time.perf_counter() - started) * 1000, tools=0)

        checks = Checks(session.manifest, session.process.clean, session.link.activity)
        async for found in checks.findings(ask):
            checks.manifest = session.manifest
            if found.event is Input.UNANSWERED:
                session.process.note(f"a session is given up: {found.reason}")
                self._lost(session)

    def _drop(self, session: ClientSession) -> None:
        server, peer = session.key
        self._open.pop(session.key, None)
        if session.checking is not None:
            session.checking.cancel()
        changed: frozenset[Kind] = frozenset()
        if (overlay := self._overlays.get(peer)) is not None:
            changed = overlay.end(server)
            if overlay.empty:
                del self._overlays[peer]
        self._run(self._end(session))
        if len(self._ended) < MAX_REMEMBERED:
            self._ended.add(session.key)
        if (tells := self._tells()) is not None:
            tells.ended(server, peer)
            if changed:
                tells.changed(server, changed, peer)

    async def _end(self, session: ClientSession) -> None:
        if hasattr(session, "link"):
            await session.link.close()
        if (keeper := self._keeper()) is not None:
            await keeper.end_session(session.process)

    def _sweep(self) -> None:
        self._sweeping = None
        for one in list(self._open.values()):
            activity, after = one.link.activity(), one.idle_after
            idle = min(activity.idle_seconds, time.monotonic() - one.used)
            if not activity.in_flight and after is not None and idle > after:
                self._drop(one)
        if self._open:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    # -- what the server says --------------------------------------------------------------------

    def _notified(self, session: ClientSession, method: str, params: Raw) -> None:
        server, peer = session.key
        tells = self._tells()
        if method == RESOURCE_UPDATED and tells is not None:
            tells.updated(server, params, peer)
        elif method == ACKNOWLEDGED and tells is not None:
            tells.acknowledged(server, params, peer)
        elif method == logs.MESSAGE:
            self._logged(session, params)
        elif (kinds := LIST_CHANGED.get(method)) is not None:
            self._run(self._refresh(session, kinds))

    def _logged(self, session: ClientSession, params: Raw) -> None:
        """Whatever is logged here, it is for this client."""
        waiting: list[Party] = [one for one in session.link.parties if one.log_level is not None]
        connection = session.key[1].connection
        if waiting:
            waiting[-1].logged(params)
        elif isinstance(connection, Session) and logs.is_wanted(params, connection.log_level):
            connection.say(logs.line(params))

    async def _refresh(self, session: ClientSession, kinds: tuple[Kind, ...] | None) -> None:
        server, peer = session.key
        overlay = self._overlays.get(peer)
        if overlay is None or self._open.get(session.key) is not session:
            return  # a notification of the handshake; everything is fetched after it
        args = () if kinds is None else (kinds,)
        changed = await overlay.refresh(session.link, session.capabilities, *args)
        tells = self._tells()
        if changed and tells is not None and self._open.get(session.key) is session:
            tells.changed(server, changed, peer)

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        async def logged() -> None:
            try:
                await work
            except (RpcError, HostError) as error:
                logger.info("in a client's session: %s", error)

        task = asyncio.create_task(logged())
        self._working.add(task)
        task.add_done_callback(self._working.discard)


def _not_opened(server: str, error: Exception) -> HostError:
    why = "it did not answer in time" if isinstance(error, TimeoutError) else str(error)
    return HostError(
        f"A session of {server} could not be opened: {why}",
        fix=f"`hostwright logs {server}` shows what it said.",
        code="server_not_ready",
    )
