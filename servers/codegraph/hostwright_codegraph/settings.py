"""`[codegraph]` of the configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from hostwright_kit.config import Section


class CodegraphSettings(Section):
    """What the owner may set for this server."""

    roots: tuple[Path, ...] = Field(
        default=(),
        description="Folders that projects may lie in. Empty: the home and working folder.",
    )
    projects: tuple[Path, ...] = Field(
        default=(), description="Projects that are indexed from the start."
    )
    watch: bool = Field(default=True, description="Follow changes of files while the server runs.")

    @field_validator("roots", "projects")
    @classmethod
    def _absolute(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in folders:
            if not folder.is_absolute():
                raise ValueError(f"{folder} is not absolute; write it from /")
        return folders
