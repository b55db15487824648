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
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from mcp.shared.exceptions import MCPError

from hostwright.canary import sing
from hostwright.gateway.catalog import Catalog, Kind
from hostwright.gateway.link import Link
from hostwright.keeper.child import Child
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.server import Remote, Target
from hostwright.keeper.status import Extras, Health
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Canary
from hostwright_kit.errors import HostError
from hostwright_kit.run import LINK_FD_VARIABLE

if TYPE_CHECKING:
    from hostwright.gateway.remote import RemoteLink

logger = logging.getLogger(__name__)

AnyLink: TypeAlias = "Link | RemoteLink"
READY_SECONDS = 20.0
LOOK_SECONDS = 0.05
LIST_CHANGED: Mapping[str, tuple[Kind, ...]] = {
    "notifications/tools/list_changed": ("tools",),
    "notifications/resources/list_changed": ("resources", "resourceTemplates"),
    "notifications/prompts/list_changed": ("prompts",),
}


class Connected:
    """One running server and the link to it."""

    def __init__(self, target: Target, link: AnyLink, capabilities: Mapping[str, Any]) -> None:
        self.target = target
        self.link = link
        self.capabilities = capabilities


class Servers:
    """Opens links when servers start, drops them when they end, and keeps the catalog fresh."""

    def __init__(self, manifests: Sequence[Manifest], changed: Callable[[str], None]) -> None:
        """`changed` is told the name of a server whose offer changed."""
        self._manifests: dict[str, Manifest] = {}
        self.catalog = Catalog(self._is_ours, self._may_offer, self._renames)
        self.adopt(manifests)
        self._changed = changed
        self._connected: dict[str, Connected] = {}
        self._keys: dict[str, str] = {}
        self._local: dict[str, Link] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self.keeper: Keeper | None = None
        """Set once the keeper exists; it is made with our `probe` and `prepare`."""

    def adopt(self, manifests: Sequence[Manifest]) -> None:
        """These are the servers from now on."""
        ours_first = sorted(manifests, key=lambda manifest: manifest.entry_point is None)
        self._manifests = {manifest.name: manifest for manifest in ours_first}
        self.catalog.reconsider()

    def add_local(self, link: Link) -> None:
        """A server inside this process, which needs no keeping."""
        self._local[link.server] = link

    def names(self) -> Sequence[str]:
        """Every server that may be offered: the supervisor's own, ours, then third-party ones."""
        return [*self._local, *self._manifests]

    async def link(self, server: str) -> AnyLink:
        """The open link; waits, bounded, while the server starts or restarts."""
        if (local := self._local.get(server)) is not None:
            return local
        if self.keeper is None:
            raise RuntimeError("links are asked for before the keeper exists")
        deadline = time.monotonic() + READY_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            connected = self._connected.get(server)
            if connected is not None and connected.link.alive and self._is_current(connected):
                return connected.link
            await self.keeper.wait_ready(server, timeout_seconds=remaining)
            if (now := self._connected.get(server)) is connected or now is None:
                # The pipe broke and the keeper does not know yet. Moments when the process has
                # ended; a server that merely closed its stdout is found by the health checks.
                await asyncio.sleep(LOOK_SECONDS)
        raise HostError(
            f"The server {server} has closed its connection and was not restarted within "
            f"{READY_SECONDS:g} s.",
            fix=f"Try again, or `hostwright restart {server}`.",
            code="server_not_ready",
        )

    async def met(self, servers: Sequence[str], timeout_seconds: float) -> None:
        """Wait, bounded, for those that are being started and have not said yet what they offer."""
        unseen = [name for name in servers if self.catalog.count(name) is None]
        if not unseen or self.keeper is None:
            return
        starting = {one.name for one in self.keeper.status() if one.state is State.STARTING}
        waits = (
            self.keeper.wait_ready(name, timeout_seconds=timeout_seconds)
            for name in starting.intersection(unseen)
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
        changed = False
        if "tools" in connected.capabilities:
            changed = await self.catalog.refresh(connected.link, connected.capabilities, ("tools",))
        else:
            await connected.link.check()
        latency_ms = (time.perf_counter() - started) * 1000
        if changed:
            self._changed(target.name)
        return Health(latency_ms=latency_ms, tools=self.catalog.count(target.name) or 0)

    async def canary(self, target: Target, rules: Canary) -> None:
        """The call that a manifest wants as a further health check."""
        tools = {one.name: one.entry for one in self.catalog.listing("tools", (target.name,))}
        await sing(self._connected[target.name].link, tools, rules)

    async def close(self) -> None:
        """Drop every link."""
        for task in self._refreshing:
            task.cancel()
        for connected in self._connected.values():
            await connected.link.close()
        for link in self._local.values():
            await link.close()

    async def _connect(self, target: Target) -> Connected:
        if (old := self._connected.pop(target.name, None)) is not None:
            await old.link.close()
        link, opening = self._link_to(target)
        try:
            connected = Connected(target, link, await opening)
            changed = await self.catalog.refresh(link, connected.capabilities)
        except BaseException:
            # The next attempt reads from the same pipes, and only one may.
            await link.close()
            raise
        self._connected[target.name] = connected
        if changed:
            self._changed(target.name)
        return connected

    def _link_to(self, target: Target) -> tuple[AnyLink, Awaitable[Mapping[str, Any]]]:
        if isinstance(target, Remote):
            # Brings a whole MCP client along, and few suites have a remote server.
            from hostwright.gateway.remote import RemoteLink  # noqa: PLC0415

            remote = RemoteLink(target)
            return remote, remote.open()
        manifest = self._manifests[target.name]
        link = self._over_pipes(target, manifest)
        return link, link.open("modern" if manifest.entry_point else manifest.era)

    def _over_pipes(self, child: Child, manifest: Manifest) -> Link:
        name = child.name
        return Link(
            name,
            child.stdout,
            child.stdin,
            link_key=self._keys.get(name) if manifest.entry_point else None,
            notified=lambda method: self._on_notified(name, method),
        )

    def _on_notified(self, server: str, method: str) -> None:
        kinds = LIST_CHANGED.get(method)
        if kinds is not None:
            task = asyncio.create_task(self._refresh(server, kinds))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)

    async def _refresh(self, server: str, kinds: Sequence[Kind]) -> None:
        connected = self._connected.get(server)
        if connected is None:
            return
        try:
            changed = await self.catalog.refresh(connected.link, connected.capabilities, kinds)
        except (MCPError, HostError) as error:
            # The next health check asks again.
            logger.info("%s said that its lists changed, but not how: %s", server, error)
            return
        if changed:
            self._changed(server)

    def _is_ours(self, server: str) -> bool:
        manifest = self._manifests.get(server)
        return manifest is None or manifest.entry_point is not None

    def _may_offer(self, server: str, tool: str) -> bool:
        manifest = self._manifests.get(server)
        return manifest is None or manifest.tools.offers(tool)

    def _renames(self, server: str) -> Mapping[str, str]:
        manifest = self._manifests.get(server)
        return manifest.tools.rename if manifest is not None else {}

    def _is_current(self, connected: Connected) -> bool:
        keeper = self.keeper
        return keeper is not None and keeper.target(connected.target.name) is connected.target


def _still_good(connected: Connected, target: Target) -> bool:
    """Whether to go on asking over this link. A process's pipes cannot be opened again."""
    same = connected.target is target
    return same and (connected.link.alive or not isinstance(target, Remote))
