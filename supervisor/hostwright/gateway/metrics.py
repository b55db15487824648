"""Prometheus metrics of the gateway and of the servers behind it."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from hostwright.keeper.status import ServerStatus

REGISTRY = CollectorRegistry()

_CALLS = Histogram(
    "hostwright_call_seconds",
    "Tool calls through the gateway.",
    ("server", "tool", "outcome"),
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
UP = Gauge(
    "hostwright_server_up", "1 when the last health check passed.", ("server",), registry=REGISTRY
)
RESTARTS = Gauge(
    "hostwright_server_restarts",
    "Restarts since the daemon started.",
    ("server",),
    registry=REGISTRY,
)
HEALTH_AGE = Gauge(
    "hostwright_server_health_age_seconds",
    "Since the last passed health check.",
    ("server",),
    registry=REGISTRY,
)
HEALTH_LATENCY = Gauge(
    "hostwright_server_health_seconds",
    "Round trip of the last health check.",
    ("server",),
    registry=REGISTRY,
)
MEMORY = Gauge(
    "hostwright_server_memory_bytes",
    "Resident memory of the process group.",
    ("server",),
    registry=REGISTRY,
)


_children: dict[tuple[str, str, str], Histogram] = {}


def observe(server: str, tool: str, outcome: str, seconds: float) -> None:
    """One call. The labels are looked up once: that costs more than the counting."""
    key = (server, tool, outcome)
    child = _children.get(key)
    if child is None:
        child = _children[key] = _CALLS.labels(*key)
    child.observe(seconds)


def render(servers: Sequence[ServerStatus]) -> bytes:
    """The text format, with the servers' present state."""
    for gauge in (UP, RESTARTS, HEALTH_AGE, HEALTH_LATENCY, MEMORY):
        gauge.clear()
    for status in servers:
        UP.labels(status.name).set(1 if status.health == "ok" else 0)
        RESTARTS.labels(status.name).set(status.restarts)
        if status.health_age_seconds is not None:
            HEALTH_AGE.labels(status.name).set(status.health_age_seconds)
        if status.latency_ms is not None:
            HEALTH_LATENCY.labels(status.name).set(status.latency_ms / 1000)
        if status.memory_bytes is not None:
            MEMORY.labels(status.name).set(status.memory_bytes)
    return generate_latest(REGISTRY)
