"""What runs here, written down by each server for the others: its folder and its tools' traits.

`<state_dir>/served/NAME.json`. An approval binds the folder of the server that will carry the call
out, and what it asks about must be judged and masked as that server does; who asks in advance
(`approval_request`) or explains a policy is another process, and reads it here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError
from hostwright_kit.paths import ensure_private
from hostwright_kit.policy import Effect
from hostwright_kit.vault_names import SERVER

# The daemon guards the servers that are not ours, in its own folder. No server has this name.
GATEWAY = "_gateway"


class ToolTraits(BaseModel, frozen=True):
    """What the guard must know of a tool."""

    effect: Effect = Effect.DESTRUCTIVE
    open_world: bool = True
    secret_names: frozenset[str] = frozenset()
    read_when: str | None = None
    """A boolean parameter that, when true, makes the call a read (a dry run)."""
    overwrites: tuple[str, ...] = ()
    """Parameters that hold paths whose content an approval binds."""
    grave_with: tuple[str, ...] = ()
    """Parameters that make the call what `effect` says. Without any of them it is contained."""
    contained_with: str | None = None
    """A parameter that makes it contained all the same: something that the owner has handed out
    before, and that the tool itself holds the call to."""
    in_panic: bool = False
    """It only makes things safer: no profile asks about it, and it works while everything else is
    stopped (`panic.py`)."""

    def effect_of(self, arguments: Mapping[str, object]) -> Effect:
        """The effect of this very call."""
        dry_run = self.read_when is not None and arguments.get(self.read_when) is True
        if dry_run:
            return Effect.READ
        return Effect.CONTAINED if self._contains(arguments) else self.effect

    def reaches_out(self, arguments: Mapping[str, object]) -> bool:
        """Whether this very call may reach beyond this machine."""
        return self.open_world and not self._contains(arguments)

    def _contains(self, arguments: Mapping[str, object]) -> bool:
        if not self.grave_with:
            return False
        if self.contained_with is not None and arguments.get(self.contained_with):
            return True
        return not any(arguments.get(name) for name in self.grave_with)


class Served(BaseModel, frozen=True):
    """One server as it was when it last began to serve."""

    server: str
    folder: str
    tools: dict[str, ToolTraits] = {}
    servers: tuple[str, ...] = ()
    """Of the daemon: the servers that it guards."""


def publish(state_dir: Path, served: Served) -> None:
    """Write it down, where it says something new."""
    folder = state_dir / "served"
    ensure_private(folder)
    file = folder / f"{served.server}.json"
    text = served.model_dump_json().encode()
    with contextlib.suppress(FileNotFoundError):
        if file.read_bytes() == text:
            return
    try:
        write_private(file, text)
    except OSError as error:
        raise HostError(
            f"{file} cannot be written: {error.strerror}.",
            fix="Free disk space or mend the permissions of the state folder.",
            code="state_unwritable",
        ) from error


def find_served(state_dir: Path, server: str) -> Served | None:
    """What is known of a server; None when none of that name has ever served here."""
    if server != GATEWAY and not SERVER.fullmatch(server):
        return None
    file = state_dir / "served" / f"{server}.json"
    try:
        return Served.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise HostError(
            f"{file} cannot be read.",
            fix=f"Delete it and restart the server (hostwright restart {server}).",
            code="state_unreadable",
        ) from error


def served_names(state_dir: Path) -> list[str]:
    """The servers that something is known of."""
    names = (file.stem for file in (state_dir / "served").glob("*.json"))
    return sorted(name for name in names if name != GATEWAY)
