"""The guard of third-party servers in the gateway's terms: bytes in, bytes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.bridge import ANSWER_SECONDS, ELICIT
from hostwright.gateway.codec import ABSENT, Fields
from hostwright.guarded.pipeline import Client, Forward, Reply, ThirdPartyCall
from hostwright.policing import Policing
from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.guard import OutcomeUnknownError

if TYPE_CHECKING:
    from hostwright.gateway.asker import Asker
    from hostwright.gateway.behind import Guarded
    from hostwright.gateway.catalog import Owned
    from hostwright.gateway.request import Request
    from hostwright.manifest_rules import GuardRules
    from hostwright_kit.policy import PolicyConfig


MAX_REMEMBERED = 4_000


class _Free(NamedTuple):
    """Whether calls of one tool by one client are free, and what that is true of."""

    asker: Asker
    owned: Owned
    rules: GuardRules | None
    free: bool


class GatewayGuard:
    """What the gateway asks before and around calls to servers that are not ours."""

    def __init__(self, policing: Policing) -> None:
        self._policing = policing
        self._free: dict[tuple[int, int], _Free] = {}
        self._free_by: PolicyConfig | None = None

    def is_free(self, call: Guarded) -> bool:
        """Whether a call may be sent at once: it only reads, and leaves no trace.

        Who calls which tool decides it, so it is remembered for as long as the listing, the
        manifest and the policy are the same objects.
        """
        request, owned = call.request, call.owned
        if "requestState" in request.params:
            return self._policing.guard.is_free(self._seen(call))
        policy, rules = self._policing.guard.policy, self._policing.guard_rules(owned.server)
        if policy is not self._free_by or len(self._free) >= MAX_REMEMBERED:
            self._free, self._free_by = {}, policy
        key = (id(request.asker), id(owned))
        found = self._free.get(key)
        # What is held cannot have left its id to another object.
        if found is None or found.rules is not rules:
            free = self._policing.guard.is_free(self._seen(call))
            found = self._free[key] = _Free(request.asker, owned, rules, free)
        return found.free

    async def __call__(self, call: Guarded) -> bytes:
        """The result for the client; `HostError` when the call is refused or waits."""

        async def send(forward: Forward) -> Reply:
            try:
                return await call.act(_changes(forward), again=not forward.approved)
            except LinkLostError:
                lost = await call.lost()
                raise OutcomeUnknownError(lost.message, fix=lost.fix, code=lost.code) from None

        client = _client(call.request)
        reply = await self._policing.guard.around(self._seen(call), client, send)
        return reply if isinstance(reply, bytes) else codec.encode(reply)

    def _seen(self, call: Guarded) -> ThirdPartyCall:
        owned, params = call.owned, call.request.params
        rules = self._policing.guard_rules(owned.server)
        if rules is None:
            raise RuntimeError(f"{owned.server} is ours and guards itself")
        arguments = params.get("arguments", ABSENT)
        return ThirdPartyCall(
            caller=_caller(call.request.asker),
            server=owned.server,
            tool=owned.name,
            entry=owned.entry,
            rules=rules,
            arguments=None if codec.first(arguments) in (b"", b"n") else bytes(arguments),
            input_responses=_object(params.get("inputResponses", ABSENT)),
            request_state=codec.text(params.get("requestState", ABSENT)),
        )


def _changes(forward: Forward) -> Fields:
    """What the server is sent instead of what the client sent; ABSENT: not at all."""
    given = {
        "arguments": forward.arguments,
        "inputResponses": forward.input_responses,
        "requestState": forward.request_state,
    }
    # Not by msgspec, which knows no whole numbers beyond 64 bits.
    changes = {key: Raw(json.dumps(one).encode()) for key, one in given.items() if one is not None}
    return {"inputResponses": ABSENT, "requestState": ABSENT, **changes}


def _caller(asker: Asker) -> Caller:
    origin = asker.origin
    return Caller(
        client=asker.client,
        version=asker.version,
        uid=origin.uid,
        transport=origin.transport,
        token=origin.token,
        via_gateway=True,
    )


def _client(request: Request) -> Client:
    """How whoever called can be asked."""
    said = codec.value(Raw(request.asker.capabilities)).get("elicitation")
    form = isinstance(said, dict) and (not said or "form" in said)
    session = request.session
    if session is None:
        return Client(modern=True, can_elicit=form)

    async def elicit(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
        try:
            answer = await session.ask(request, ELICIT, codec.encode(params), ANSWER_SECONDS)
        except (TimeoutError, HostError):
            return None
        return _object(answer)

    return Client(can_elicit=form, elicit=elicit)


def _object(raw: Raw) -> Mapping[str, Any] | None:
    if codec.first(raw) != b"{":
        return None
    return cast("Mapping[str, Any]", codec.value(raw))
