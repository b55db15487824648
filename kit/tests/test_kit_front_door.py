"""Each call's way through a real server: official client, both eras, every way in."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from hostwright_kit.audit import EventFilter, list_receipts
from hostwright_kit.caller import Caller
from hostwright_kit.identity import actor_meta
from hostwright_kit.redact import MASK
from hostwright_kit.vouching import ACTOR_META

from .kit_harness import (
    ERAS,
    WAYS,
    Era,
    Home,
    Way,
    failure,
    free_port,
    text,
    wait_for,
)


class Door:
    """One installation and the way into its server."""

    def __init__(self, home: Home, way: Way, address: str) -> None:
        self.home = home
        self.way: Way = way
        self.address = address

    @asynccontextmanager
    async def client(
        self, era: Era, *, elicit: Any = None, **env: str
    ) -> AsyncGenerator[Client[Any]]:
        async with self.home.client(
            self.way, era, address=self.address, elicit=elicit, **env
        ) as client:
            yield client

    def acts_of(self, what: str) -> int:
        return self.home.acts().count(what)


@pytest.fixture(scope="module", params=WAYS)
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Door]:
    way: Way = request.param
    home = Home(tmp_path_factory.mktemp(way))
    if way == "stdio":
        yield Door(home, way, "")
        return
    address = f"127.0.0.1:{free_port()}" if way == "http" else str(home.runtime / "probe.sock")
    with home.serving(f"--{way}", address):
        yield Door(home, way, address)
    home.assert_ledger_holds()


async def call(client: Client[Any], tool: str, **arguments: Any) -> Any:
    return await client.call_tool(tool, arguments, raise_on_error=False)


@pytest.mark.parametrize("era", ERAS)
async def test_reads_and_contained_acts_run_at_once_and_are_on_record(door: Door, era: Era) -> None:
    async with door.client(era) as client:
        hints = {tool.name: tool.annotations for tool in await client.list_tools()}
        assert hints["look"] is not None and hints["look"].read_only_hint
        assert hints["wreck"] is not None and hints["wreck"].destructive_hint
        assert not (await call(client, "look", text=f"read {era}")).is_error
        assert not (await call(client, "note", text=f"act {era}")).is_error
        dry = await call(client, "wreck", text=f"dry {era}", dry_run=True)
        assert not dry.is_error, "a dry run changes nothing and needs nobody's leave"
    assert door.acts_of(f"note act {era}") == 1
    (receipt,) = [
        receipt
        for receipt in list_receipts(door.home.ledger, EventFilter(tool="note")).receipts
        if receipt.arguments == {"text": f"act {era}"}
    ]
    assert (receipt.outcome, receipt.caller) == ("ok", "tester")
    assert receipt.undo == {"tool": "unnote", "arguments": {"text": f"act {era}"}}

    def read_is_noted() -> bool:
        noted = door.home.events(type="call.read", tool="look", outcome="ok")
        return any(event.detail["arguments"] == {"text": f"read {era}"} for event in noted)

    wait_for(read_is_noted)
    by = door.home.events(tool="note")[-1].detail["by"]
    assert (by["transport"], by["client"], by["version"]) == (door.way, "tester", "9")
    assert by.get("uid") == (None if door.way == "http" else os.getuid())


@pytest.mark.parametrize("era", ERAS)
async def test_a_grave_act_waits_for_the_terminal_and_runs_once_exactly_as_granted(
    door: Door, era: Era
) -> None:
    what = f"terminal {era}"
    async with door.client(era) as client:
        refused = failure(await call(client, "wreck", text=what))
        assert refused["code"] == "approval_needed"
        name = refused["approval_id"]
        assert f"hostwright approve {name}" in refused["fix"]
        assert failure(await call(client, "wreck", text=what))["approval_id"] == name
        assert door.acts_of(f"wreck {what}") == 0

        door.home.grant(name)
        for other in ({"text": f"{what}!"}, {"text": what, "dry_run": False}):
            uncovered = failure(await call(client, "wreck", **other))
            assert uncovered["approval_id"] != name
        assert failure(await call(client, "ghost", text=what))["approval_id"] != name
        assert text(await call(client, "wreck", text=what)) == f"wrecked {what}"
        again = failure(await call(client, "wreck", text=what))
        assert again["approval_id"] != name
    assert door.acts_of(f"wreck {what}") == 1
    intents = door.home.events(type="call.intent", tool="wreck")
    (used,) = [event for event in intents if event.detail.get("approval") == name]
    assert used.detail["approved_via"] == "terminal"


@pytest.mark.parametrize("era", ERAS)
async def test_what_the_owner_answers_in_the_client_is_what_happens(door: Door, era: Era) -> None:
    answers: list[Any] = []
    questions: list[str] = []

    async def elicit(message: str, *_: Any) -> Any:
        questions.append(message)
        return answers.pop(0)

    async with door.client(era, elicit=elicit) as client:
        for number, (answer, code) in enumerate(
            [
                ({"approve": True}, None),
                ({"approve": False}, "approval_denied"),
                (ElicitResult(action="decline"), "approval_denied"),
                (ElicitResult(action="cancel"), "approval_needed"),
            ]
        ):
            answers.append(answer)
            what = f"asked {era} {number}"
            result = await call(client, "wreck", text=what)
            if code is None:
                assert text(result) == f"wrecked {what}"
            else:
                assert failure(result)["code"] == code
            assert door.acts_of(f"wreck {what}") == (code is None)
            assert what in questions[-1]
            assert "tester" in questions[-1]
    assert len(questions) == 4
    told = [event.type for event in door.home.events() if event.detail.get("via") == "client"]
    assert told[-3:] == ["approval.granted", "approval.denied", "approval.denied"]


@pytest.mark.parametrize("era", ERAS)
async def test_what_did_not_declare_itself_is_grave_and_what_is_unknown_or_bad_is_an_error(
    door: Door, era: Era
) -> None:
    async with door.client(era) as client:
        assert failure(await call(client, "ghost", text="boo"))["code"] == "approval_needed"
        unknown = await call(client, "no_such_tool")
        assert unknown.is_error and "no_such_tool" in text(unknown)
        before = len(door.home.events(type="approval.requested"))
        for bad in ({}, {"text": 1}, {"text": "x", "more": 1}, {"text": "x", "dry_run": "yes"}):
            wrong = failure(await call(client, "wreck", **bad))
            assert wrong["code"] == "bad_arguments"
        assert len(door.home.events(type="approval.requested")) == before
        forged = await client.call_tool(
            "note", {"text": "forged"}, meta=_forged(), raise_on_error=False
        )
        assert failure(forged)["code"] == "identity_forged"
        assert not (await call(client, "look")).is_error
    assert not [act for act in door.home.acts() if "boo" in act or "forged" in act]


def _forged() -> dict[str, Any]:
    return {ACTOR_META: actor_meta(Caller(client="owner", token="owner"), "guessed key")}


@pytest.mark.parametrize("era", ERAS)
async def test_no_secret_reaches_the_ledger_the_approvals_an_error_or_stderr(
    door: Door, era: Era
) -> None:
    tag = era.replace("-", "")
    planted = {
        "password": f"hunter2{tag}pw",
        "vault_word": f"opensesame{tag}",
        "headers": {"Authorization": f"Custom zanzibar{tag}", "X-Note": f"ghp_{tag:x<30}"},
    }
    secrets = [f"hunter2{tag}pw", f"opensesame{tag}", f"zanzibar{tag}", f"ghp_{tag:x<30}"]
    seen: list[str] = []

    async def elicit(message: str, *_: Any) -> Any:
        seen.append(message)
        return {"approve": True}

    async with door.client(era, elicit=elicit) as client:
        for user in ("fine", "refused", "crash"):
            result = await call(client, "login", user=user, **planted)
            assert result.is_error == (user != "fine")
            assert user != "crash" or failure(result)["code"] == "internal"
            seen.append(json.dumps([text(result), result.meta]))
        bad = await call(client, "login", user="fine", password=1, vault_word=secrets[1] * 3)
        seen.append(text(bad))
        assert failure(bad)["code"] == "bad_arguments"
    assert door.home.acts()[-3:] == ["login fine", "login refused", "login crash"]
    assert any(MASK in message for message in seen)
    crash = json.loads(seen[-2])[0]
    assert "account" not in crash, "an unexpected failure does not tell the client what it says"
    assert "no account for" in door.home.stderr(), "but the owner finds it in the log"
    for secret in secrets:
        assert not [message for message in seen if secret in message]
        assert secret not in door.home.stderr()
        kept = (*door.home.state.rglob("*"), *door.home.config.rglob("*"))
        for file in (one for one in kept if one.is_file()):
            assert secret.encode() not in file.read_bytes(), file
