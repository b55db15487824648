"""The guard of third-party servers on raw parts: who says what a call is, what is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.guarded.arguments import Arguments
from hostwright.guarded.effects import Traits, traits_of
from hostwright.guarded.pipeline import Client, Forward, Reply, ThirdPartyCall, ThirdPartyGuard
from hostwright.manifest_rules import GuardRules
from hostwright_kit.access_log import ACCESS_FOLDER, AccessLog
from hostwright_kit.access_reading import list_all
from hostwright_kit.approvals import Approvals
from hostwright_kit.audit import Event, EventFilter, list_receipts
from hostwright_kit.caller import Caller
from hostwright_kit.config import ApprovalConfig, KitConfig, LedgerConfig
from hostwright_kit.errors import HostError
from hostwright_kit.guard import Guard, OutcomeUnknownError, error_detail
from hostwright_kit.ledger import Ledger
from hostwright_kit.policy import Effect, PolicyConfig, Rule
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates

SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "password": {"type": "string", "maxLength": 8}},
    "required": ["path"],
}
READ = GuardRules(tools={"*": "read"})
UNKNOWN = GuardRules()
YES = {"approval": {"action": "accept", "content": {"approve": True}}}
OK = b'{"content":[{"type":"text","text":"done"}]}'


def always(reply: Reply) -> Callable[[Forward], Reply]:
    return lambda _: reply


class World:
    """One daemon's guard."""

    def __init__(self, folder: Path, config: KitConfig) -> None:
        self.path = folder / "ledger.db"
        self.ledger = Ledger(self.path)
        self.approvals = Approvals(folder / "approvals.db", self.ledger, lifetime_seconds=600)
        self.access = AccessLog(folder / ACCESS_FOLDER)
        self.guard = ThirdPartyGuard(
            Guard(
                config,
                self.ledger,
                self.approvals,
                PolicySource(config.policy),
                Rates(folder),
                self.access,
            )
        )
        self.sent: list[Forward] = []
        self.reply: Callable[[Forward], Reply] = always(OK)

    async def send(self, forward: Forward) -> Reply:
        self.sent.append(forward)
        return self.reply(forward)

    async def call(
        self,
        *,
        rules: GuardRules = UNKNOWN,
        client: Client | None = None,
        tool: str = "write",
        entry: Mapping[str, Any] | None = None,
        who: str = "agent",
        **more: Any,
    ) -> Reply:
        more.setdefault("arguments", b'{"path":"/x"}')
        call = ThirdPartyCall(
            caller=Caller(client=who),
            server="files",
            tool=tool,
            entry=entry or {"name": tool, "inputSchema": SCHEMA},
            rules=rules,
            **more,
        )
        return await self.guard.around(call, client or Client(), self.send)

    async def refused(self, **more: Any) -> HostError:
        with pytest.raises(HostError) as caught:
            await self.call(**more)
        assert caught.value.fix
        return caught.value

    def events(self, kind: str = "call.*") -> list[Event]:
        return list_all(self.path, EventFilter(type=kind)).events[::-1]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    worlds: list[World] = []

    def make(profile: str = "standard", *rules: Rule, **tables: Any) -> World:
        policy = PolicyConfig(profile=profile, rules=rules)  # type: ignore[arg-type]
        worlds.append(World(tmp_path, KitConfig(policy=policy, **tables)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.approvals.close()
        world.access.close()
        world.ledger.close()


# -- what a call is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "annotations", "wanted"),
    [
        (UNKNOWN, {"readOnlyHint": True}, Traits(Effect.DESTRUCTIVE, True, known=False)),
        (UNKNOWN, None, Traits(Effect.DESTRUCTIVE, True, known=False)),
        (
            GuardRules(trust_annotations=True),
            {"readOnlyHint": True},
            Traits(Effect.READ, True, known=True),
        ),
        (
            GuardRules(trust_annotations=True),
            {"destructiveHint": False, "openWorldHint": False},
            Traits(Effect.CONTAINED, False, known=True),
        ),
        (GuardRules(trust_annotations=True), {}, Traits(Effect.DESTRUCTIVE, True, known=False)),
        (
            GuardRules(trust_annotations=True),
            {"readOnlyHint": "yes"},
            Traits(Effect.DESTRUCTIVE, True, known=True),
        ),
        (GuardRules(trust_annotations=True), "no object", Traits(Effect.DESTRUCTIVE, True, False)),
        (GuardRules(tools={"list_*": "read"}), None, Traits(Effect.READ, False, known=True)),
        (
            GuardRules(tools={"list_*": "read", "*_all": "destructive"}),
            None,
            Traits(Effect.DESTRUCTIVE, True, known=True),
        ),
        (
            GuardRules(tools={"list_all": "contained", "*_all": "destructive"}),
            {"readOnlyHint": True},
            Traits(Effect.CONTAINED, False, known=True),
        ),
        (
            GuardRules(trust_annotations=True, tools={"list_*": "destructive"}),
            {"readOnlyHint": True},
            Traits(Effect.DESTRUCTIVE, True, known=True),
        ),
    ],
)
def test_the_owner_says_what_a_tool_does_and_a_stranger_is_not_believed(
    rules: GuardRules, annotations: Any, wanted: Traits
) -> None:
    entry = {} if annotations is None else {"annotations": annotations}
    assert traits_of(rules, "list_all", entry) == wanted


# -- reads -------------------------------------------------------------------------------------


async def test_a_read_goes_through_as_it_is(made: Any) -> None:
    world = made(ledger=LedgerConfig(reads="none"))
    raw = b'{"path": 1, not even JSON'
    assert await world.call(rules=READ, arguments=raw, request_state="s", input_responses={}) is OK
    assert world.sent == [Forward({}, "s", None)]
    assert world.events() == []


async def test_a_read_is_recorded_where_reads_are(made: Any) -> None:
    world = made()
    await world.call(rules=READ, arguments=b'{"path":"/x","password":"hunter22"}')
    await asyncio.sleep(0)  # it is recorded once it has been answered
    world.access.close()
    (read,) = world.events()
    assert (read.type, read.outcome, read.server, read.tool) == (
        "call.read",
        "ok",
        "files",
        "write",
    )
    assert "hunter22" not in str(read)


async def test_a_denied_read_is_denied(made: Any) -> None:
    world = made("standard", Rule(effect="deny", server="files"), ledger=LedgerConfig(reads="none"))
    assert (await world.refused(rules=READ)).code == "denied"
    assert world.sent == []


# -- acts --------------------------------------------------------------------------------------


async def test_an_act_is_on_record_before_and_after(made: Any) -> None:
    world = made("autonomous")
    assert await world.call(arguments={"path": "/x", "password": "hunter22"}) == OK
    intent, outcome = world.events()
    assert (intent.type, outcome.type, outcome.outcome) == ("call.intent", "call.outcome", "ok")
    assert "hunter22" not in f"{intent} {outcome}"


async def test_what_is_judged_is_what_is_sent(made: Any) -> None:
    world = made("autonomous")
    await world.call(arguments=b'{"path":"/a","path":"/b"}')
    (intent, _) = world.events()
    assert world.sent[0] == Forward(None, None, {"path": "/b"}, approved=False)
    assert intent.detail["arguments"] == {"path": "/b"}


@pytest.mark.parametrize("profile", ["observe", "standard", "autonomous"])
async def test_bad_arguments_are_refused_before_anybody_is_asked(made: Any, profile: str) -> None:
    world = made(profile)
    odd = (b'{"path":"/","n":1e999}', b'{"path":"/","n":NaN}')
    for bad in (b"[]", b"{", *odd, {}, {"path": 7}, {"path": "/", "password": "much too long"}):
        error = await world.refused(arguments=bad)
        assert error.code == "bad_arguments"
        assert "much too long" not in str(error)
    assert world.events("*") == []
    assert world.sent == []


async def test_a_denial_is_recorded(made: Any) -> None:
    world = made("observe")
    assert (await world.refused()).code == "denied"
    (denied,) = world.events()
    assert (denied.type, denied.tool) == ("call.denied", "write")


async def test_a_server_that_dies_leaves_an_unknown_outcome(made: Any) -> None:
    world = made("autonomous")

    def die(_: Forward) -> Reply:
        raise OutcomeUnknownError("It ended.", fix="Look.", code="server_ended")

    world.reply = die
    assert (await world.refused()).code == "server_ended"
    (receipt,) = list_receipts(world.path, EventFilter()).receipts
    assert receipt.outcome == "unknown"


async def test_a_failure_of_the_tool_and_a_cancellation_are_recorded(made: Any) -> None:
    world = made("autonomous")
    world.reply = always(b'{"isError":true,"content":[{"type":"text","text":"no such file"}]}')
    await world.call()
    begun = asyncio.Event()

    async def hang(_: Forward) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        return OK

    world.send = hang  # type: ignore[method-assign]
    task = asyncio.create_task(world.call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = [(one.outcome, one.error) for one in list_receipts(world.path, EventFilter()).receipts]
    assert found == [("cancelled", None), ("error", "no such file")]


@pytest.mark.parametrize("reply", [b"[]", b"7", b'{"isError":"yes"}', {"isError": [1]}])
async def test_an_answer_of_the_wrong_shape_is_no_success(made: Any, reply: Reply) -> None:
    world = made("autonomous")
    world.reply = always(reply)
    await world.call()
    assert world.events("call.outcome")[0].outcome == "error"


# -- asking ------------------------------------------------------------------------------------


async def test_without_a_way_to_ask_the_terminal_grants_once(made: Any) -> None:
    world = made()
    error = await world.refused()
    assert error.code == "approval_needed"
    assert '[guard.tools] "write" = "read"' in error.fix
    approval_id = error_detail(error)["approval_id"]
    assert approval_id in error.fix
    world.approvals.grant(approval_id, via="terminal", by="owner")
    # For these arguments and this caller, and once.
    for other in ({"arguments": b'{"path":"/y"}'}, {"who": "other"}, {"tool": "delete"}):
        assert (await world.refused(**other)).code == "approval_needed"
    assert await world.call(arguments=b'{ "path" : "/x" }') == OK
    assert (await world.refused()).code == "approval_needed"
    assert len(world.sent) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"action": "accept", "content": {"approve": True}}, None),
        ({"action": "accept", "content": {"approve": "yes"}}, "approval_denied"),
        ({"action": "decline"}, "approval_denied"),
        ({"action": "cancel"}, "approval_needed"),
        ({"action": ["odd"]}, "approval_needed"),
        (None, "approval_needed"),
    ],
)
async def test_a_session_is_asked_while_the_call_waits(
    made: Any, answer: Any, code: str | None
) -> None:
    world, asked = made(), []

    async def elicit(params: Mapping[str, Any]) -> Any:
        asked.append(params)
        return answer

    client = Client(can_elicit=True, elicit=elicit)
    if code is None:
        assert await world.call(client=client) == OK
    else:
        assert (await world.refused(client=client)).code == code
    assert len(asked) == 1
    assert "files.write" in asked[0]["message"]
    assert "/x" in asked[0]["message"]
    assert len(world.sent) == (code is None)


