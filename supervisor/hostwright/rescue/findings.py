"""What a check finds, and running checks so that one that fails hides no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hostwright_kit.errors import HostError

Severity = Literal["ok", "note", "warning", "error"]
RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2, "ok": 3}
WRONG: tuple[Severity, ...] = ("warning", "error")

Act = Callable[[], Sequence[str]]
"""Does it, and tells what it did. Raises `HostError` or `OSError` when it cannot."""


@dataclass(frozen=True)
class Repair:
    """A vetted way out, bound to what was found."""

    id: str
    title: str
    """What it does, for whoever is asked to confirm it."""
    act: Act
    files: tuple[Path, ...] = ()
    """What it may change: copied before."""
    alone: bool = False
    """No daemon may run, and none may start meanwhile."""
    makes_room: bool = False
    """It mends what a snapshot and a record need; it keeps its own copies."""
    pin: bool = True
    """False only where the PIN cannot be checked before this is done."""

    def shown(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "title": self.title,
            "touches": [str(file) for file in self.files],
            "needs_daemon_down": self.alone,
            "needs_pin": self.pin,
        }


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    id: str
    area: str
    severity: Severity
    message: str
    evidence: tuple[str, ...] = ()
    fix: str = ""
    """What to do by hand; empty where the repair does it or nothing has to be done."""
    repair: Repair | None = None

    def shown(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "area": self.area,
            "severity": self.severity,
            "message": self.message,
            "evidence": list(self.evidence),
            "fix": self.fix,
            "repair": self.repair.shown() if self.repair else None,
        }


Check = Callable[[], Iterable[Finding]]


def run_check(area: str, check: Check) -> Iterator[Finding]:
    """What it finds; what it raises is a finding as well."""
    try:
        yield from check()
    except HostError as error:
        yield Finding(f"{area}:failed", area, "error", error.message, fix=error.fix)
    except Exception as error:  # noqa: BLE001 - what is broken here may break in any way
        where = traceback.extract_tb(error.__traceback__)[-1]
        yield Finding(
            f"{area}:failed",
            area,
            "error",
            f"This could not be looked at: {type(error).__name__}: {error}",
            evidence=(f"{where.filename}:{where.lineno}",),
            fix="If nothing else here explains it, install hostwright again.",
        )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes, then what is sound; in each the order of the checks."""
    return sorted(findings, key=lambda finding: RANK[finding.severity])
