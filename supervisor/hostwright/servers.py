"""The servers as the gateway sees them: for each one that runs, an open link.

Stands between the keeper (processes) and the gateway (calls). A health check is the real thing: a
`tools/list` round trip (another one for a server without tools) over the very link that calls use;
the first one opens it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Raw

from hostwright.canary import sing
from hostwright.client_sessions import LIST_CHANGED, RESOURCE_UPDATED, ClientSessions, Tells
from hostwright.gateway.base_link import BaseLink, Notified, Party
from hostwright.gateway.behind import Events, Guard
from hostwright.gateway.calls import Call
from hostwright.gateway.catalog import Catalog, Kind
from hostwright.gateway.codec import RpcError
from hostwright.gateway.held import HeldCalls
from hostwright.gateway.link import Link
from hostwright.gateway.logs import MESSAGE, SET_LEVEL
from hostwright.gateway.lost import explain
from hostwright.gateway.opening import open_link
from hostwright.gateway.peer import Peer
from hostwright.gateway.questions import Whom
from hostwright.gateway.request import Request
from hostwright.gateway.session import Session
from hostwright.gateway.upstream import ACKNOWLEDGED
from hostwright.gateway.view import View
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.server import Remote, Target
from hostwright.keeper.status import Activity, Extras, Health
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Canary
from hostwright.panicking import SAFETY_SERVER, Panicking
from hostwright.telemetry import Tracer
from hostwright_kit.errors import HostError
from hostwright_kit.panic import PanicError
from hostwright_kit.vouching import LINK_FD_VARIABLE

if TYPE_CHECKING:
    from hostwright.gateway.remote import RemoteLink

logger = logging.getLogger(__name__)

AnyLink: TypeAlias = "Link | RemoteLink"
READY_SECONDS = 20.0
LOOK_SECONDS = 0.005
KINDS: tuple[Kind, ...] = tuple(kind for kinds in LIST_CHANGED.values() for kind in kinds)


class Connected:
    """One running server and the link to it."""

    def __init__(self, target: Target, link: AnyLink, capabilities: Mapping[str, Any]) -> None:
        self.target = target
        self.link = link
        self.capabilities = capabilities


class Watches(Tells, Protocol):
    """Who is told of what servers say on their own."""

    def logged(self, server: str, params: Raw, parties: Sequence[Party]) -> None:
        """A server of the handshake era logged; `parties` are those that wait for it."""
        ...

    def is_watched(self, server: str) -> bool:
        """Whether somebody waits for changes of its resources."""
        ...


class Servers:
    """Opens links when servers start, drops them when they end, and keeps the catalog fresh."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        ledger: Path,
        *,
        guard: Guard | None = None,
        events: Events | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`guard` stands around the calls to servers that have none inside."""
        self._ledger = ledger
        self.guard = guard
        self.events = events
        self.tracer = tracer
        self._manifests: dict[str, Manifest] = {}
        self._names: tuple[str, ...] = ()
        self.catalog = Catalog(self.is_ours, self._may_offer, self._renames)
        self.held = HeldCalls()
        self.sessions = ClientSessions(
            self.catalog,
            self._link_for,
            self._open,
            keeper=lambda: self.keeper,
            tells=lambda: self.watches,
        )
        self.adopt(manifests)
        self._connected: dict[str, Connected] = {}
        self._opening: dict[str, tuple[Target, AnyLink]] = {}
        self._keys: dict[str, str] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self._log_level: str | None = None
        self.keeper: Keeper | None = None
        """Set once the keeper exists; it is made with our `probe` and `prepare`."""
        self.watches: Watches | None = None
        """Set once there is somebody to tell."""
        self.panic: Panicking | None = None
        """What may stop everything."""

    def adopt(self, manifests: Sequence[Manifest]) -> None:
        """These are the servers from now on."""
        ours_first = sorted(manifests, key=lambda manifest: manifest.entry_point is None)
        self._manifests = {manifest.name: manifest for manifest in ours_first}
        self._names = tuple(self._manifests)
        self.catalog.reconsider()
        self.sessions.adopt(manifests)

    def names(self) -> Sequence[str]:
        """Every server that may be offered: ours, then third-party ones."""
        return self._names

    def ready(self, server: str, client: Request | Peer | None) -> AnyLink | None:
        """The open link of a server for this client, if it is there now."""
        if client is not None and self.sessions.serves(server):
            peer = client if isinstance(client, Peer) else client.peer
            if isinstance(client, Request):
                self.sessions.logged_from(server, peer, client.log_level)
            return self.sessions.ready(server, peer)
        return self._ready(server)

    def _ready(self, server: str) -> AnyLink | None:
        connected = self._connected.get(server)
        if connected is not None and connected.link.alive and self._is_current(connected):
            return connected.link
        return None

    async def link(self, server: str, client: Request | Peer | None = None) -> BaseLink:
        """The open link; waits, bounded, while the server starts or restarts.

        `client`: for whom, where each client has a session of its own; None: for nobody.
        """
        if self.panic is not None and (panic := self.panic.now) and server != SAFETY_SERVER:
            raise PanicError(panic)
        if client is not None and self.sessions.serves(server):
            peer = client if isinstance(client, Peer) else client.peer
            link = await self.sessions.link(server, peer)
            if isinstance(client, Request):
                self.sessions.logged_from(server, peer, client.log_level)
            return link
        if self.keeper is None:
            raise RuntimeError("links are asked for before the keeper exists")
        deadline = time.monotonic() + READY_SECONDS
        pause = LOOK_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            if (link := self._ready(server)) is not None:
                return link
            connected = self._connected.get(server)
            await self.keeper.wait_ready(server, timeout_seconds=remaining)
            if (now := self._connected.get(server)) is connected or now is None:
                # The pipe broke and the keeper does not know yet. Moments when the process has
                # ended; a server that merely closed its stdout is found by the health checks.
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.1)
        raise HostError(
            f"The server {server} has closed its connection and was not restarted within "
            f"{READY_SECONDS:g} s.",
            fix=f"Try again, or `hostwright restart {server}`.",
            code="server_not_ready",
        )

    def activity(self, server: str) -> Activity:
        """How busy a server is."""
        connected = self._connected.get(server)
        # Without a link nothing is known.
        own = connected.link.activity() if connected is not None else Activity()
        if others := self.sessions.activity(server):
            every = (own, *others)
            own = Activity(
                in_flight=sum(one.in_flight for one in every),
                idle_seconds=min(one.idle_seconds for one in every),
                silent_seconds=max(one.silent_seconds for one in every),
            )
        if self.watches is not None and self.watches.is_watched(server):
            return own.model_copy(update={"watched": True})
        return own

    def capabilities(self, server: str) -> Mapping[str, Any]:
        """What a server declared when it was last met."""
        connected = self._connected.get(server)
        return connected.capabilities if connected is not None else {}

    def peer_at(self, server: str, client: Request | Session) -> Peer | None:
        """Who has a session of its own at a server; None: all share one."""
        return client.peer if self.sessions.serves(server) else None

    def seen(self, client: Request | Session) -> View:
        """What a client sees, with what its own sessions offer."""
        return self.sessions.view(client.peer, client.view) if self.sessions.any else client.view

    def gone(self, connection: object) -> None:
        """A session of the handshake era or a connection over lines ended."""
        self.held.gone(connection)
        self.sessions.gone(connection)

    def roots_changed(self, session: Session) -> None:
        """A client's folders are others now."""
        self.sessions.roots_changed(session)

    def log_from(self, level: str | None) -> None:
        """From which level on somebody hears what servers of the handshake era log."""
        if level != self._log_level and level is not None:
            self._log_level = level
            for connected in self._connected.values():
                self._set_level(connected)
        self._log_level = level

    def _set_level(self, connected: Connected) -> None:
        """Servers of the handshake era are told one level; what they log without one is dropped."""
        level = self._log_level
        if level is None or not connected.link.legacy or "logging" not in connected.capabilities:
            return

        async def tell() -> None:
            try:
                await connected.link.request(SET_LEVEL, {"level": level})
            except (RpcError, HostError) as error:
                logger.info("%s does not set its log level: %s", connected.link.server, error)

        self._run(tell())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._refreshing.add(task)
        task.add_done_callback(self._refreshing.discard)

    async def lost(self, call: Call) -> HostError:
        """What is known of a call whose server ended under it."""
        return await explain(call, ours=self.is_ours(call.owned.server), ledger=self._ledger)

    def unmet(self, servers: Sequence[str]) -> bool:
        """Whether one of these starts and has not said yet what it offers."""
        unseen = [name for name in servers if self.catalog.count(name) is None]
        return bool(unseen) and bool(self._starting().intersection(unseen))

    def _starting(self) -> set[str]:
        if self.keeper is None:
            return set()
        return {one.name for one in self.keeper.status() if one.state is State.STARTING}

    async def met(self, servers: Sequence[str], timeout_seconds: float) -> None:
        """Wait, bounded, for those that are being started and have not said yet what they offer."""
        unseen = [name for name in servers if self.catalog.count(name) is None]
        if not unseen or self.keeper is None:
            return
        waits = (
            self.keeper.wait_ready(name, timeout_seconds=timeout_seconds)
            for name in self._starting().intersection(unseen)
        )
        # Why one is not ready is told when it is called.
        await asyncio.gather(*waits, return_exceptions=True)

    @contextmanager
    def prepare(self, manifest: Manifest) -> Generator[Extras]:
        """Before a start: a fresh key over an inherited pipe, for servers of ours only."""
        if manifest.entry_point is None:
            yield Extras()
            return
        key = secrets.token_hex(32)
        self._keys[manifest.name] = key
        reading, writing = os.pipe()
        try:
            try:
                os.write(writing, key.encode())
            finally:
                os.close(writing)
            yield Extras(env={LINK_FD_VARIABLE: str(reading)}, pass_fds=(reading,))
        finally:
            os.close(reading)

    async def probe(self, target: Target) -> Health:
        """A real round trip; opens the link when this process has none yet."""
        connected = self._connected.get(target.name)
        if connected is None or not _still_good(connected, target):
            connected = await self._connect(target)
        started = time.perf_counter()
        changed: frozenset[Kind] = frozenset()
        if "tools" in connected.capabilities:
            changed = await self.catalog.refresh(connected.link, connected.capabilities, ("tools",))
        else:
            await connected.link.check()
        latency_ms = (time.perf_counter() - started) * 1000
        self._tell_changed(target.name, changed)
        return Health(latency_ms=latency_ms, tools=self.catalog.count(target.name) or 0)

    async def canary(self, target: Target, rules: Canary) -> None:
        """The call that a manifest wants as a further health check."""
        tools = {one.name: one.entry for one in self.catalog.listing("tools", (target.name,))}
        await sing(self._connected[target.name].link, tools, rules)

    async def close(self) -> None:
        """Drop every link."""
        await self.sessions.close()
        for task in self._refreshing:
            task.cancel()
        for connected in self._connected.values():
            await connected.link.close()
        for _, link in self._opening.values():
            await link.close()

    async def _connect(self, target: Target) -> Connected:
        name = target.name
        if (old := self._connected.pop(name, None)) is not None:
            await old.link.close()
        link = await self._unopened(target)
        capabilities = await self._open(link)
        connected = Connected(target, link, capabilities)
        changed = await self.catalog.refresh(link, capabilities)
        self._opening.pop(name, None)
        self._connected[name] = connected
        self._set_level(connected)
        self._tell_changed(name, changed)
        if self.watches is not None:
            self.watches.restarted(name)
        return connected

    async def _unopened(self, target: Target) -> AnyLink:
        """The link on which a server is met.

        One per process, however many attempts it takes: the pipes can be read only once, and the
        answer to an earlier question may still come.
        """
        before = self._opening.get(target.name)
        if before is not None:
            if before[0] is target and not isinstance(target, Remote):
                return before[1]
            await before[1].close()
        link = self._link_to(target)
        self._opening[target.name] = (target, link)
        return link

    async def _open(self, link: AnyLink) -> Mapping[str, Any]:
        if not isinstance(link, Link):
            return await link.open()
        manifest = self._manifests[link.server]
        return await open_link(link, "modern" if manifest.entry_point else manifest.era)

    def _link_to(self, target: Target) -> AnyLink:
        name = target.name
        # Where each client has a session of its own, this one is nobody's.
        whom = "nobody" if self.sessions.serves(name) else "whoever calls"
        return self._link_for(
            target, lambda method, params: self._on_notified(name, method, params), whom
        )

    def _link_for(
        self,
        target: Target,
        notified: Notified,
        whom: Whom,
        lost: Callable[[], None] = lambda: None,
    ) -> AnyLink:
        if isinstance(target, Remote):
            # Brings a whole MCP client along, and few suites have a remote server.
            from hostwright.gateway.remote import RemoteLink  # noqa: PLC0415

            return RemoteLink(target, notified, whom)
        ours = self._manifests[target.name].entry_point is not None
        return Link(
            target.name,
            target.stdout,
            target.stdin,
            link_key=self._keys.get(target.name) if ours else None,
            notified=notified,
            lost=lost,
            whom=whom,
        )

    def _tell_changed(self, server: str, kinds: frozenset[Kind]) -> None:
        if kinds and self.watches is not None:
            self.watches.changed(server, kinds)

    def _on_notified(self, server: str, method: str, params: Raw) -> None:
        if method == RESOURCE_UPDATED and self.watches is not None:
            self.watches.updated(server, params)
        if method == ACKNOWLEDGED and self.watches is not None:
            self.watches.acknowledged(server, params)
        if method == MESSAGE and self.watches is not None:
            connected = self._connected.get(server)
            parties = connected.link.parties if connected is not None else ()
            self.watches.logged(server, params, parties)
        kinds = LIST_CHANGED.get(method)
        if kinds is not None:
            self._run(self._refresh(server, kinds))

    def reread(self, server: str, peer: Peer | None = None) -> None:
        """Fetch its lists again: changes of them may have been missed."""
        if peer is None:
            self._run(self._refresh(server, KINDS))
        else:
            self.sessions.reread(server, peer)

    async def _refresh(self, server: str, kinds: Sequence[Kind]) -> None:
        connected = self._connected.get(server)
        if connected is None:
            return
        try:
            changed = await self.catalog.refresh(connected.link, connected.capabilities, kinds)
        except (RpcError, HostError) as error:
            # The next health check asks again.
            logger.info("%s said that its lists changed, but not how: %s", server, error)
            return
        self._tell_changed(server, changed)

    def is_ours(self, server: str) -> bool:
        """Whether a server guards itself."""
        manifest = self._manifests.get(server)
        return manifest is None or manifest.entry_point is not None

    def _renames(self, server: str) -> Mapping[str, str]:
        manifest = self._manifests.get(server)
        return manifest.tools.rename if manifest is not None else {}

    def _may_offer(self, server: str, tool: str) -> bool:
        manifest = self._manifests.get(server)
        return manifest is None or manifest.tools.offers(tool)

    def _is_current(self, connected: Connected) -> bool:
        keeper = self.keeper
        return keeper is not None and keeper.target(connected.target.name) is connected.target


def _still_good(connected: Connected, target: Target) -> bool:
    """Whether to go on asking over this link. A process's pipes cannot be opened again."""
    same = connected.target is target
    return same and (connected.link.alive or not isinstance(target, Remote))
