"""The official conformance scenarios that need no fixture tools, in both protocol eras.

Left out are the scenarios that call tools, resources or prompts of given names: the ones that
answer "unknown tool" there (`tools-call-simple-text`, `tools-call-error`, most of
`input-required-*`) pass without having tested anything. For the same reason a scenario counts here
only when the checks that are its own were really made and succeeded, not when the runner is
content.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Daemon
from .harness import Room, client

pytestmark = pytest.mark.clients

OLD, NEW = "2025-11-25", "2026-07-28"

# Scenario → the checks without which it has not tested anything.
SCENARIOS: dict[tuple[str, str], set[str]] = {
    (OLD, "server-initialize"): {"server-initialize", "wire-schema-valid"},
    (OLD, "server-session-lifecycle"): {
        "server-session-initialized-accepted",
        "server-session-delete-accepted",
        "server-session-terminated-returns-404",
    },
    (OLD, "logging-set-level"): {"logging-set-level", "wire-schema-valid"},
    (OLD, "ping"): {"ping", "wire-schema-valid"},
    (OLD, "tools-list"): {"tools-list", "tools-name-format", "wire-schema-valid"},
    (OLD, "resources-list"): {"resources-list", "wire-schema-valid"},
    (OLD, "prompts-list"): {"prompts-list", "wire-schema-valid"},
    (OLD, "server-sse-multiple-streams"): {"server-accepts-multiple-post-streams"},
    (OLD, "dns-rebinding-protection"): {
        "localhost-host-rebinding-rejected",
        "localhost-host-valid-accepted",
    },
    (NEW, "server-stateless"): {
        "sep-2575-request-meta-invalid-missing-meta",
        "sep-2575-request-meta-invalid-missing-protocol-version",
        "sep-2575-request-meta-invalid-missing-client-capabilities",
        "sep-2575-http-server-meta-invalid-400",
        "sep-2575-request-meta-client-info-optional",
        "sep-2575-server-implements-discover",
        "sep-2575-discover-capabilities-match-handlers",
        "sep-2575-server-unsupported-version-error",
        "sep-2575-http-server-unsupported-version-400",
        "sep-2575-http-server-header-mismatch-400",
        "sep-2575-http-server-method-not-found-404",
        "sep-2575-http-server-method-not-found-404-initialize",
        "sep-2575-http-server-method-not-found-404-ping",
        "sep-2575-http-server-error-jsonrpc-id",
    },
    (NEW, "tools-list"): {"tools-list", "tools-list-deterministic-order", "wire-schema-valid"},
    (NEW, "resources-list"): {"resources-list", "wire-schema-valid"},
    (NEW, "prompts-list"): {"prompts-list", "wire-schema-valid"},
    (NEW, "sep-2164-resource-not-found"): {
        "sep-2164-no-empty-contents",
        "sep-2164-error-code",
        "sep-2164-data-uri",
    },
    (NEW, "caching"): {
        "sep-2549-tools-list-caching-hints",
        "sep-2549-prompts-list-caching-hints",
        "sep-2549-resources-list-caching-hints",
        "sep-2549-resources-read-caching-hints",
        "sep-2549-ttl-non-negative",
        "sep-2549-cache-scope-valid",
    },
    (NEW, "http-header-validation"): {
        "sep-2243-server-reject-invalid-headers",
        "sep-2243-server-reject-error-code",
        "sep-2243-header-name-case-insensitive",
    },
    (NEW, "server-sse-multiple-streams"): {"server-accepts-multiple-post-streams"},
    (NEW, "dns-rebinding-protection"): {
        "localhost-host-rebinding-rejected",
        "localhost-host-valid-accepted",
    },
}

# Checks that call the runner's own diagnostic tools and fail wherever those do not exist.
NEED_DIAGNOSTIC_TOOL = {
    "sep-2575-server-rejects-undeclared-capability",
    "sep-2575-missing-capability-http-400",
    "sep-2575-server-sends-prompts-list-changed-on-subscription",
    "sep-2575-server-sends-tools-list-changed-on-subscription",
}
# Checks of change notices: not applicable to a server that offers none, binding for one that does.
OF_CHANGE_NOTICES = {
    "sep-2575-server-sends-subscription-ack",
    "sep-2575-server-tags-subscription-id",
    "sep-2575-server-honors-notification-filter",
}


def run_scenario(room: Room, url: str, revision: str, scenario: str) -> list[dict[str, Any]]:
    """The checks that the official runner made, as it reports them."""
    results = room.folder / "results"
    runner = client("conformance", "conformance")
    target = ["--url", url, "--scenario", scenario, "--spec-version", revision]
    done = room.run([runner, "server", *target, "--output-dir", str(results)])
    reports = list(results.glob("*/checks.json"))
    assert len(reports) == 1, str(done)
    return json.loads(reports[0].read_text())


def faults(checks: list[dict[str, Any]], required: set[str]) -> list[str]:
    """What stands against a scenario; none when it passes and has tested what it is for."""
    found: list[str] = []
    for check in checks:
        name, status = check["id"], check["status"]
        accepted = {"SUCCESS", "INFO"}
        if name in OF_CHANGE_NOTICES:
            accepted.add("SKIPPED")
        if status not in accepted and name not in NEED_DIAGNOSTIC_TOOL:
            detail = check.get("errorMessage") or json.dumps(check.get("details"))
            found.append(f"{name}: {status}: {detail}")
    succeeded = {check["id"] for check in checks if check["status"] == "SUCCESS"}
    return found + [f"{name}: was not made" for name in sorted(required - succeeded)]


@pytest.fixture(params=("bare", "gateway", "gateway-system"))
def url(request: pytest.FixtureRequest) -> str:
    """The runner knows only URLs, so the gateway is one that asks for no token."""
    if request.param == "bare":
        return request.getfixturevalue("bare_url")
    daemon: Daemon = request.getfixturevalue("open_daemon")
    return daemon.url if request.param == "gateway" else f"{daemon.url}/system"


@pytest.mark.parametrize(("revision", "scenario"), SCENARIOS, ids=map(" ".join, SCENARIOS))
def test_scenario(room: Room, url: str, revision: str, scenario: str) -> None:
    checks = run_scenario(room, url, revision, scenario)
    assert not faults(checks, SCENARIOS[revision, scenario])


def test_a_scenario_that_tested_nothing_does_not_count(tmp_path: Path) -> None:
    assert faults([{"id": "ping", "status": "SUCCESS"}], {"ping", "wire-schema-valid"}) == [
        "wire-schema-valid: was not made"
    ]
    assert faults([{"id": "ping", "status": "SKIPPED"}], {"ping"})
    assert faults([{"id": "ping", "status": "FAILURE", "errorMessage": "no"}], set()) == [
        "ping: FAILURE: no"
    ]
