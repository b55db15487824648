"""Putting an export in place: whole files or none, and never over somebody's changes unasked."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from hostwright.exporting.model import Export
from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError
from hostwright_kit.redact import redact_text

MAX_DIFF_LINES = 200


class Written(BaseModel, frozen=True):
    """What became of one file."""

    path: Path
    action: Literal["created", "changed", "unchanged"]
    diff: str = Field(default="", description="Unified, bounded, with secrets taken out.")


def write(export: Export, folder: Path, *, force: bool) -> list[Written]:
    """Write every file below `folder`, each one atomically.

    All are looked at first: one that differs, without `force`, and nothing is written.
    """
    planned = [(folder / file.path, file.text) for file in export.files]
    results = [_compare(path, text) for path, text in planned]
    changed = [one for one in results if one.action == "changed"]
    if changed and not force:
        shown = "\n".join(one.diff for one in changed)
        names = ", ".join(str(one.path) for one in changed)
        raise HostError(
            f"These files exist and differ; nothing was written: {names}\n{shown}",
            fix="Write over them with --force, or choose another folder with --out.",
            code="exists",
        )
    for (path, text), result in zip(planned, results, strict=True):
        if result.action == "unchanged":
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nothing in it is secret, and other programs have to read it.
            write_private(path, text.encode(), mode=0o644)
        except OSError as error:
            raise HostError(
                f"{path} cannot be written: {error.strerror}.",
                fix="Choose another folder with --out, or run as a user who may write there.",
                code="not_written",
            ) from error
    return results


def _compare(path: Path, text: str) -> Written:
    try:
        before = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return Written(path=path, action="created")
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}.",
            fix="Move it away, or choose another folder with --out.",
            code="not_written",
        ) from error
    if before == text:
        return Written(path=path, action="unchanged")
    lines = list(
        difflib.unified_diff(
            before.splitlines(), text.splitlines(), f"{path} (now)", str(path), lineterm="", n=1
        )
    )
    more = [f"… {len(lines) - MAX_DIFF_LINES} more lines"] if len(lines) > MAX_DIFF_LINES else []
    shown = [redact_text(line) for line in lines[:MAX_DIFF_LINES]]
    return Written(path=path, action="changed", diff="\n".join([*shown, *more]))
