"""Every official server scenario in both eras: what FastMCP alone passes, the gateway passes.

The same fixture server is measured twice, by itself and as a third-party server behind a real
daemon, and compared check by check. FastMCP is measured as it comes, with its Host and Origin
protection on and without an event store. It has no `resources/subscribe`, as the revision
2026-07-28 has none; before a server of that revision the gateway has.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from .conftest import opened, running_daemon
from .harness import ROOT, Room, accepts, client, free_port, wait_until

pytestmark = pytest.mark.clients

OLD, NEW = "2025-11-25", "2026-07-28"
SERVER = str(ROOT / "tests" / "conformance_server.py")

BOTH = (
    *("completion-complete", "tools-list", "tools-call-simple-text", "tools-call-image"),
    *("tools-call-audio", "tools-call-embedded-resource", "tools-call-mixed-content"),
    *("tools-call-error", "tools-call-with-progress", "json-schema-2020-12"),
    *("server-sse-multiple-streams", "resources-list", "resources-read-text"),
    *("resources-read-binary", "resources-templates-read", "prompts-list", "prompts-get-simple"),
    *("prompts-get-with-args", "prompts-get-embedded-resource", "prompts-get-with-image"),
    "dns-rebinding-protection",
)
SUBSCRIBING = ("resources-subscribe", "resources-unsubscribe")
SCENARIOS = {
    OLD: (
        *BOTH,
        *("server-initialize", "server-session-lifecycle", "logging-set-level", "ping"),
        *("tools-call-with-logging", "tools-call-sampling", "tools-call-elicitation"),
        *("elicitation-sep1034-defaults", "elicitation-sep1330-enums", "server-sse-polling"),
        *SUBSCRIBING,
    ),
    NEW: (
        *BOTH,
        *("server-stateless", "sep-2164-resource-not-found", "caching", "http-header-validation"),
        "http-custom-header-server-validation",
        *(
            f"input-required-result-{name}"
            for name in (
                *("basic-elicitation", "basic-sampling", "basic-list-roots", "request-state"),
                *("multiple-input-requests", "multi-round", "missing-input-response"),
                *("non-tool-request", "result-type", "unsupported-methods", "tampered-state"),
                *("capability-check", "ignore-extra-params", "validate-input"),
            )
        ),
    ),
}
# Scenarios in which FastMCP passes no check that is the scenario's own.
NOTHING_TO_HOLD = {(OLD, "server-sse-polling")}
# Made for every scenario that exchanges messages, whatever it is about.
OF_EVERY_SCENARIO = {"wire-schema-valid", "wire-schema-harness-error"}

# Made only where answers come as event streams; the protocol allows plain JSON as well.
OF_STREAMS = {"server-sse-streams-functional"}

Checks = dict[tuple[str, str], list[dict[str, Any]]]
"""By identifier and name: some identifiers stand for several checks."""


@dataclass
class Runner:
    """The official runner, and what it found so far: one run for all scenarios of a revision."""

    room: Room
    found: dict[tuple[str, str], dict[str, Checks]] = field(
        default_factory=dict[tuple[str, str], dict[str, Checks]]
    )

    def checks(self, url: str, revision: str) -> Mapping[str, Checks]:
        """Per scenario, the checks that were made at `url`."""
        if (url, revision) not in self.found:
            self.found[url, revision] = self._run(url, revision)
        return self.found[url, revision]

    def _run(self, url: str, revision: str) -> dict[str, Checks]:
        output = self.room.folder / f"results-{len(self.found)}"
        runner = client("conformance", "conformance")
        target = ["--url", url, "--suite", "all", "--spec-version", revision]
        done = self.room.run([runner, "server", *target, "--output-dir", str(output)], timeout=150)
        found: dict[str, Checks] = {}
        for report in output.glob("*/checks.json"):
            named = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT.*", report.parent.name)
            assert named, report
            checks = found.setdefault(named[1], {})
            for check in json.loads(report.read_text()):
                checks.setdefault((check["id"], check["name"]), []).append(check)
        assert found, str(done)
        return found


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with opened(tmp_path_factory.mktemp("runner")) as room:
        yield Runner(room)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fixture server serving HTTP itself."""
    port = free_port()
    protection = {"FASTMCP_HTTP_HOST_ORIGIN_PROTECTION": "true"}
    with opened(tmp_path_factory.mktemp("alone"), **protection) as room:
        server = room.start("alone", [sys.executable, SERVER, "http", str(port)])
        wait_until(lambda: accepts(port), "listener", server)
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway with the fixture server behind it, as servers of either era."""
    command = f"command = {json.dumps([sys.executable, SERVER, 'stdio'])}"
    manifests = {
        "system": 'entry_point = "system"\nenabled = false',
        "fixture": command,
        "fixture-old": f'{command}\nera = "legacy"',
    }
    folder = tmp_path_factory.mktemp("behind")
    # The runner cannot be given a token, and nobody is there who approves.
    open_to_all = {
        "HOSTWRIGHT_GATEWAY__REQUIRE_TOKEN": "false",
        "HOSTWRIGHT_POLICY__PROFILE": "autonomous",
    }
    with running_daemon(folder, manifests=manifests, **open_to_all) as daemon:
        yield daemon.url


def lost(alone: Checks, behind: Checks) -> list[str]:
    """What succeeds on one side and not on the other."""
    found: list[str] = []
    for key, checks in alone.items():
        if key[0] in OF_EVERY_SCENARIO or any(one["status"] != "SUCCESS" for one in checks):
            continue
        made = behind.get(key, [])
        accepted = {"SUCCESS", "INFO"} if key[0] in OF_STREAMS else {"SUCCESS"}
        bad = [one for one in made if one["status"] not in accepted]
        if not made:
            found.append(f"{key}: was not made")
        found += [f"{key}: {_why(one)}" for one in bad]
    return found + broken(behind)


def broken(checks: Checks) -> list[str]:
    """Failures, among them messages that the schema of the revision does not allow."""
    return [
        f"{key}: {_why(one)}"
        for key, made in checks.items()
        for one in made
        if one["status"] == "FAILURE"
    ]


def _why(check: Mapping[str, Any]) -> str:
    detail = check.get("errorMessage") or json.dumps(check.get("details"))
    return f"{check['status']}: {detail[:1_500]}"


def own_successes(checks: Checks) -> int:
    """Checks that only this scenario makes, and that succeed."""
    return sum(
        one["status"] == "SUCCESS"
        for (name, _), made in checks.items()
        if name not in OF_EVERY_SCENARIO
        for one in made
    )


def cases(*revisions: str) -> list[Any]:
    return [
        pytest.param(revision, name, id=f"{revision} {name}")
        for revision in revisions
        for name in SCENARIOS[revision]
        if name not in SUBSCRIBING
    ]


@pytest.mark.parametrize(("revision", "scenario"), cases(OLD, NEW))
def test_nothing_that_fastmcp_alone_passes_is_lost(
    runner: Runner, alone: str, behind: str, revision: str, scenario: str
) -> None:
    reference = runner.checks(alone, revision)[scenario]
    if (revision, scenario) not in NOTHING_TO_HOLD:
        assert own_successes(reference), f"the fixture server fails {scenario}: {reference}"
    assert not lost(reference, runner.checks(f"{behind}/fixture", revision)[scenario])


@pytest.mark.parametrize(("revision", "scenario"), cases(OLD))
def test_a_server_of_the_old_era_keeps_what_it_can(
    runner: Runner, alone: str, behind: str, revision: str, scenario: str
) -> None:
    """The same server, spoken to in the handshake era, for clients of the handshake era."""
    reference = runner.checks(alone, revision)[scenario]
    assert not lost(reference, runner.checks(f"{behind}/fixture-old", revision)[scenario])


@pytest.mark.parametrize("scenario", SUBSCRIBING)
def test_subscriptions_to_resources_are_taken(runner: Runner, behind: str, scenario: str) -> None:
    """FastMCP alone refuses them."""
    found = runner.checks(f"{behind}/fixture", OLD)[scenario]
    assert own_successes(found)
    assert not broken(found)


@pytest.mark.parametrize("revision", (OLD, NEW))
def test_these_are_all_the_scenarios_there_are(runner: Runner, alone: str, revision: str) -> None:
    assert set(runner.checks(alone, revision)) == set(SCENARIOS[revision])


def test_a_check_that_was_not_made_is_lost() -> None:
    passed: Checks = {("a", "A"): [{"status": "SUCCESS"}], ("b", "B"): [{"status": "SKIPPED"}]}
    assert not lost(passed, passed)
    assert lost(passed, {}) == ["('a', 'A'): was not made"]
    failed: Checks = {("a", "A"): [{"status": "FAILURE", "errorMessage": "no"}]}
    assert lost(passed, failed)
    assert lost({}, failed)
