"""`ThirdPartyGuard`: one call of a third-party tool the whole way, on raw parts.

    arguments valid → policy → approval → intent on disk → send → outcome on disk → answer

The gateway hands over what it knows (`ThirdPartyCall`), how to send (`send`) and how its client
can be asked (`Client`). A call that only reads is sent at once; its arguments are not even decoded
unless reads are recorded.

In 2026-07-28 a question ends the call, and the client repeats it with the answer and a state. The
states made here are random names for what is kept in memory: which request was asked about, or,
when an approved call made the *server* ask its user something, that this very call was approved
and with which state the server wants it continued. Each works once, for the same call. After a
restart of the daemon they are unknown, and the owner is asked again.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hostwright.gateway.turn import once_per_turn
from hostwright.guarded.effects import Traits, traits_of
from hostwright.manifest_rules import GuardRules
from hostwright_kit.approvals import Approval
from hostwright_kit.asking import (
    ANSWER_TIMEOUT_SECONDS,
    QUESTION,
    elicitation,
    input_required,
    read_answer,
)
from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.guard import Answer, ApprovalNeededError, Asked, Guard
from hostwright_kit.policy import Effect, PolicyConfig, Subject, judge
from hostwright_kit.redact import hiding

if TYPE_CHECKING:
    from hostwright.guarded.arguments import Arguments

STATE_PREFIX = "hostwright:"
STATE_SECONDS = 15 * 60.0
MAX_STATES = 1_000
MAX_VERDICTS = 4_000
MAX_FAILURE_CHARS = 2_000

Reply = bytes | dict[str, Any]
"""The `result` of a response: as the server wrote it, or decoded."""
Elicit = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Puts `elicitation/create` params over a session; the `ElicitResult`, or None without answer."""


@dataclass(frozen=True, slots=True)
class ThirdPartyCall:
    """One `tools/call` to a server that is not ours."""

    caller: Caller
    server: str
    tool: str
    """The server's own name for it, not the one that the client used."""
    entry: Mapping[str, Any]
    """The tool as the server lists it. The same object for as long as the listing is the same."""
    rules: GuardRules
    """`[guard]` of the server's manifest."""
    arguments: bytes | Mapping[str, Any] | None
    """Raw JSON, or decoded."""
    input_responses: Mapping[str, Any] | None = None
    request_state: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """How whoever called can be asked."""

    modern: bool = False
    """Speaks 2026-07-28: a question ends the leg."""
    can_elicit: bool = False
    """Declared `elicitation` (form)."""
    elicit: Elicit | None = None
    """Only for a session of the handshake era."""


@dataclass(frozen=True, slots=True)
class Forward:
    """What goes to the server in place of what the client sent."""

    input_responses: Mapping[str, Any] | None = None
    request_state: str | None = None
    arguments: Mapping[str, Any] | None = None
    """None: as they came. Else these: what was judged and what is sent must be read alike, also
    where a client writes a key twice."""
    approved: bool = False
    """The owner was asked and said yes, to one run: it must not be sent a second time."""


Send = Callable[[Forward], Awaitable[Reply]]


@dataclass(slots=True)
class _State:
    """What a state that we gave to a client stands for."""

    digest: str
    approval: Approval
    ends: float
    approved: bool
    inner: str | None = None


class _Facts(msgspec.Struct):
    """What must be known of a result."""

    is_error: bool = msgspec.field(name="isError", default=False)
    result_type: str = msgspec.field(name="resultType", default="complete")


