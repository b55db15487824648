"""What a measurement gives: rows with one value per round, and the ratios between them.

A ratio is taken round by round (ours to theirs, measured one after the other) and its median is
shown: what disturbs the machine for some seconds disturbs both sides of most of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from bench.bounds import Bound

Kind = Literal["direct", "peer", "ours"]


class Load(BaseModel, frozen=True):
    """What one round of calls showed."""

    calls_per_second: float
    latencies_ms: tuple[float, ...]
    cpu_ms_per_call: float = Field(description="Of the front and the server behind it.")
    front_ms_per_call: float = Field(default=0, description="Of the front's own process alone.")


class Row(BaseModel, frozen=True):
    """One line of the table."""

    section: str
    what: str
    who: str
    kind: Kind = "ours"
    unit: str = ""
    values: tuple[float, ...] = Field(default=(), description="One per round; empty: see note.")
    latencies_ms: tuple[float, ...] = Field(default=(), description="Of all rounds together.")
    cpu_ms_per_call: float | None = None
    note: str = ""
    bounds: tuple[Bound, ...] = Field(default=(), description="What it is to reach.")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def percentile_ms(self, part: float) -> float | None:
        """The latency under which `part` of all calls stayed."""
        return percentile(self.latencies_ms, part) if self.latencies_ms else None


def percentile(values: Sequence[float], part: float) -> float:
    """Nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def rounds_row(
    section: str, what: str, who: str, rounds: Sequence[Load], *, kind: Kind = "ours"
) -> Row:
    """The row of several rounds of calls."""
    return Row(
        section=section,
        what=what,
        who=who,
        kind=kind,
        unit="calls/s",
        values=tuple(one.calls_per_second for one in rounds),
        latencies_ms=tuple(ms for one in rounds for ms in one.latencies_ms),
        cpu_ms_per_call=statistics.median(one.cpu_ms_per_call for one in rounds),
    )


def missing_row(section: str, what: str, who: str, why: str, kind: Kind = "peer") -> Row:
    """A row that says why there is no figure."""
    return Row(section=section, what=what, who=who, kind=kind, note=f"not measured: {why}")


def ratios(row: Row, rows: Sequence[Row]) -> list[tuple[str, float]]:
    """For a row of ours: its value in parts of every other's that was measured beside it."""
    if row.kind != "ours" or not row.values:
        return []
    found: list[tuple[str, float]] = []
    for other in rows:
        beside = (other.section, other.what) == (row.section, row.what)
        if beside and other.kind != "ours" and len(other.values) == len(row.values):
            pairs = zip(row.values, other.values, strict=True)
            found.append((other.who, statistics.median(ours / theirs for ours, theirs in pairs)))
    return found


def verdicts(row: Row, rows: Sequence[Row]) -> list[tuple[str, bool | None]]:
    """Each promise about a row, with what was found; None: it could not be measured."""
    return [_verdict(row, rows, bound) for bound in row.bounds]


def _verdict(row: Row, rows: Sequence[Row], bound: Bound) -> tuple[str, bool | None]:
    said = bound.said(row.unit)
    theirs = next(
        (
            one
            for one in rows
            if (one.section, one.what, one.who) == (row.section, row.what, bound.beside)
        ),
        None,
    )
    if not row.values or (bound.beside and (theirs is None or not theirs.values)):
        return f"{said}: not measured", None
    found = _figure(row, bound)
    if theirs is not None:
        other = _figure(theirs, bound)
        over, under = (found, other) if bound.how == "ours ÷ theirs" else (other, found)
        found = over / under if under else float("inf")
    kept = bound.holds(found)
    return f"{said}: {'met' if kept else 'not met'} ({found:,.3g})", kept


def _figure(row: Row, bound: Bound) -> float:
    measured = row.latencies_ms or row.values
    match bound.of:
        case "median":
            return row.median
        case "p50":
            return percentile(measured, 0.50)
        case "p95":
            return percentile(measured, 0.95)
        case "most":
            return max(row.values)
