"""What a planned or a made change looks like from outside, with the secrets taken out. Pure."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .catalog import Scope
from .secrets import redact

MAX_DIFF_LINE = 400
Action = Literal["added", "changed", "unchanged", "removed", "absent", "conflict"]


class Change(BaseModel):
    """What happens to one entry."""

    model_config = ConfigDict(frozen=True)

    name: str
    action: Action
    detail: str = Field(default="", description="Why, where the action alone does not say it.")


class Plan(BaseModel):
    """A change to one file, worked out but not made."""

    model_config = ConfigDict(frozen=True)

    client: str
    scope: Scope
    remove: bool
    path: Path = Field(description="The file as the client names it.")
    real_path: Path = Field(description="The file behind a symbolic link, the one written.")
    # With the secrets in them; never part of what is printed or serialised.
    before: str | None = Field(repr=False, exclude=True)
    after: str | None = Field(repr=False, exclude=True)
    mode_before: int | None = None
    mode_after: int = Field(description="Permission bits; 0600 as soon as we put a secret in.")
    diff: str = Field(description="Unified diff with everything that looks secret taken out.")
    changes: tuple[Change, ...] = ()
    kept: tuple[str, ...] = Field(default=(), description="Other servers in the file, untouched.")
    warnings: tuple[str, ...] = ()

    @property
    def changes_text(self) -> bool:
        return self.before != self.after

    @property
    def changes_mode(self) -> bool:
        return self.mode_before is not None and self.mode_before != self.mode_after

    @property
    def changed(self) -> bool:
        """Whether there is anything to apply."""
        return self.changes_text or self.changes_mode

    @property
    def conflicts(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.action == "conflict")


class Applied(BaseModel):
    """What was done."""

    model_config = ConfigDict(frozen=True)

    path: Path
    changed: bool
    backup: Path | None = None


def redacted_diff(before: str, after: str, path: Path, hidden: set[str]) -> str:
    """A unified diff, without secrets and without very long lines.

    Only what lies between the first and the last change is compared line by line: difflib takes
    minutes for the megabytes that some clients keep in their file.
    """
    old, new = before.splitlines(), after.splitlines()
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    start = max(0, head - 3)
    lines = difflib.unified_diff(
        old[start : len(old) - max(0, tail - 3)],
        new[start : len(new) - max(0, tail - 3)],
        str(path),
        str(path),
        lineterm="",
    )
    shown: list[str] = []
    for line in lines:
        if line.startswith("@@"):
            line = re.sub(  # noqa: PLW2901 - the same line, counted from the top of the file
                r"([-+])(\d+)", lambda found: f"{found[1]}{int(found[2]) + start}", line
            )
        clean = redact(line, hidden)
        if len(clean) > MAX_DIFF_LINE:
            clean = f"{clean[:MAX_DIFF_LINE]}… ({len(clean) - MAX_DIFF_LINE} more characters)"
        shown.append(clean)
    return "\n".join(shown)