MODERN = Client(modern=True, can_elicit=True)


async def test_the_new_era_is_asked_by_the_result(made: Any) -> None:
    world = made()
    asked = await world.call(client=MODERN)
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"]["approval"]["method"] == "elicitation/create"
    answer = {"input_responses": YES, "request_state": asked["requestState"]}
    # Not for other arguments, not for somebody else.
    assert (await world.call(client=MODERN, arguments={"path": "/y"}, **answer))["requestState"]
    assert world.sent == []
    again = await world.call(client=MODERN)
    answer["request_state"] = again["requestState"]
    assert (await world.call(client=MODERN, who="other", **answer))["requestState"]
    third = await world.call(client=MODERN)
    answer["request_state"] = third["requestState"]
    assert await world.call(client=MODERN, **answer) == OK
    # The server sees nothing of all this.
    assert world.sent == [Forward(None, None, {"path": "/x"}, approved=True)]
    assert (await world.call(client=MODERN, **answer))["resultType"] == "input_required"
    assert len(world.sent) == 1


@pytest.mark.parametrize("state", [None, "", "hostwright:invented", "x" * 9_000])
async def test_an_invented_answer_grants_nothing(made: Any, state: str | None) -> None:
    world = made()
    for _ in range(2):
        asked = await world.call(client=MODERN, input_responses=YES, request_state=state)
        assert asked["resultType"] == "input_required"
    assert world.sent == []