class ThirdPartyGuard:
    """Takes calls through the daemon's policy, approvals and ledger. One event loop."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._arguments: Arguments | None = None
        self._states: dict[str, _State] = {}
        self._let: dict[tuple[object, ...], bool] = {}
        self._let_by: PolicyConfig | None = None

    @property
    def policy(self) -> PolicyConfig:
        """The rules that hold; the same object for as long as they are the same."""
        return once_per_turn(self._guard.policy.current)

    def is_free(self, call: ThirdPartyCall) -> bool:
        """Whether the call only reads, is allowed and leaves no trace: it may be sent as it is."""
        if self._guard.config.ledger.reads != "none" or _is_ours(call.request_state):
            return False
        traits = traits_of(call.rules, call.tool, call.entry)
        return traits.effect is Effect.READ and self._is_let(call, traits)

    async def around(self, call: ThirdPartyCall, client: Client, send: Send) -> Reply:
        """The result to give to the client.

        Raises `HostError` when the call is invalid, denied or waits for the owner. `send` raises
        `OutcomeUnknownError` when the server ended after the call was sent.
        """
        if self.is_free(call):
            return await send(Forward(call.input_responses, call.request_state))
        traits = traits_of(call.rules, call.tool, call.entry)
        judged = Call(
            caller=call.caller,
            server=call.server,
            tool=call.tool,
            arguments=_decoded(call.arguments),
            effect=traits.effect,
            open_world=traits.open_world,
        )
        checked = self._arguments or await self._open_arguments()
        with hiding(judged.secret_values):
            schema = call.entry.get("inputSchema")
            checked.check(call.server, call.tool, schema, judged.arguments)
            return await self._judged(call, judged, traits, client, send)

    async def _open_arguments(self) -> Arguments:
        # Importing it takes a tenth of a second, and reads never need it.
        await asyncio.to_thread(importlib.import_module, "hostwright.guarded.arguments")
        from hostwright.guarded.arguments import Arguments  # noqa: PLC0415 - it is loaded

        self._arguments = self._arguments or Arguments()
        return self._arguments

    async def _judged(
        self, call: ThirdPartyCall, judged: Call, traits: Traits, client: Client, send: Send
    ) -> Reply:
        held = self._take(call.request_state, judged)
        asked_by_us = _is_ours(call.request_state) and not (held and held.approved)
        forward = Forward(
            None if asked_by_us else call.input_responses,
            held.inner if held else None if asked_by_us else call.request_state,
            judged.arguments,
        )
        used: list[Approval] = []
        state = ""

        async def act() -> Reply:
            reply = await send(replace(forward, approved=bool(used)))
            return self._continued(reply, judged, used[0]) if used and client.modern else reply

        async def ask(approval: Approval) -> Answer:
            nonlocal state
            if not client.modern:
                return await _ask_session(client, approval)
            answer = (call.input_responses or {}).get(QUESTION)
            # Only who was given the state of this question can answer it.
            if held is not None and held.approval.id == approval.id and answer is not None:
                return read_answer(answer)
            if not client.can_elicit:
                return Answer.UNASKED
            state = self._keep(judged, approval, approved=False)
            return Answer.LATER

        granted = held.approval if held is not None and held.approved else None
        try:
            return await self._guard.run(
                judged, act, ask, _failure, granted=granted, took=used.append
            )
        except Asked as asked:
            return input_required(asked.approval, state)
        except ApprovalNeededError as error:
            if not traits.known:
                error.fix += (
                    f" What this tool does is not known here; if it only reads, the owner can say "
                    f'so in the manifest of {call.server}: [guard.tools] "{call.tool}" = "read".'
                )
            raise

    def _is_let(self, call: ThirdPartyCall, traits: Traits) -> bool:
        """Whether the policy allows it by its names alone; remembered while the policy holds."""
        policy = self.policy
        if policy is not self._let_by or len(self._let) >= MAX_VERDICTS:
            self._let, self._let_by = {}, policy
        names = call.caller.names
        key = (names, call.server, call.tool, traits.effect, traits.open_world)
        if (found := self._let.get(key)) is None:
            subject = Subject(
                caller_names=names,
                server=call.server,
                tool=call.tool,
                effect=traits.effect,
                open_world=traits.open_world,
            )
            found = self._let[key] = (
                all(rule.is_plain for rule in policy.of(subject))
                and judge(policy, subject).verdict == "allow"
            )
        return found

    # -- states ----------------------------------------------------------------------------------

    def _keep(
        self, judged: Call, approval: Approval, *, approved: bool, inner: str | None = None
    ) -> str:
        now = time.monotonic()
        if len(self._states) >= MAX_STATES:
            over = [name for name, one in self._states.items() if one.ends < now]
            # The oldest, when all of them are in time: whoever holds it is asked again.
            for name in over or [next(iter(self._states))]:
                del self._states[name]
        name = STATE_PREFIX + secrets.token_urlsafe(24)
        self._states[name] = _State(judged.digest, approval, now + STATE_SECONDS, approved, inner)
        return name

    def _take(self, name: str | None, judged: Call) -> _State | None:
        """What a state stands for, once, and only for the call that it was made for."""
        held = self._states.pop(name, None) if name is not None else None
        if held is None or held.ends < time.monotonic() or held.digest != judged.digest:
            return None
        return held

    def _continued(self, reply: Reply, judged: Call, approval: Approval) -> Reply:
        """A question of the server's in an approved call: going on is no second call to approve."""
        if _facts(reply).result_type != "input_required":
            return reply
        result = _whole(reply)
        inner = result.get("requestState")
        state = self._keep(
            judged, approval, approved=True, inner=inner if isinstance(inner, str) else None
        )
        return {**result, "requestState": state}


def _is_ours(state: str | None) -> bool:
    return state is not None and state.startswith(STATE_PREFIX)


async def _ask_session(client: Client, approval: Approval) -> Answer:
    if client.elicit is None or not client.can_elicit:
        return Answer.UNASKED
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            answer = await client.elicit(elicitation(approval))
    except TimeoutError:
        return Answer.UNASKED
    return read_answer(answer)


def _decoded(arguments: bytes | Mapping[str, Any] | None) -> Mapping[str, Any]:
    try:
        value = (
            json.loads(arguments, parse_float=_finite, parse_constant=_finite)
            if isinstance(arguments, bytes)
            else arguments or {}
        )
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise HostError(
            "The arguments are not a JSON object.",
            fix="Send an object as the tool's input schema says.",
            code="bad_arguments",
        )
    return cast("Mapping[str, Any]", value)


def _finite(number: str) -> float:
    """What JSON can say again: 1e999 is no number to Python, and NaN is none to JSON."""
    found = float(number)
    if not math.isfinite(found):
        raise ValueError(f"{number[:40]} cannot be passed on")
    return found


def _facts(reply: Reply) -> _Facts:
    try:
        if isinstance(reply, bytes):
            return msgspec.json.decode(reply, type=_Facts)
        return msgspec.convert(reply, type=_Facts, strict=False)
    except msgspec.DecodeError:
        # Of a wrong shape: for the gateway to refuse, and no success on the record.
        return _Facts(is_error=True)


def _whole(reply: Reply) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(reply)) if isinstance(reply, bytes) else reply


def _failure(reply: Reply) -> str | None:
    """Why a result is a failure, if it is one."""
    if not _facts(reply).is_error:
        return None
    try:
        content = _whole(reply).get("content")
    except (ValueError, AttributeError, RecursionError):
        return "an answer that cannot be read"
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    texts = [str(cast("Any", one).get("text", "")) for one in blocks if isinstance(one, Mapping)]
    return " ".join(texts)[:MAX_FAILURE_CHARS] or "failed"
