"""What stands in the cells of `top`'s tables. Every state has a sign of its own beside its colour,
so that it reads the same without colours."""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text

from hostwright.cli.output import cell, duration, size
from hostwright.keeper.status import ServerStatus
from hostwright.top.model import Flight, Row
from hostwright_kit.approvals import Approval

SIGNS = {
    "ready": ("●", "green"),
    "starting": ("◌", "cyan"),
    "unhealthy": ("!", "bold yellow"),
    "failing": ("!", "bold yellow"),
    "backing_off": ("↻", "yellow"),
    "broken": ("✗", "bold red"),
    "stopping": ("◌", "cyan"),
    "restarting": ("◌", "cyan"),
    "hibernating": ("z", "blue"),
    "hibernated": ("z", "blue"),
    "waiting": ("…", "yellow"),
    "holding": ("…", "yellow"),
}
BAR_CELLS = 10


class Column(NamedTuple):
    """One column. All of a table fit into 80, with one blank between two and a scroll bar."""

    name: str
    width: int
    right: bool = False

    @property
    def label(self) -> Text:
        """Its heading, over its values."""
        return Text(self.name.rjust(self.width) if self.right else self.name)


SERVERS = (
    Column("server", 10),
    Column("state", 13),
    Column("pid", 7, right=True),
    Column("health", 8),
    Column("rst", 3, right=True),
    Column("memory", 6, right=True),
    Column("up", 6, right=True),
    Column("c/s", 5, right=True),
    Column("p50", 5, right=True),
    Column("p95", 5, right=True),
)
CALLS = (
    Column("server", 10),
    Column("tool", 20),
    Column("caller", 18),
    Column("age", 7, right=True),
    Column("progress", 16),
)
APPROVALS = (
    Column("id", 8),
    Column("call", 23),
    Column("caller", 16),
    Column("left", 6, right=True),
    Column("arguments", 18),
)
Cells = tuple[Text | str, ...]


def server_cells(row: Row) -> Cells:
    """One server."""
    status, figures = row.status, row.figures
    sign, style = SIGNS.get(status.state, ("○", "dim"))
    return (
        cell(status.name),
        Text(f"{sign} {status.state}", style=style),
        _right(str(status.pid or "–"), 7),
        _health(status),
        _right(str(status.restarts), 3),
        _right(size(status.memory_bytes), 6),
        _right(duration(status.uptime_seconds), 6),
        _right(_short(figures.calls_per_second), 5),
        _right(_short(figures.p50_ms), 5),
        _right(_short(figures.p95_ms), 5),
    )


def call_cells(call: Flight, now: float) -> Cells:
    """One call in flight."""
    age = max(0.0, now - call.since)
    return (
        cell(call.server),
        cell(call.tool),
        cell(call.caller),
        _right(f"{age:.1f} s" if age < 100 else duration(age), 7),
        _progress(call),
    )


def approval_cells(asked: Approval, left_seconds: float) -> Cells:
    """One request that waits."""
    return (
        Text(asked.id, style="bold"),
        cell(f"{asked.server}.{asked.tool}"),
        cell(asked.caller),
        _right(duration(max(0.0, left_seconds)), 6),
        cell(asked.arguments[:200]),
    )


def _health(status: ServerStatus) -> Text:
    if status.health == "ok":
        return Text(f"ok {duration(status.health_age_seconds)}")
    return Text("–" if status.health == "unknown" else "failing", style="bold")


def _progress(call: Flight) -> str:
    if call.progress is None:
        return "–"
    if not call.total or call.total <= 0:
        return f"{call.progress:g}"
    share = min(1.0, max(0.0, call.progress / call.total))
    done = round(share * BAR_CELLS)
    return f"{'█' * done}{'░' * (BAR_CELLS - done)} {share:4.0%}"


def _short(value: float | None) -> str:
    """Five places are enough for anything but a disaster."""
    if value is None:
        return "–"
    if value >= 99_999.5:
        return f"{value:.0e}"
    return f"{value:.1f}" if 0 < value < 99.95 else f"{value:.0f}"


def _right(text: str, width: int) -> Text:
    return Text(text.rjust(width))
