"""Calls in which a server has asked something, held until their client of the new era comes back.

The client was answered with the question (`InputRequiredResult`) and a name, and comes back with
the same request, that name and its answer; the server then goes on with the call that it has. The
name is random, works once, and only for the same client with the same request. Who does not come
back in time is told so, and the server too.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.codec import ABSENT, INVALID_PARAMS, Fields, RpcError
from hostwright.gateway.peer import Peer
from hostwright.gateway.questions import Question
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.gateway.base_link import BaseLink

PREFIX = "gateway-call:"
KEY = "question"
HELD_SECONDS = 300.0
MAX_HELD = 1_000
_OF_THE_ROUND = frozenset({"_meta", "inputResponses", "requestState"})


class Bound(Protocol):
    """What a call is, beside the round that it is in."""

    @property
    def peer(self) -> Peer:
        """Whose it is."""
        ...

    def what(self) -> tuple[object, ...]:
        """What it asks of whom."""
        ...


def same(params: Fields) -> dict[str, Any]:
    """What of a request's params is the same in every round."""
    return {key: codec.value(one) for key, one in params.items() if key not in _OF_THE_ROUND}


class Held:
    """One call without a client that waits for it."""

    def __init__(self, call: Bound, link: BaseLink, number: int, question: Question) -> None:
        self.peer = call.peer
        self.what = call.what()
        self.link = link
        self.number = number
        self.question = question
        self.further: list[Question] = []
        self.outcome: tuple[Raw | None, Exception | None] | None = None

    attentive = False
    log_level = None

    @property
    def hearer(self) -> object:
        """Nobody else hears what it logs."""
        return self

    def logged(self, params: Raw) -> None:
        """Nobody is there to hear it."""

    def asked(self, question: Question) -> None:
        """One more question, for when the client comes back."""
        self.further.append(question)

    def done(self, result: Raw | None, error: Exception | None) -> None:
        """The server did not wait for the answer."""
        self.outcome = (result, error)

    def give_up(self, why: str) -> None:
        """The client did not come back: the server is told, and need not go on."""
        for question in (self.question, *self.further):
            question.refuse(why)
        self.link.cancel(self.number)


_EXPIRED = f"The client did not answer within {HELD_SECONDS:g} s."


class HeldCalls:
    """All of them."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Held, asyncio.TimerHandle]] = {}

    def keep(self, held: Held) -> bytes | None:
        """Hold this call; the result that asks for its client's answer, None when there is no room.

        From here on the server's answer is held too.
        """
        if len(self._held) >= MAX_HELD:
            return None
        name = PREFIX + secrets.token_urlsafe(24)
        timer = asyncio.get_running_loop().call_later(HELD_SECONDS, self._expire, name)
        self._held[name] = (held, timer)
        held.link.hand_over(held.number, held.done, None, held)
        asked: dict[str, Any] = {"method": held.question.method}
        params = codec.fields(held.question.params)
        params.pop("_meta", None)
        if params:
            asked["params"] = params
        return codec.encode(
            {
                "resultType": "input_required",
                "inputRequests": {KEY: asked},
                "requestState": name,
            }
        )

    def take(self, call: Bound, params: Fields) -> tuple[Held, Raw] | None:
        """The call that is gone on with, and its client's answer; None: it is a new call."""
        name = codec.text(params.get("requestState", ABSENT))
        if name is None or not name.startswith(PREFIX):
            return None
        held, timer = self._held.get(name, (None, None))
        if held is None or timer is None or held.peer != call.peer or held.what != call.what():
            raise HostError(
                "This question is not open, or it was asked of another call.",
                fix="Make the call anew, without requestState and inputResponses.",
                code="question_expired",
            )
        answers = params.get("inputResponses", ABSENT)
        found = codec.fields(answers).get(KEY) if codec.first(answers) == b"{" else None
        if found is None:
            raise RpcError(INVALID_PARAMS, f"inputResponses is without an answer to {KEY!r}.")
        timer.cancel()
        del self._held[name]
        return held, found

    def gone(self, connection: object) -> None:
        """A client ended. What it was asked must not keep others from being asked."""
        for name, (held, timer) in list(self._held.items()):
            if held.peer.connection is connection:
                timer.cancel()
                del self._held[name]
                held.give_up("The client is gone.")

    def _expire(self, name: str) -> None:
        held, _ = self._held.pop(name)
        held.give_up(_EXPIRED)
