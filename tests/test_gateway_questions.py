"""The owner's yes or no over the client: both eras, every way in, and who cannot forge it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.elicitation import ElicitResult
from mcp.shared.exceptions import MCPError

from .daemon_harness import ERAS, WAYS, Daemon, Era, Installation, Way, failure, text

_numbers = itertools.count()
CAN_ASK = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
YES = {"approval": {"action": "accept", "content": {"approve": True}}}


@pytest.fixture(scope="module")
def asking_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The profile in which grave acts need the owner."""
    home = Installation(tmp_path_factory.mktemp("asking"), profile="standard")
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def asking(asking_home: Installation) -> Iterator[Daemon]:
    with asking_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(asking_home: Installation) -> str:
    return asking_home.token("asker")


class Act:
    """A command that leaves a file behind when it is really run."""

    def __init__(self, home: Installation) -> None:
        self.file: Path = home.work / f"done-{next(_numbers)}"
        self.arguments = {"argv": ["sh", "-c", f"echo x >> {self.file}"]}

    @property
    def times(self) -> int:
        return len(self.file.read_text().splitlines()) if self.file.exists() else 0


class Owner:
    """Whoever sits before the client."""

    def __init__(self, action: Any, content: dict[str, Any] | None = None) -> None:
        self._answer = ElicitResult(action=action, content=content)
        self.asked: list[str] = []

    async def __call__(self, message: str, *_: Any) -> ElicitResult[Any]:
        self.asked.append(message)
        return self._answer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
async def test_a_yes_runs_it_once(
    asking: Daemon, asking_home: Installation, key: str, way: Way, era: Era
) -> None:
    act, owner = Act(asking_home), Owner("accept", {"approve": True})
    async with asking.client(way, era, token=key, elicit=owner, name="asker-app") as client:
        result = await client.call_tool("shell_exec", act.arguments)
        assert result.structured_content
        assert act.times == 1
        assert len(owner.asked) == 1
        assert str(act.file) in owner.asked[0]
        assert ("asker" if way == "http" else "asker-app") in owner.asked[0]
        # A grant is used up: the same call again is a new question.
        await client.call_tool("shell_exec", act.arguments)
        assert len(owner.asked) == 2
        assert act.times == 2
    intents = [
        one for one in asking_home.events(type="call.intent") if str(act.file) in str(one.detail)
    ]
    assert [one.detail["approved_via"] for one in intents] == ["client", "client"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("owner", "code"),
    [
        (Owner("decline"), "approval_denied"),
        (Owner("accept", {"approve": False}), "approval_denied"),
        (Owner("cancel"), "approval_needed"),
        (None, "approval_needed"),
    ],
    ids=["decline", "accept-no", "cancel", "cannot-ask"],
)
async def test_anything_but_a_yes_runs_nothing(
    asking: Daemon,
    asking_home: Installation,
    key: str,
    way: Way,
    era: Era,
    owner: Owner | None,
    code: str,
) -> None:
    act = Act(asking_home)
    asked = len(owner.asked) if owner else 0
    async with asking.client(way, era, token=key, elicit=owner) as client:
        result = await client.call_tool("shell_exec", act.arguments, raise_on_error=False)
    error = failure(result)
    assert error["code"] == code
    assert act.times == 0
    if owner:
        assert len(owner.asked) == asked + 1
    if code == "approval_needed":
        assert error["approval_id"] in text(result)
        assert f"hostwright approve {error['approval_id']}" in error["fix"]


def test_an_answer_to_no_question_grants_nothing(asking: Daemon, asking_home: Installation) -> None:
    act = Act(asking_home)
    with asking.wire("system") as wire:
        call: dict[str, Any] = {"name": "shell_exec", "arguments": act.arguments}
        for invented in ({}, {"requestState": "ap_0123456789"}, {"requestState": "x" * 5_000}):
            answer = wire.ask("tools/call", CAN_ASK, **call, inputResponses=YES, **invented)
            result = answer.get("result", {})
            assert (
                "error" in answer
                or result.get("isError")
                or (result["resultType"] == "input_required")
            ), answer
            assert act.times == 0


def test_a_yes_counts_once_and_for_this_call_only(
    asking: Daemon, asking_home: Installation
) -> None:
    act, other = Act(asking_home), Act(asking_home)
    with asking.wire("system") as wire:
        call: dict[str, Any] = {"name": "shell_exec", "arguments": act.arguments}
        asked = wire.ask("tools/call", CAN_ASK, **call)["result"]
        assert asked["resultType"] == "input_required"
        state = {"inputResponses": YES, "requestState": asked["requestState"]}
        # For other arguments.
        wire.ask("tools/call", CAN_ASK, name="shell_exec", arguments=other.arguments, **state)
        assert other.times == 0
        # From another client.
        with asking.wire("system") as stranger:
            info = {"io.modelcontextprotocol/clientInfo": {"name": "stranger", "version": "1"}}
            stranger.ask("tools/call", {**CAN_ASK, **info}, **call, **state)
        assert act.times == 0
        # For this one, once.
        wire.ask("tools/call", CAN_ASK, **call, **state)
        assert act.times == 1
        wire.ask("tools/call", CAN_ASK, **call, **state)
        assert act.times == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_yes_to_a_server_that_was_restarted_meanwhile_runs_it_at_most_once(
    asking: Daemon, asking_home: Installation, era: Era
) -> None:
    act = Act(asking_home)

    class Slow(Owner):
        async def __call__(self, message: str, *_: Any) -> ElicitResult[Any]:
            if not self.asked:
                assert asking.act("system", "restart").status_code == 200
            return await super().__call__(message)

    owner = Slow("accept", {"approve": True})
    async with asking.client("stdio", era, elicit=owner) as client:
        with contextlib.suppress(MCPError):
            await client.call_tool("shell_exec", act.arguments, raise_on_error=False)
        assert act.times <= 1
        # Whatever became of that answer, the next one counts.
        before = act.times
        await client.call_tool("shell_exec", act.arguments)
        assert act.times == before + 1
