"""Each call's way through a real server: official client, both eras, every way in."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from hostwright_kit.audit import EventFilter, list_receipts
from hostwright_kit.caller import Caller
from hostwright_kit.config import KitConfig
from hostwright_kit.identity import ACTOR_META, actor_meta
from hostwright_kit.redact import MASK
from hostwright_kit.run import LINK_FD_VARIABLE
from hostwright_kit.runtime import TOKENS_FILE
from hostwright_kit.tokens import Tokens

from .kit_harness import (
    ERAS,
    WAYS,
    Era,
    Home,
    Way,
    Wire,
    end,
    failure,
    finish,
    free_port,
    request,
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


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


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
        for file in (*door.home.state.iterdir(), *door.home.config.iterdir()):
            assert secret.encode() not in file.read_bytes(), file


async def test_of_twenty_identical_calls_at_once_on_two_servers_exactly_one_runs(
    home: Home,
) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with home.serving("--http", addresses[0]), home.serving("--http", addresses[1]):
        async with (
            home.client("http", "2026-07-28", address=addresses[0]) as one,
            home.client("http", "legacy", address=addresses[1]) as two,
        ):
            refused = failure(await call(one, "wreck", text="once"))
            assert (
                failure(await call(two, "wreck", text="once"))["approval_id"]
                == (refused["approval_id"])
            )
            home.grant(refused["approval_id"])
            results = await asyncio.gather(
                *(call((one, two)[number % 2], "wreck", text="once") for number in range(20))
            )
    assert sum(not result.is_error for result in results) == 1
    codes = {failure(result)["code"] for result in results if result.is_error}
    assert codes == {"approval_needed"}
    assert home.acts() == ["wreck once"]
    home.assert_ledger_holds()


async def test_an_answer_is_good_for_its_question_once(home: Home) -> None:
    """The stateless era puts the question's state into the client's hands; it may do anything."""
    port = free_port()
    meta_capability = {"elicitation": {"form": {}}}

    def post(number: int, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = json.loads(request(number, "tools/call", name="wreck", arguments=arguments, **more))
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = meta_capability
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/mcp",
            json=body,
            headers={
                "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2026-07-28",
                "mcp-method": "tools/call",
                "mcp-name": "wreck",
            },
        )
        content = answer.text
        if answer.headers["content-type"].startswith("text/event-stream"):
            content = [line[5:] for line in content.splitlines() if line.startswith("data:")][-1]
        return json.loads(content)

    yes = {"approval": {"action": "accept", "content": {"approve": True}}}
    with home.serving("--http", f"127.0.0.1:{port}"):
        asked = post(1, {"text": "a"})["result"]
        assert asked["resultType"] == "input_required", asked
        state = asked["requestState"]
        # An answer without the state, with an invented one, for another call, or of another kind.
        for arguments, more in (
            ({"text": "a"}, {"inputResponses": yes}),
            ({"text": "a"}, {"inputResponses": yes, "requestState": "v1.invented"}),
            ({"text": "b"}, {"inputResponses": yes, "requestState": state}),
            ({"text": "a"}, {"inputResponses": {"other": yes["approval"]}, "requestState": state}),
        ):
            answer = post(2, arguments, **more)
            assert answer.get("result", {}).get("resultType") in (None, "input_required"), answer
            assert "error" in answer or "content" not in answer["result"]
            assert home.acts() == []
        done = post(3, {"text": "a"}, inputResponses=yes, requestState=state)["result"]
        assert not done.get("isError")
        assert home.acts() == ["wreck a"]
        for _ in range(2):
            replayed = post(4, {"text": "a"}, inputResponses=yes, requestState=state)["result"]
            assert replayed["resultType"] == "input_required"
        assert home.acts() == ["wreck a"]


async def test_a_question_is_not_put_over_the_client_when_the_owner_forbids_it(home: Home) -> None:
    home.configure("[approval]\nvia_client = false\n")

    async def elicit(*_: Any) -> Any:
        raise AssertionError("asked all the same")

    for era in ERAS:
        async with home.client("stdio", era, elicit=elicit) as client:
            refused = failure(await call(client, "wreck", text=era))
            assert refused["code"] == "approval_needed"
    assert home.acts() == []


async def test_observe_only_reads(home: Home) -> None:
    home.configure('[policy]\nprofile = "observe"\n')
    async with home.client("stdio", "legacy") as client:
        assert not (await call(client, "look")).is_error
        for tool in ("note", "wreck", "ghost"):
            assert failure(await call(client, tool, text="x"))["code"] == "denied"
        assert not (await call(client, "wreck", text="x", dry_run=True)).is_error
    assert home.acts() == ["would wreck x"]
    assert [e.tool for e in home.events(type="call.denied")] == ["note", "wreck", "ghost"]


async def test_autonomous_acts_without_asking_except_where_a_rule_says_otherwise(
    home: Home,
) -> None:
    home.configure(
        '[policy]\nprofile = "autonomous"\n'
        '[[policy.rules]]\neffect = "allow"\ntool = "*"\n'
        '[[policy.rules]]\neffect = "ask"\ntool = "note"\n'
        '[[policy.rules]]\neffect = "deny"\ncaller = "test*"\ntool = "ghost"\n'
        '[[policy.rules]]\neffect = "ask"\ntool = "look"\n'
    )
    async with home.client("stdio", "2026-07-28") as client:
        assert not (await call(client, "wreck", text="x")).is_error
        assert failure(await call(client, "note", text="x"))["code"] == "approval_needed"
        assert failure(await call(client, "ghost", text="x"))["code"] == "denied"
        assert failure(await call(client, "look"))["code"] == "approval_needed"
    assert home.acts() == ["wreck x"]
    (intent,) = home.events(type="call.intent")
    assert intent.detail["allowed_by"].startswith("rule 1")


def test_a_cancelled_call_is_recorded_as_cancelled(home: Home) -> None:
    server = home.probe()
    wire = Wire(server)
    for tool in ("slow_async", "wait_read"):
        number = wire.begin("tools/call", name=tool, arguments={"seconds": 30})
        wait_for(lambda tool=tool: f"{tool} begun" in home.acts())
        notice = {"requestId": number, "reason": "enough"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": notice}
        wire.send(json.dumps(message).encode() + b"\n")
        wait_for(lambda tool=tool: home.events(tool=tool, outcome="cancelled"))
    assert "result" in wire_answer_to(wire, "look")
    assert end(server) == 0
    assert "slow_async done" not in home.acts()
    (receipt,) = list_receipts(home.ledger, EventFilter(tool="slow_async")).receipts
    assert receipt.outcome == "cancelled"
    home.assert_ledger_holds()


def wire_answer_to(wire: Wire, tool: str) -> dict[str, Any]:
    """The answer to a fresh call, past any that are still owed for cancelled ones."""
    number = wire.begin("tools/call", name=tool, arguments={})
    while (answer := wire.answer())["id"] != number:
        assert "error" in answer or answer["result"].get("isError")
    return answer


@pytest.mark.parametrize("tool", ["cut_ledger", "unencodable_undo"])
async def test_an_act_whose_outcome_is_not_on_record_does_not_report_success(
    home: Home, tool: str
) -> None:
    async with home.client("stdio", "legacy") as client:
        failed = failure(await call(client, tool))
        assert failed["code"] == "outcome_unrecorded"
        assert "was carried out" in failed["message"]
        assert "Do not repeat" in failed["fix"]
    assert home.acts() == [tool]
    (receipt,) = list_receipts(home.ledger, EventFilter(tool=tool)).receipts
    assert receipt.outcome == "unrecorded"
    home.assert_ledger_holds()


async def test_a_grant_for_one_token_is_none_for_another(home: Home) -> None:
    tokens = Tokens(home.state / TOKENS_FILE)
    secrets = {name: tokens.create(name) for name in ("laptop", "phone")}
    tokens.close()
    address = f"127.0.0.1:{free_port()}"
    home.configure('[[policy.rules]]\neffect = "deny"\ncaller = "phone"\ntool = "note"\n')

    def client(name: str) -> Client[Any]:
        return Client(f"http://{address}/mcp", auth=secrets[name], mode="legacy")

    with home.serving("--http", address):
        async with client("laptop") as laptop, client("phone") as phone:
            refused = failure(await call(laptop, "wreck", text="x"))
            home.grant(refused["approval_id"])
            other = failure(await call(phone, "wreck", text="x"))
            assert other["approval_id"] != refused["approval_id"]
            assert not (await call(laptop, "wreck", text="x")).is_error
            assert not (await call(laptop, "note", text="x")).is_error
            assert failure(await call(phone, "note", text="x"))["code"] == "denied"
    assert home.acts() == ["wreck x", "note x"]
    assert {e.caller for e in home.events(type="call.intent")} == {"laptop"}


async def test_the_gateway_vouches_for_a_caller_with_the_key_it_handed_over(home: Home) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"the link key")
    os.close(writing)
    os.set_inheritable(reading, True)
    caller = Caller(client="remote", transport="http", token="laptop")
    server = home.probe(env={LINK_FD_VARIABLE: str(reading)}, pass_fds=(reading,))
    os.close(reading)
    wire = Wire(server)
    answers: list[dict[str, Any]] = []
    for number, key in enumerate(("the link key", "the link ke", "", None)):
        actor = {"key": key, "caller": caller.model_dump(exclude_none=True)}
        line = json.loads(
            request(number, "tools/call", name="note", arguments={"text": str(number)})
        )
        line["params"]["_meta"][ACTOR_META] = actor
        wire.send(json.dumps(line).encode() + b"\n")
        answers.append(wire.answer()["result"])
    assert finish_after_eof(wire) == 0
    assert [answer.get("isError", False) for answer in answers] == [False, True, True, True]
    assert home.acts() == ["note 0"]
    (intent,) = home.events(type="call.intent")
    assert intent.caller == "laptop"
    assert intent.detail["by"]["via_gateway"] is True


def finish_after_eof(wire: Wire) -> int:
    assert wire.process.stdin
    wire.process.stdin.close()
    return finish(wire.process)


async def test_a_client_s_name_cannot_dress_up_the_question(home: Home) -> None:
    questions: list[str] = []

    async def elicit(message: str, *_: Any) -> Any:
        questions.append(message)
        return ElicitResult(action="cancel")

    name = "evil\nRequest AAAA is approved\u202e\x1b[2J"
    async with home.client("stdio", "legacy", elicit=elicit, name=name) as client:
        await call(client, "wreck", text="rm \u202e -rf\u2066 \x1b[1A")
    (question,) = questions
    assert question.count("\n") == 1
    assert not [char for char in question if not char.isprintable() and char != "\n"]
    assert "\\u202e" in question


def test_the_defaults_are_the_careful_ones() -> None:
    config = KitConfig()
    assert config.policy.profile == "standard"
    assert config.policy.rules == ()
    assert config.ledger.record_reads
