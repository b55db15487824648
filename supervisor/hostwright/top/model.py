"""What `top` shows, as data: fed with the daemon's status and its events, no screen in sight.

Rates and latencies are computed from `request.*` events of the last minute. Calls in flight are
those that were accepted and have not ended; after a gap in the events they are forgotten, because
what ended unseen would stay for ever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, Field

from hostwright.events.client import Happened
from hostwright.keeper.status import ServerStatus
from hostwright.status import DaemonStatus
from hostwright_kit.approvals import Approval

WINDOW_SECONDS = 60.0
RATE_SECONDS = 10.0
MAX_CALLS = 5_000
MAX_SAMPLES = 20_000
"""Per server; at more calls a minute the window is shorter."""


class Flight(BaseModel):
    """A call that runs."""

    id: str
    server: str
    tool: str
    caller: str
    since: float = Field(description="Seconds since the epoch.")
    progress: float | None = None
    total: float | None = None


class Figures(BaseModel, frozen=True):
    """How a server's calls went lately."""

    calls_per_second: float = Field(default=0.0, description="Over ten seconds.")
    p50_ms: float | None = Field(default=None, description="Of the last minute's calls.")
    p95_ms: float | None = None
    failed: int = Field(default=0, description="Of the last minute's calls: no answer came.")


class Row(BaseModel, frozen=True):
    """One server."""

    status: ServerStatus
    figures: Figures


class Snapshot(BaseModel, frozen=True):
    """Everything at one moment; what `top --json` prints."""

    daemon: DaemonStatus
    servers: list[Row]
    calls: list[Flight]
    approvals: list[Approval]


class _Sample(NamedTuple):
    at: float
    duration_ms: float
    failed: bool


class Model:
    """The state behind the screen."""

    def __init__(self) -> None:
        self.daemon: DaemonStatus | None = None
        self.away: str | None = "not connected yet"
        """Why there is no connection; None: there is one."""
        self.approvals: Sequence[Approval] = ()
        self.gaps = 0
        self._calls: dict[str, Flight] = {}
        self._samples: dict[str, deque[_Sample]] = {}

    def connected(self) -> None:
        """The stream of events is open."""
        self.away = None

    def lost(self, why: str) -> None:
        """It is not. What ran is not known until it is back."""
        self.away = why
        self._calls.clear()

    def happened(self, event: Happened) -> None:
        """Take in one event."""
        kind, fields = event.kind, event.fields
        if kind == "events.gap":
            self.gaps += 1
            if fields.get("reason") != "ledger":
                self._calls.clear()
        elif kind in ("request.accepted", "request.progress"):
            self._running(event)
        elif kind in ("request.completed", "request.failed"):
            self._ended(event)

    def rows(self, now: float) -> list[Row]:
        """The servers, in the daemon's order."""
        found = self.daemon.servers if self.daemon else []
        return [Row(status=one, figures=self.figures(one.name, now)) for one in found]

    def calls(self) -> list[Flight]:
        """What runs, oldest first."""
        return sorted(self._calls.values(), key=lambda call: (call.since, call.id))

    def figures(self, server: str, now: float) -> Figures:
        """How this server's calls went up to `now`."""
        samples = self._samples.get(server)
        if not samples:
            return Figures()
        while samples and samples[0].at < now - WINDOW_SECONDS:
            samples.popleft()
        durations = sorted(one.duration_ms for one in samples if not one.failed)
        recent = sum(1 for one in samples if one.at > now - RATE_SECONDS)
        return Figures(
            calls_per_second=round(recent / RATE_SECONDS, 1),
            p50_ms=percentile(durations, 0.50),
            p95_ms=percentile(durations, 0.95),
            failed=sum(1 for one in samples if one.failed),
        )

    def snapshot(self, now: float) -> Snapshot:
        """Everything; only with a daemon."""
        if self.daemon is None:
            raise RuntimeError("a snapshot was asked for before the daemon's status")
        return Snapshot(
            daemon=self.daemon,
            servers=self.rows(now),
            calls=self.calls(),
            approvals=list(self.approvals),
        )

    def _running(self, event: Happened) -> None:
        fields = event.fields
        call = self._calls.get(str(fields["id"]))
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                self._calls.pop(next(iter(self._calls)))
            call = self._calls[str(fields["id"])] = Flight(
                id=str(fields["id"]),
                server=str(fields.get("server", "?")),
                tool=str(fields.get("tool") or fields.get("method", "?")),
                caller=str(fields.get("caller", "?")),
                since=_seconds(event.at),
            )
        call.progress = fields.get("progress", call.progress)
        call.total = fields.get("total", call.total)

    def _ended(self, event: Happened) -> None:
        fields = event.fields
        self._calls.pop(str(fields["id"]), None)
        samples = self._samples.setdefault(
            str(fields.get("server", "?")), deque(maxlen=MAX_SAMPLES)
        )
        failed = event.kind == "request.failed"
        samples.append(_Sample(_seconds(event.at), float(fields.get("duration_ms", 0)), failed))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