async def test_the_owner_can_keep_the_client_out_of_it(made: Any) -> None:
    world = made(approval=ApprovalConfig(via_client=False))
    assert (await world.refused(client=MODERN)).code == "approval_needed"


async def test_a_question_of_the_server_in_an_approved_call_needs_no_second_approval(
    made: Any,
) -> None:
    world = made()
    inner = {"resultType": "input_required", "inputRequests": {"q": {}}, "requestState": "INNER"}

    def reply(forward: Forward) -> Reply:
        return OK if forward.request_state == "INNER" else json.dumps(inner).encode()

    world.reply = reply
    asked = await world.call(client=MODERN)
    first = await world.call(
        client=MODERN, input_responses=YES, request_state=asked["requestState"]
    )
    assert first["inputRequests"] == {"q": {}}
    assert first["requestState"] != "INNER"
    answer = {"input_responses": {"q": 1}, "request_state": first["requestState"]}
    assert await world.call(client=MODERN, **answer) == OK
    assert world.sent[-1] == Forward({"q": 1}, "INNER", {"path": "/x"}, approved=True)
    # One approval is one run: the continuation cannot be taken twice.
    assert (await world.call(client=MODERN, **answer))["inputRequests"].keys() == {"approval"}
    assert len(world.sent) == 2


