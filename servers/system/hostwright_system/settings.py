"""`[system]` of the configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from hostwright_kit.config import Section


class SystemSettings(Section):
    """What the owner may set for this server."""

    roots: tuple[Path, ...] = Field(
        default=(),
        description="Folders that the file tools work in. Empty: the home and working folder, "
        "and as root also /etc, /var/log, /srv and /opt.",
    )
    deny: tuple[str, ...] = Field(
        default=(), description="Further glob patterns that no file tool may touch."
    )
    allow: tuple[str, ...] = Field(
        default=(),
        description="Glob patterns that are open although a rule closes them; the suite's own "
        "folders stay closed.",
    )
    shell_preview: bool = Field(
        default=False,
        description="shell_exec runs over a copy-on-write view of its folder and shows what it "
        "would change; sandbox_commit of the guard server applies that.",
    )
    dbus_address: str | None = Field(
        default=None, description="Address of systemd's system bus, when it is not the usual one."
    )
    journal_directory: Path | None = Field(
        default=None, description="Read journal files from here instead of the system's own."
    )

    @field_validator("roots")
    @classmethod
    def _absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"{root} is not absolute; write it from /")
        return roots
