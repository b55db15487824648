"""One start: from a manifest to a running process, on record before it exists, and under limits."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from hostwright.keeper.around import Remote, Surroundings, Target
from hostwright.keeper.child import Child, Launch
from hostwright.keeper.environment import build_environment
from hostwright.keeper.groups import Group
from hostwright.keeper.logs import ServerLog
from hostwright.manifest import Manifest, argv_for, expand, fork_for
from hostwright_kit.errors import HostError

_log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """What runs now, and the group that holds it."""

    target: Target
    group: Group | None


async def open_target(
    manifest: Manifest, around: Surroundings, log: ServerLog, *, instance: str = ""
) -> Opened:
    """Start it; a `HostError` says why that cannot be.

    `instance` tells a further process of the same server from the first one.
    """
    expanded = expand(manifest, around.environ, await around.secrets(manifest))
    log.mask(expanded.secret_values)
    if manifest.url is not None:
        return Opened(Remote(manifest.name, manifest.url, expanded.headers), None)
    group: Group | None = None
    if manifest.limits.any:
        group = await asyncio.to_thread(
            around.groups.make, manifest.name + instance, manifest.limits
        )
    try:
        with around.prepare(manifest) as extras:
            what = Launch(
                name=manifest.name,
                argv=argv_for(manifest),
                env={},
                cwd=manifest.folder,
                pass_fds=extras.pass_fds,
                fork=fork_for(manifest),
            )
            added = {**expanded.env, **extras.env}
            env = build_environment(manifest, around.environ, added, what.mark)
            await around.records.begin(what.mark, manifest.name)
            try:
                child = await Child.start(
                    what.model_copy(update={"env": env}), log, by_fork=around.by_fork
                )
            except BaseException:
                await around.records.ended(what.mark)
                raise
        if group:
            _hold(group, child)
    except BaseException:
        if group:
            await asyncio.to_thread(group.end)
        raise
    if child.id:
        try:
            await around.records.started(what.mark, child.id)
        except HostError as error:
            # The mark alone is on disk, and identifies it as well.
            _log.warning("%s", error)
    return Opened(child, group)


def _hold(group: Group, child: Child) -> None:
    """In this thread, so that nothing is between the start and the limits."""
    try:
        group.join(child.pid)
    except OSError as error:
        why = f"not enforced (the process could not join: {error.strerror})"
        group.enforced = dict.fromkeys(group.enforced, why)
        _log.warning("The limits of %s are not enforced: %s", child.name, error)
