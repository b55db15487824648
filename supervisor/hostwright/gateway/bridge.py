"""A server's questions of the new era, put to a client of the handshake era.

In the new era a server answers with what it needs to know (`InputRequiredResult`) and gets the same
request again with the answers; in the handshake era it asks over the session. So each question
becomes a request of its own to the client.
"""

from __future__ import annotations

import secrets

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.codec import ABSENT, Fields, RpcError
from hostwright.gateway.request import Request
from hostwright_kit.errors import HostError

MAX_QUESTIONS = 5
ANSWER_SECONDS = 50.0
"""How long the client may take with a question; its own patience ends at 60 s."""
CANNOT_ASK = -32000
ELICIT = "elicitation/create"
QUESTIONS = frozenset({ELICIT, "sampling/createMessage", "roots/list"})
CLOSED = Raw(b'{"action":"cancel"}')
ACTIONS = frozenset({"accept", "decline", "cancel"})


async def put_questions(request: Request, result: Raw, server: str) -> Fields:
    """Ask everything that the result asks; the members that the repeated request is to have."""
    said = codec.fields(result)
    questions = said.get("inputRequests", ABSENT)
    answers: dict[str, Raw] = {}
    if codec.first(questions) == b"{":
        for key, question in codec.fields(questions).items():
            answers[key] = await _put(request, question, server)
    again: Fields = {"inputResponses": Raw(codec.encode(answers))}
    if "requestState" in said:
        again["requestState"] = said["requestState"]
    return again


async def _put(request: Request, question: Raw, server: str) -> Raw:
    asked = codec.fields(question) if codec.first(question) == b"{" else {}
    method, session = codec.text(asked.get("method")), request.session
    if method not in QUESTIONS or session is None:
        raise RpcError(CANNOT_ASK, f"The server {server} asks for {method!r}.")
    params = _params(asked.get("params", Raw(b"{}")))
    try:
        answer = await session.ask(request, method, params, ANSWER_SECONDS)
    except (TimeoutError, HostError):
        if method != ELICIT:
            text = f"The client did not answer {method} of {server}."
            raise RpcError(CANNOT_ASK, text) from None
        # No answer in time counts as a closed prompt.
        return CLOSED
    if method != ELICIT:
        return answer
    found = codec.fields(answer) if codec.first(answer) == b"{" else {}
    return answer if codec.text(found.get("action")) in ACTIONS else CLOSED


def _params(said: Raw) -> bytes:
    """As the handshake era has them: what opens an address has a name there."""
    found = codec.fields(said) if codec.first(said) == b"{" else {}
    if codec.text(found.get("mode")) != "url" or "elicitationId" in found:
        return bytes(said)
    return codec.encode({**found, "elicitationId": secrets.token_urlsafe(12)})
