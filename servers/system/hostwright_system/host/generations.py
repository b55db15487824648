"""Generations of Nix profiles: what a NixOS or nix-env host was and can go back to.

A profile is a symlink `NAME → NAME-N-link` beside the links of its generations, each of which
points into the store (nix-env(1), "Profiles"). Reading links is all that is needed. Blocking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.host import table
from hostwright_system.host.clock import iso_utc

_LINK = re.compile(r"(?P<profile>.+)-(?P<number>\d+)-link")


class GenerationRow(BaseModel, frozen=True, extra="forbid"):
    """One generation of one profile."""

    profile: str = Field(description="Path of the profile.")
    number: int
    current: bool
    created_at: str = Field(description="When its link was made: ISO 8601, UTC.")
    store_path: str


TABLE: table.Table[GenerationRow] = table.Table(
    kind="generations",
    fields=(
        table.Field("profile", "text"),
        table.Field("number", "number"),
        table.Field("current", "flag"),
        table.Field("created_at", "text"),
        table.Field("store_path", "text", sortable=False),
    ),
    identity=lambda row: f"{row.profile} {row.number:010d}",
    default_sort="created_at",
    default_order="desc",
)


def generation_rows(
    root: Path = Path("/"), home: Path | None = None
) -> tuple[list[GenerationRow], list[str]]:
    """The generations of the system's and the users' profiles, and which folders were read."""
    system = root / "nix/var/nix/profiles"
    home = home if home is not None else Path.home()
    folders = [system, *_subfolders(system / "per-user"), home / ".local/state/nix/profiles"]
    present = [f for f in folders if f.is_dir()]
    if not present:
        raise HostError(
            "Generations exist on NixOS and where Nix profiles are used; there is no "
            f"{system} and no profile of this user.",
            fix="Ask for packages instead.",
            code="unsupported",
        )
    rows: list[GenerationRow] = []
    notes = [f"Read: {', '.join(str(f) for f in present)}."]
    for folder in present:
        try:
            rows += _profile_rows(folder)
        except PermissionError:
            notes.append(f"{folder} may not be read by this user.")
    return rows, notes


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _profile_rows(folder: Path) -> Iterator[GenerationRow]:
    for link in folder.iterdir():
        match = _LINK.fullmatch(link.name)
        if match is None or not link.is_symlink():
            continue
        profile = folder / match["profile"]
        current = profile.is_symlink() and profile.readlink().name == link.name
        yield GenerationRow(
            profile=str(profile),
            number=int(match["number"]),
            current=current,
            created_at=iso_utc(link.lstat().st_mtime),
            store_path=str(link.readlink()),
        )
