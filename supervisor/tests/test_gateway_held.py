"""Calls that are held for a client that was asked something: for how long, and how many."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from msgspec import Raw

from hostwright.gateway import held as module
from hostwright.gateway.asker import Origin
from hostwright.gateway.codec import Fields, RpcError
from hostwright.gateway.held import Held, HeldCalls
from hostwright.gateway.peer import Peer
from hostwright.gateway.questions import Question
from hostwright_kit.errors import HostError

ASKER = Peer(None, Origin("http"), "tester", "1", b'{"elicitation":{}}')


class Line:
    """The link that the call is on."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    def hand_over(self, *_: object) -> None:
        """Nobody answers here."""

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)


class Caller:
    """A call."""

    peer = ASKER

    def what(self) -> tuple[object, ...]:
        return ("demo", "tools/call", "x")


def question() -> tuple[Question, list[Raw | RpcError]]:
    said: list[Raw | RpcError] = []
    asked = b'{"message":"?","_meta":{"progressToken":1}}'
    return Question("elicitation/create", Raw(asked), said.append), said


def keep(calls: HeldCalls) -> tuple[Held, dict[str, Any] | None, list[Raw | RpcError]]:
    asking, said = question()
    held = Held(Caller(), cast("Any", Line()), 1, asking)
    result = calls.keep(held)
    return held, None if result is None else json.loads(result), said


def retry(state: str) -> Fields:
    answers = b'{"question":{"action":"decline"}}'
    return {"requestState": Raw(json.dumps(state).encode()), "inputResponses": Raw(answers)}


async def test_a_call_is_found_again_by_its_name_once() -> None:
    calls = HeldCalls()
    held, result, _ = keep(calls)
    assert result
    asked = result["inputRequests"]["question"]
    assert asked == {"method": "elicitation/create", "params": {"message": "?"}}
    found = calls.take(Caller(), retry(result["requestState"]))
    assert found is not None
    assert found[0] is held
    with pytest.raises(HostError, match="is not open"):
        calls.take(Caller(), retry(result["requestState"]))


async def test_a_state_of_a_server_is_not_ours() -> None:
    assert HeldCalls().take(Caller(), retry("something else")) is None


async def test_a_client_that_does_not_come_back_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HELD_SECONDS", 0.01)
    calls = HeldCalls()
    held, result, said = keep(calls)
    assert result
    while not said:  # noqa: ASYNC110 - nothing would set an event here
        await asyncio.sleep(0.01)
    assert isinstance(said[0], RpcError)
    with pytest.raises(HostError, match="is not open"):
        calls.take(Caller(), retry(result["requestState"]))
    assert cast("Line", held.link).cancelled == [1], "the server need not go on"


async def test_a_client_that_is_gone_is_not_waited_for() -> None:
    calls = HeldCalls()
    held, _, said = keep(calls)
    connection = object()
    held.peer = ASKER._replace(connection=connection)
    calls.gone(object())
    assert not said
    calls.gone(connection)
    assert [str(one) for one in said] == ["The client is gone."]
    assert cast("Line", held.link).cancelled == [1]


async def test_no_more_calls_are_held_than_is_bearable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 1)
    calls = HeldCalls()
    assert keep(calls)[1]
    assert keep(calls)[1] is None


@pytest.mark.parametrize("answer", [b"7", b"{}", b'{"action":"perhaps"}'])
def test_what_is_no_answer_to_a_prompt_closes_it(answer: bytes) -> None:
    asking, said = question()
    asking.answer(Raw(answer))
    asking.answer(Raw(b'{"action":"accept"}'))
    assert [json.loads(bytes(cast("Raw", one))) for one in said] == [{"action": "cancel"}]


def test_a_question_that_was_withdrawn_is_not_answered() -> None:
    asking, said = question()
    asking.withdraw()
    asking.answer(Raw(b'{"action":"accept"}'))
    assert not said
