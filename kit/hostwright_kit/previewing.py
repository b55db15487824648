"""Dry runs of commands, for a server that runs commands and has no sandbox of its own.

Servers do not import each other. The package that has sandboxes names what opens them in the
entry-point group `hostwright.previews`; whoever wants a dry run asks for it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, Field

from hostwright_kit.capture import StreamCapture
from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobStore
from hostwright_kit.runtime import Runtime

GROUP = "hostwright.previews"


class Command(NamedTuple):
    """A command to be tried."""

    argv: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]
    stdin: bytes
    seconds: float
    head_bytes: int
    tail_bytes: int


class CommitCall(BaseModel, frozen=True):
    """Exactly the arguments of sandbox_commit that apply a preview."""

    preview_id: str
    digest: str
    changes: list[str]


class DryRun(BaseModel, frozen=True):
    """What a command did to a copy-on-write view of its folder. Nothing of it is applied yet."""

    exit_code: int | None = Field(description="None when it was ended.")
    timed_out: bool
    stdout: StreamCapture
    stderr: StreamCapture
    folder: str = Field(description="The folder that it saw and would change.")
    diff: str = Field(description="Unified, of the text files that it would change; bounded.")
    commit: CommitCall | None = Field(
        description="To apply exactly that: sandbox_commit of the guard server with these "
        "arguments, which the owner may be asked about. None: there is nothing to apply."
    )
    note: str | None = Field(default=None, description="Why it cannot be applied, if so.")


class Previewer(Protocol):
    """What the group's object gives, called with the runtime and the jobs of a server."""

    async def preview(self, command: Command) -> DryRun:
        """Run it over an overlay of its folder."""
        ...


def open_previewer(runtime: Runtime, jobs: JobStore, wanted_by: str) -> Previewer:
    """The one that is installed; a `HostError` when none is. `wanted_by`: the setting."""
    for point in entry_points(group=GROUP):
        opened: Any = point.load()
        return opened(runtime, jobs)
    raise HostError(
        f"{wanted_by} needs the guard server's package, which has the sandbox.",
        fix="Install hostwright-guard beside this server, or take the setting out.",
        code="config",
    )
