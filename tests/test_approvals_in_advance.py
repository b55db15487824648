"""Approvals asked for in advance, and policy.toml, through the gateway: ours and a stranger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.approvals import Approvals
from hostwright_kit.ledger import Ledger
from hostwright_kit.runtime import APPROVALS_FILE

from .daemon_harness import Daemon, Installation, failure, structured, wait_for


@pytest.fixture(scope="module")
def asking_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("asking"), profile="standard")
    home.third_party("shop", "--era", "modern")
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def daemon(asking_home: Installation) -> Iterator[Daemon]:
    with asking_home.up() as running:
        yield running


def grant(home: Installation, approval_id: str) -> None:
    """As the owner does on the terminal."""
    ledger = Ledger(home.ledger)
    approvals = Approvals(home.state / APPROVALS_FILE, ledger, lifetime_seconds=600)
    approvals.grant(approval_id, via="terminal", by="owner")
    approvals.close()
    ledger.close()


@pytest.mark.parametrize(
    ("server", "tool", "shown", "arguments"),
    [
        ("system", "shell_exec", "shell_exec", {"argv": ["true"]}),
        ("shop", "echo", "shop__echo", {"text": "one"}),
    ],
)
async def test_a_call_that_was_granted_in_advance_runs_once(
    daemon: Daemon, server: str, tool: str, shown: str, arguments: dict[str, Any]
) -> None:
    asked = {"server": server, "tool": tool, "arguments": arguments}
    async with daemon.client() as client:
        request = structured(await client.call_tool("approval_request", asked))
        assert request["state"] == "pending"
        assert request["folder"] == str(daemon.home.work)
        grant(daemon.home, request["id"])
        assert not (await client.call_tool(shown, arguments)).is_error
        check = {"approval_id": request["id"]}
        assert structured(await client.call_tool("approval_check", check))["state"] == "consumed"
        again = await client.call_tool(shown, arguments, raise_on_error=False)
        assert failure(again)["code"] == "approval_needed"
    async with daemon.client(name="stranger") as client:
        refused = await client.call_tool("approval_check", check, raise_on_error=False)
        assert failure(refused)["code"] == "not_found"


async def test_rules_are_taken_over_by_everybody_while_they_run(daemon: Daemon) -> None:
    file = daemon.home.config / "policy.toml"
    rules = (
        '[[rules]]\neffect = "allow"\nserver = "shop"\n[rules.arguments]\ntext = { glob = "ok*" }\n'
        '[[rules]]\neffect = "deny"\n[rules.arguments]\ntext = { equals = "never" }\n'
        '[[rules]]\neffect = "allow"\ntool = "shell_exec"\n[rules.arguments]\n'
        '"argv[0]" = { equals = "true" }\n'
    )
    calls = [
        ("shop__echo", {"text": "ok then"}, None),
        ("shop__echo", {"text": "NEVER"}, "denied"),
        ("shop__echo", {"text": "else"}, "approval_needed"),
        ("shell_exec", {"argv": ["true"]}, None),
        ("shell_exec", {"argv": ["false"]}, "approval_needed"),
    ]
    new = file.with_suffix(".new")
    new.write_text(rules)
    new.replace(file)
    try:
        async with daemon.client() as client:
            for tool, arguments, code in calls:
                result = await client.call_tool(tool, arguments, raise_on_error=False)
                found = failure(result)["code"] if result.is_error else None
                assert found == code, (tool, arguments, result)
        new.write_text(rules + "\n[[rules]]\neffect = 7\n")
        new.replace(file)
        async with daemon.client() as client:
            assert not (await client.call_tool("shop__echo", {"text": "ok still"})).is_error
        wait_for(lambda: any("policy.toml" in one for one in daemon.status()["problems"]))
    finally:
        file.unlink()


def test_explain_says_what_the_gateway_will_do(daemon: Daemon) -> None:
    words = ("policy", "explain", "shop.echo", "text=x", "--json")
    found = json.loads(daemon.home.cli(*words).stdout)
    assert (found["verdict"], found["known"]) == ("ask", False)
    found = json.loads(
        daemon.home.cli("policy", "explain", "system.system_health", "--json").stdout
    )
    assert (found["verdict"], found["known"]) == ("allow", True)
    assert Path(daemon.home.state / "served" / "system.json").exists()
