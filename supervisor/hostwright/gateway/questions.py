"""What a server of the handshake era asks its client, and whom it is put to.

Such a server asks over its session (`elicitation/create`, `sampling/createMessage`, `roots/list`)
and does not say which call it asks for. In a session of one client that makes no difference. Where
many share a server, the question goes to the client whose calls are running if that is one client
alone; else the server gets an error that says so. Nobody's question may reach somebody else.

A client of the handshake era is asked over its session. One of the new era gets the question as the
answer to a call that runs, and comes back with its own (`held.py`); what is asked while none runs
waits for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.bridge import ACTIONS, ANSWER_SECONDS, CANNOT_ASK, CLOSED, ELICIT
from hostwright.gateway.codec import RpcError
from hostwright.gateway.peer import Peer
from hostwright.gateway.session import Session
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.gateway.request import Request

MAX_WAITING = 20
ROOTS = "roots/list"
Whom = Peer | Literal["whoever calls", "nobody"]
Reply = Callable[[Raw | RpcError], None]
_asking: set[asyncio.Task[None]] = set()


class Question:
    """One question of a server's; it gets one answer, or none when it is withdrawn."""

    __slots__ = ("_reply", "method", "params")

    def __init__(self, method: str, params: Raw, reply: Reply) -> None:
        self.method = method
        self.params = bytes(params) if codec.first(params) == b"{" else b"{}"
        self._reply: Reply | None = reply

    @property
    def open(self) -> bool:
        """Whether somebody waits for the answer."""
        return self._reply is not None

    def answer(self, result: Raw) -> None:
        """What the client says; of a prompt, what is no answer counts as closing it."""
        found = codec.fields(result) if codec.first(result) == b"{" else None
        if self.method == ELICIT and (
            found is None or codec.text(found.get("action")) not in ACTIONS
        ):
            result = CLOSED
        elif found is None:
            self.refuse("The client answered with what is no result.")
            return
        self._end(result)

    def refuse(self, why: str, code: int = CANNOT_ASK) -> None:
        """There will be no answer."""
        self._end(RpcError(code, why))

    def withdraw(self) -> None:
        """Nobody wants to know any longer."""
        self._reply = None

    def _end(self, what: Raw | RpcError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply(what)


class Asked(Protocol):
    """Somebody who waits for an answer of a server, and can be asked something meanwhile."""

    @property
    def peer(self) -> Peer:
        """Which client it is."""
        ...

    @property
    def attentive(self) -> bool:
        """Whether it is there now; else it has been asked something and is to come back."""
        ...

    def asked(self, question: Question) -> None:
        """Answer this, now or later."""
        ...


class Desk:
    """Where the questions of one server come in."""

    def __init__(self, server: str, whom: Whom, calls: Callable[[], Sequence[Asked]]) -> None:
        self._server = server
        self._whom = whom
        self._calls = calls
        self._waiting: list[Question] = []

    @property
    def declared(self) -> dict[str, object]:
        """The capabilities that a server is told of in its handshake."""
        if isinstance(self._whom, Peer):
            return dict(self._whom.declared)
        # Of nobody in particular; but folders are always somebody's, and a server that many share
        # would open one client's to all.
        found: dict[str, object] = {"elicitation": {}, "sampling": {}}
        if self._whom == "nobody":
            found["roots"] = {}
        return found

    @property
    def waits(self) -> bool:
        """Whether something waits for a call."""
        return bool(self._waiting)

    def take(self, question: Question) -> None:
        """Put it to the right client, or say why that cannot be."""
        calls = self._calls()
        peer = self._peer(question, calls)
        if peer is None:
            return
        if not peer.can(question.method):
            why = f"This client did not declare {question.method}."
            question.refuse(why, codec.METHOD_NOT_FOUND)
        elif calls:
            found = next((one for one in reversed(calls) if one.attentive), calls[-1])
            found.asked(question)
        elif isinstance(peer.connection, Session):
            put_to_session(question, peer.connection, None)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(question)
            loop = asyncio.get_running_loop()
            loop.call_later(ANSWER_SECONDS, self._give_up, question)
        else:
            question.refuse(f"{MAX_WAITING} questions wait for a call of this client already.")

    def again(self) -> None:
        """A call has begun: what waited for one goes to it."""
        waiting, self._waiting = self._waiting, []
        for question in waiting:
            if question.open:
                self.take(question)

    def close(self) -> None:
        """The server is gone."""
        for question in self._waiting:
            question.withdraw()
        self._waiting.clear()

    def _peer(self, question: Question, calls: Sequence[Asked]) -> Peer | None:
        if isinstance(self._whom, Peer):
            return self._whom
        peers = {one.peer for one in calls}
        if self._whom == "nobody":
            if question.method == ROOTS:
                question.answer(Raw(b'{"roots":[]}'))
            else:
                question.refuse("No client is here; only the supervisor asks what is offered.")
        elif question.method == ROOTS:
            question.refuse(
                f'{self._server} is shared. Fix: session = "per-client" in its manifest.'
            )
        elif not peers:
            question.refuse("No client's call is running, so nobody can be asked.")
        elif len(peers) > 1:
            question.refuse(
                f"Calls of {len(peers)} clients are running, and the question does not say whose "
                f'it is. Fix: session = "per-client" in the manifest of {self._server}.'
            )
        else:
            return peers.pop()
        return None

    def _give_up(self, question: Question) -> None:
        if question in self._waiting:
            self._waiting.remove(question)
            question.refuse(f"No call came within {ANSWER_SECONDS:g} s that could carry it.")


def put_to_session(question: Question, session: Session, request: Request | None) -> None:
    """Ask a client of the handshake era, as part of a request where there is one."""

    async def ask() -> None:
        try:
            answer = await session.ask(request, question.method, question.params, ANSWER_SECONDS)
        except TimeoutError:
            question.refuse(f"The client did not answer within {ANSWER_SECONDS:g} s.")
        except HostError as error:
            question.refuse(error.message)
        except asyncio.CancelledError:
            question.refuse("The client is gone.")
            raise
        else:
            question.answer(answer)

    task = asyncio.ensure_future(ask())
    _asking.add(task)
    task.add_done_callback(_asking.discard)