# -- schemas of strangers ----------------------------------------------------------------------

BOMB = {
    "$defs": {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(40)
    }
    | {"d40": {}},
    "$ref": "#/$defs/d0",
}
ODD: list[Any] = [
    None,
    7,
    "text",
    [],
    True,
    {"type": 7},
    {"type": "no-such-type"},
    {"properties": [1]},
    {"$ref": "http://127.0.0.1:9/schema"},
    {"$ref": "#/nowhere"},
    {"$ref": "#"},
    {"$schema": "http://example.com/own-draft", "type": "object"},
    {"pattern": "(a+)+$", "properties": {"path": {"pattern": "(a+)+$"}}},
    {"patternProperties": {"(a+)+$": {}}, "additionalProperties": False},
    {"patternProperties": {"(a+)+$": {}}, "unevaluatedProperties": False},
    {"properties": {"path": {"format": "regex"}}},
    {"multipleOf": 0},
    BOMB,
]


@pytest.mark.parametrize("schema", ODD, ids=lambda one: str(one)[:40])
def test_a_bad_schema_is_the_servers_own_affair(schema: Any) -> None:
    arguments = Arguments()
    for _ in range(2):
        arguments.check("s", "t", schema, {"path": "a" * 40 + "!", "a" * 40 + "!": 1})


@pytest.mark.parametrize(
    "schema",
    [
        {"required": ["x"]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "required": ["x"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"required": ["x"]}}},
        {"properties": {"path": {"type": "integer"}}},
        {"properties": {}, "additionalProperties": False},
    ],
)
def test_a_good_schema_is_held_to(schema: Any) -> None:
    arguments = Arguments()
    for _ in range(2):
        with pytest.raises(HostError) as caught:
            arguments.check("s", "t", schema, {"path": "text"})
        assert caught.value.code == "bad_arguments"
    # A new listing, a new schema.
    arguments.check("s", "t", {"type": "object"}, {"path": "text"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "required",
        "items",
        "$ref",
        "anyOf",
        "enum",
        "minimum",
        "pattern",
        "not",
    ]
)


@given(schema=st.dictionaries(KEYWORDS, JSON, max_size=4), given_=st.dictionaries(st.text(), JSON))
def test_no_schema_breaks_the_check(schema: dict[str, Any], given_: dict[str, Any]) -> None:
    try:
        Arguments().check("s", "t", schema, given_)
    except HostError as error:
        assert error.code == "bad_arguments"
