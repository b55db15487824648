"""The exposition as Prometheus reads it, its bounds, and that its documentation is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from hostwright.gateway import metrics
from hostwright.gateway.metrics import MAX_TOOLS, OTHER_TOOLS, Snapshot
from hostwright.keeper.machine import State
from hostwright.keeper.status import ServerStatus

ROOT = Path(__file__).resolve().parents[2]
PROCESS = "process_"


def status(name: str, state: State, **more: object) -> ServerStatus:
    blank = {field: None for field, info in ServerStatus.model_fields.items() if info.is_required()}
    known = {"description": "", "health": "unknown", "restarts": 0, "last_stderr": ()}
    return ServerStatus.model_validate({**blank, **known, "name": name, "state": state, **more})


def scrape(snapshot: Snapshot) -> dict[str, Metric]:
    text = metrics.render(snapshot).decode()
    families = list(text_string_to_metric_families(text))
    found = {family.name: family for family in families}
    assert len(found) == len(families), "a family is told twice"
    return found


def value(family: Metric, suffix: str = "", **labels: str) -> float:
    name = family.name + suffix
    (one,) = [each for each in family.samples if each.name == name and each.labels == labels]
    return one.value


FULL = Snapshot(
    servers=[
        status(
            "alpha",
            State.READY,
            health="ok",
            restarts=3,
            tools=7,
            latency_ms=250.0,
            health_age_seconds=1.5,
            memory_bytes=4096,
            uptime_seconds=60.0,
            sessions=2,
        ),
        status("beta", State.BROKEN, health="failing"),
    ],
    pending_approvals=2,
    ledger_ok=False,
)


def test_the_state_of_servers() -> None:
    found = scrape(FULL)
    assert value(found["hostwright_server_up"], server="alpha") == 1
    assert value(found["hostwright_server_up"], server="beta") == 0
    assert value(found["hostwright_server_restarts"], "_total", server="alpha") == 3
    assert value(found["hostwright_server_health_seconds"], server="alpha") == 0.25
    assert value(found["hostwright_server_memory_bytes"], server="alpha") == 4096
    assert value(found["hostwright_server_sessions"], server="alpha") == 2
    states = {
        each.labels["hostwright_server_state"]: each.value
        for each in found["hostwright_server_state"].samples
        if each.labels["server"] == "beta"
    }
    assert states == {each.value: float(each is State.BROKEN) for each in State}
    assert value(found["hostwright_approvals_pending"]) == 2
    assert value(found["hostwright_ledger_ok"]) == 0
    # What is not known is not told, rather than told as 0.
    assert [each.labels["server"] for each in found["hostwright_server_tools"].samples] == ["alpha"]


def test_a_server_that_is_gone_leaves_no_figure() -> None:
    scrape(FULL)
    assert scrape(Snapshot(servers=[]))["hostwright_server_up"].samples == []


def test_calls_in_flight_and_ended() -> None:
    metrics.begun("flying")
    metrics.begun("flying")
    metrics.observe("flying", "look", "ok", 0.003)
    found = scrape(FULL)
    assert value(found["hostwright_calls_in_flight"], server="flying") == 1
    labels = {"server": "flying", "tool": "look", "outcome": "ok"}
    assert value(found["hostwright_call_seconds"], "_count", **labels) == 1
    bucket = {**labels, "le": "0.005"}
    assert value(found["hostwright_call_seconds"], "_bucket", **bucket) == 1
    metrics.observe("flying", "look", "cancelled", 1)
    assert value(scrape(FULL)["hostwright_calls_in_flight"], server="flying") == 0


def test_events_of_servers() -> None:
    for event in ("server.hibernated", "server.woken", "server.woken"):
        metrics.happened("sleeper", event)
    family = scrape(FULL)["hostwright_server_events"]
    assert value(family, "_total", server="sleeper", event="woken") == 2
    assert value(family, "_total", server="sleeper", event="hibernated") == 1


def test_a_server_that_invents_tools_makes_no_series_without_end() -> None:
    for number in range(MAX_TOOLS + 50):
        metrics.observe("inventive", f"tool_{number}", "ok", 0.001)
    metrics.observe("inventive", "tool_0", "ok", 0.001)
    counts = {
        each.labels["tool"]: each.value
        for each in scrape(FULL)["hostwright_call_seconds"].samples
        if each.name.endswith("_count") and each.labels["server"] == "inventive"
    }
    assert len(counts) == MAX_TOOLS + 1
    assert counts[OTHER_TOOLS] == 50
    assert counts["tool_0"] == 2


def test_the_page_names_every_metric_with_its_type_and_labels() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", page, flags=re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    metrics.begun("documented")
    metrics.observe("documented", "tool", "ok", 1)
    metrics.happened("documented", "server.ready")
    actual: dict[str, tuple[str, set[str]]] = {}
    for name, family in scrape(FULL).items():
        if name.startswith(PROCESS):
            continue
        labels = {label for each in family.samples for label in each.labels} - {"le"}
        total = "_total" if family.type == "counter" else ""
        # The text format knows neither info nor state sets: both are gauges there.
        actual[name + total] = (family.type, labels)
    assert documented == actual


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "examples/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    samples = {each.name for family in scrape(FULL).values() for each in family.samples}
    names = r"\b(?:hostwright|process)_\w+"
    asked = {name for query in queries for name in re.findall(names, query)}
    assert queries
    assert asked - {"hostwright_server_state"} <= samples | {"hostwright_server_events_total"}
