"""One finding, and running many checks so that a fault in one does not hide the others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

State = Literal["ok", "degraded", "problem"]


class Finding(BaseModel, frozen=True):
    """One line of the table. `degraded` works with less; `problem` does not work."""

    area: str = Field(description="configuration, manifests, folders, databases, gateway, …")
    what: str = Field(description="The key, file, server or thing that was looked at.")
    state: State
    message: str = ""
    fix: str = Field(default="", description="What to do; empty when nothing has to be done.")
    path: Path | None = Field(default=None, description="The file, where there is one.")
    line: int | None = Field(default=None, description="From 1.")

    @property
    def place(self) -> str:
        """`file:line`, as editors and terminals make links of."""
        if self.path is None:
            return ""
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"


class Report(BaseModel, frozen=True):
    """Everything that was found."""

    ok: bool = Field(description="No finding is a problem.")
    findings: list[Finding]


Check = Callable[[], Iterable[Finding]]


def collect(checks: Iterable[tuple[str, Check]]) -> Report:
    """Run every check; what one raises is its finding. The word names the area for that case."""
    found: list[Finding] = []
    for area, check in checks:
        try:
            found += check()
        except HostError as error:
            found.append(
                Finding(
                    area=area,
                    what=error.code,
                    state="problem",
                    message=error.message,
                    fix=error.fix,
                )
            )
        except OSError as error:
            found.append(
                Finding(
                    area=area,
                    what=str(error.filename or area),
                    state="problem",
                    message=f"Cannot be looked at: {error.strerror or error}.",
                    fix="Run as the user that it belongs to, or mend its permissions.",
                )
            )
    return Report(ok=all(one.state != "problem" for one in found), findings=found)
