"""What all servers of one keeper share, and what runs for one of them: plain types."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from hostwright.keeper.child import Child, StartByFork
from hostwright.keeper.groups import Groups
from hostwright.keeper.needs import Block
from hostwright.keeper.records import Records
from hostwright.keeper.status import Activity, Extras, Health, ServerEvent
from hostwright.manifest import Manifest
from hostwright.manifest_rules import Canary


@dataclass(frozen=True)
class Remote:
    """A server that runs elsewhere: there is no process, only a question to ask."""

    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)


Target = Child | Remote
Probe = Callable[[Target], Awaitable[Health]]
Prepare = Callable[[Manifest], AbstractContextManager[Extras]]
Secrets = Callable[[Manifest], Awaitable[Mapping[str, str]]]
"""Opens the entries of the vault that a manifest names, for one start."""
AskCanary = Callable[[Target, Canary], Awaitable[None]]
"""Makes the call; raises when it fails, `CanaryRefused` when it must not be made."""


class CanaryRefused(Exception):  # noqa: N818 - nothing failed; a manifest asks for too much
    """The tool may change something, or does not exist; so it is not called."""


@dataclass(frozen=True)
class Surroundings:
    """What all servers of one keeper share."""

    records: Records
    environ: Mapping[str, str]
    probe: Probe
    canary: AskCanary | None
    prepare: Prepare
    secrets: Secrets
    tell: Callable[[ServerEvent], None]
    dice: random.Random
    activity: Callable[[str], Activity]
    blocked: Callable[[Manifest], Block | None]
    changed: Callable[[], None]
    """A server is in another state."""
    groups: Groups
    by_fork: StartByFork | None = None
