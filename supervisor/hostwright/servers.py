"""The servers as the gateway sees them: for each one that runs, an open link.

Stands between the keeper (processes) and the gateway (calls). A health check is the real thing: a
`tools/list` round trip over the very link that calls use; the first one opens it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hostwright.gateway.catalog import Catalog, Kind
from hostwright.gateway.link import Link
from hostwright.gateway.remote import RemoteLink
from hostwright.keeper.child import Child
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.server import Remote, Target
from hostwright.keeper.status import Extras, Health
from hostwright.manifest import Manifest
from hostwright_kit.run import LINK_FD_VARIABLE

logger = logging.getLogger(__name__)

AnyLink = Link | RemoteLink
READY_SECONDS = 20.0
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
        self.catalog = Catalog()
        self._manifests = {manifest.name: manifest for manifest in manifests}
        self._changed = changed
        self._connected: dict[str, Connected] = {}
        self._keys: dict[str, str] = {}
        self._local: dict[str, Link] = {}
        self._refreshing: set[asyncio.Task[None]] = set()
        self.keeper: Keeper | None = None
        """Set once the keeper exists; it is made with our `probe` and `prepare`."""

    def add_local(self, link: Link) -> None:
        """A server inside this process, which needs no keeping."""
        self._local[link.server] = link

    def names(self) -> Sequence[str]:
        """Every server that may be offered, the supervisor's own first."""
        return [*self._local, *self._manifests]

    async def link(self, server: str) -> AnyLink:
        """The open link; waits, bounded, while the server starts or restarts."""
        if (local := self._local.get(server)) is not None:
            return local
        connected = self._connected.get(server)
        if connected is not None and connected.link.alive and self._is_current(connected):
            return connected.link
        if self.keeper is None:
            raise RuntimeError("links are asked for before the keeper exists")
        await self.keeper.wait_ready(server, timeout_seconds=READY_SECONDS)
        return self._connected[server].link

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
            os.write(writing, key.encode())
            os.close(writing)
            yield Extras(env={LINK_FD_VARIABLE: str(reading)}, pass_fds=(reading,))
        finally:
            os.close(reading)

    async def probe(self, target: Target) -> Health:
        """A real round trip; opens the link when this process has none yet."""
        connected = self._connected.get(target.name)
        if connected is None or connected.target is not target:
            connected = await self._connect(target)
        started = time.perf_counter()
        changed = await self.catalog.refresh(connected.link, connected.capabilities, ("tools",))
        latency_ms = (time.perf_counter() - started) * 1000
        if changed:
            self._changed(target.name)
        return Health(latency_ms=latency_ms, tools=self.catalog.count(target.name) or 0)

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
        manifest = self._manifests[target.name]
        if isinstance(target, Remote):
            link: AnyLink = await RemoteLink(target).open()
            capabilities = link.capabilities
        else:
            link = self._over_pipes(target, manifest)
            capabilities = await link.open("modern" if manifest.entry_point else manifest.era)
        connected = Connected(target, link, capabilities)
        self._connected[target.name] = connected
        if await self.catalog.refresh(link, capabilities):
            self._changed(target.name)
        return connected

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
        if await self.catalog.refresh(connected.link, connected.capabilities, kinds):
            self._changed(server)

    def _is_current(self, connected: Connected) -> bool:
        keeper = self.keeper
        return keeper is not None and keeper.target(connected.target.name) is connected.target
