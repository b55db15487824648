"""Other manifests for a keeper that runs: what differs is done, nobody else is touched.

A server is restarted only when something changed that its process was started with; what the
keeper or the gateway reads (`LIVE`) holds at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pydantic import BaseModel, Field

from hostwright.keeper.machine import State
from hostwright.keeper.server import Server
from hostwright.manifest import Manifest

LIVE = frozenset(
    {
        *("description", "tools", "enabled", "health", "restart", "canary", "log"),
        *("start_timeout_seconds", "stop_timeout_seconds", "wedge_after_seconds"),
        *("idle_after_seconds", "background", "requires", "after"),
    }
)
"""Keys that no process knows of."""


class Reloaded(BaseModel, frozen=True):
    """What a reload did, by names of servers."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = Field(default=(), description="Without a restart.")
    unchanged: tuple[str, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether it made a difference."""
        return bool(self.added or self.removed or self.restarted or self.changed)


def needs_restart(old: Manifest, new: Manifest) -> bool:
    """Whether the process must be started anew to be as the new manifest says."""
    return any(
        getattr(old, key) != getattr(new, key) for key in type(new).model_fields if key not in LIVE
    )


async def apply(
    servers: dict[str, Server],
    manifests: Sequence[Manifest],
    make: Callable[[Manifest], Server],
) -> Reloaded:
    """Change `servers` in place; returns when what is gone is gone and what is new was begun."""
    wanted = {manifest.name: manifest for manifest in manifests}
    found: dict[str, list[str]] = {key: [] for key in Reloaded.model_fields}
    ending: list[Server] = []
    starting: list[Server] = []
    for name, server in list(servers.items()):
        new = wanted.get(name)
        if new is None or (server.manifest.enabled and not new.enabled):
            # Taken out at once, so that nobody calls it any more.
            del servers[name]
            ending.append(server)
            if new is None:
                found["removed"].append(name)
                continue
            found["changed"].append(name)
            servers[name] = make(new)
            continue
        found[_one(server, new, starting)].append(name)
    for name, manifest in wanted.items():
        if name not in servers:
            servers[name] = make(manifest)
            found["added"].append(name)
            if manifest.enabled:
                starting.append(servers[name])
    await asyncio.gather(*(server.act("stop") for server in ending))
    await asyncio.gather(*(asyncio.to_thread(server.log.close) for server in ending))
    for server in starting:
        server.begin("start" if server.state in _BEGIN else "restart")
    return Reloaded.model_validate({key: tuple(sorted(names)) for key, names in found.items()})


_BEGIN = frozenset({State.STOPPED, State.DISABLED, State.WAITING})


def _one(server: Server, new: Manifest, starting: list[Server]) -> str:
    """Bring one server that stays to its new manifest; under which heading that belongs."""
    old = server.manifest
    # Conditions are about the machine, not the file: they may hold now.
    again = server.state is State.DISABLED and new.enabled
    if old == new:
        if again:
            starting.append(server)
        return "unchanged"
    restart = needs_restart(old, new)
    server.adopt(new)
    if again:
        starting.append(server)
    elif restart and server.state not in (State.STOPPED, State.DISABLED, State.HIBERNATED):
        starting.append(server)
        return "restarted"
    return "changed"
