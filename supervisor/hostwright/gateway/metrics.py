"""Prometheus metrics of the gateway and of the servers behind it; `docs/metrics.md` lists them.

What happens (calls, events) is counted here as it happens; what is (states, memory) is told by
`render` at each scrape, so that a server that is gone leaves no stale figure. Names follow
https://prometheus.io/docs/practices/naming/.

Every label has bounds: servers are those of the manifests, outcomes and events closed sets, and of
the tools of one server only the first `MAX_TOOLS` get series of their own. A name that no server
offers never becomes a label.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from hostwright import __version__
from hostwright.keeper.machine import State
from hostwright.keeper.status import ServerStatus

Outcome = Literal["ok", "error", "failed", "cancelled", "asked"]
"""asked: the answer was a question to the user; the client comes back with what they said."""

MAX_TOOLS = 500
AT_ONCE = 100
OTHER_TOOLS = "(other)"

# Else every counter comes with a second series for the time at which it began.
disable_created_metrics()
REGISTRY = CollectorRegistry()

CALLS = Histogram(
    "hostwright_call_seconds",
    "Tool calls through the gateway, by how they ended.",
    ("server", "tool", "outcome"),
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge(
    "hostwright_calls_in_flight", "Calls that wait for an answer.", ("server",), registry=REGISTRY
)
UNKNOWN_TOOLS = Counter(
    "hostwright_unknown_tool_calls", "Calls of tools that no server offers.", registry=REGISTRY
)
EVENTS = Counter(
    "hostwright_server_events",
    "What happened to a server: started, ready, crashed, broken, stopped, and so on.",
    ("server", "event"),
    registry=REGISTRY,
)
BUILD = Info("hostwright_build", "Which Hostwright this is.", registry=REGISTRY)
BUILD.info({"version": __version__, "python": platform.python_version()})
# The daemon's own CPU time, memory and descriptors under the usual names, process_*; Linux.
ProcessCollector(registry=REGISTRY)

_calls: dict[tuple[str, str, str], Histogram] = {}
_tools: dict[str, set[str]] = {}
_in_flight: dict[str, int] = {}
_ended: list[tuple[tuple[str, str, Outcome], float]] = []
"""Calls that are not in the histogram yet: many at a time cost a fraction of one by one."""


def begun(server: str) -> None:
    """A call was taken on; `observe` follows, whatever becomes of it."""
    _in_flight[server] = _in_flight.get(server, 0) + 1


def observe(server: str, tool: str, outcome: Outcome, seconds: float) -> None:
    """A call ended."""
    _ended.append(((server, tool, outcome), seconds))
    if (flying := _in_flight.get(server)) is not None:
        _in_flight[server] = flying - 1
    if len(_ended) >= AT_ONCE:
        _count()


def _count() -> None:
    for key, seconds in _ended:
        # Labels are looked up once: that costs more than the counting.
        (_calls.get(key) or _child(*key)).observe(seconds)
    _ended.clear()


def unknown_tool() -> None:
    """Somebody called what nobody offers."""
    UNKNOWN_TOOLS.inc()


def happened(server: str, event: str) -> None:
    """An event of the keeper, `server.ready` for example."""
    EVENTS.labels(server, event.removeprefix("server.")).inc()


class Snapshot(BaseModel, frozen=True):
    """What is told at a scrape rather than counted."""

    servers: Sequence[ServerStatus]
    pending_approvals: int | None = Field(default=None, description="None: not looked at.")
    ledger_ok: bool | None = Field(default=None, description="None: not looked at.")
    panic: bool = False


def render(snapshot: Snapshot) -> bytes:
    """The text format: what was counted, and the present state."""
    now = CollectorRegistry()
    now.register(Present(snapshot))
    _count()
    for server, flying in _in_flight.items():
        IN_FLIGHT.labels(server).set(flying)
    return generate_latest(REGISTRY) + generate_latest(now)


class Present(Collector):
    """A snapshot as metrics."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Each family, also when there is nothing to tell: the names stay the same."""
        yield from _of_servers(self._snapshot.servers)
        pending = GaugeMetricFamily(
            "hostwright_approvals_pending", "Calls that wait for the owner's approval."
        )
        if self._snapshot.pending_approvals is not None:
            pending.add_metric([], self._snapshot.pending_approvals)
        yield pending
        ledger = GaugeMetricFamily(
            "hostwright_ledger_ok", "0 when the ledger cannot be written, and acts are refused."
        )
        if self._snapshot.ledger_ok is not None:
            ledger.add_metric([], float(self._snapshot.ledger_ok))
        yield ledger
        panic = GaugeMetricFamily(
            "hostwright_panic", "1 while everything is stopped, until the owner lifts it."
        )
        panic.add_metric([], float(self._snapshot.panic))
        yield panic


def _of_servers(servers: Sequence[ServerStatus]) -> Iterable[Metric]:
    label = ("server",)
    up = GaugeMetricFamily(
        "hostwright_server_up", "1 when the last health check passed.", labels=label
    )
    state = StateSetMetricFamily("hostwright_server_state", "What it is doing.", labels=label)
    restarts = CounterMetricFamily(
        "hostwright_server_restarts", "Starts after the first one, wanted or not.", labels=label
    )
    tools = GaugeMetricFamily("hostwright_server_tools", "Tools that it offers.", labels=label)
    age = GaugeMetricFamily(
        "hostwright_server_health_age_seconds", "Since the last passed health check.", labels=label
    )
    latency = GaugeMetricFamily(
        "hostwright_server_health_seconds", "Round trip of the last health check.", labels=label
    )
    memory = GaugeMetricFamily(
        "hostwright_server_memory_bytes",
        "Memory of the process and its descendants, shared pages counted once where possible.",
        labels=label,
    )
    uptime = GaugeMetricFamily(
        "hostwright_server_uptime_seconds", "Since its process started.", labels=label
    )
    sessions = GaugeMetricFamily(
        "hostwright_server_sessions", "Clients that have a session of their own.", labels=label
    )
    for one in servers:
        name = [one.name]
        up.add_metric(name, 1 if one.health == "ok" else 0)
        state.add_metric(name, {each.value: one.state is each for each in State})
        restarts.add_metric(name, one.restarts)
        for family, value in (
            (tools, one.tools),
            (age, one.health_age_seconds),
            (latency, None if one.latency_ms is None else one.latency_ms / 1000),
            (memory, one.memory_bytes),
            (uptime, one.uptime_seconds),
            (sessions, one.sessions),
        ):
            if value is not None:
                family.add_metric(name, value)
    return (up, state, restarts, tools, age, latency, memory, uptime, sessions)


def _child(server: str, tool: str, outcome: Outcome) -> Histogram:
    known = _tools.setdefault(server, set())
    if tool not in known:
        if len(known) >= MAX_TOOLS:
            # Not remembered under its own name, which would be the very growth that is avoided.
            return CALLS.labels(server, OTHER_TOOLS, outcome)
        known.add(tool)
    child = _calls[server, tool, outcome] = CALLS.labels(server, tool, outcome)
    return child
