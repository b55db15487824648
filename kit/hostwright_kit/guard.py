"""The one way of every call: identify → validate → policy → approval → intent → act → outcome.

`Guard.run` is that way, written once, without MCP. The caller has been identified and the
arguments validated before it is entered; `act` does the work and `ask` puts a question to the
owner over the client, where the client can. An act begins only when its intent is on disk, and
success is reported only when its outcome is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from enum import Enum, auto
from typing import Any, TypeVar

from hostwright_kit.access_log import AccessLog
from hostwright_kit.approvals import Approval, Approvals
from hostwright_kit.call import Call
from hostwright_kit.config import KitConfig
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger, Receipt
from hostwright_kit.panic import PanicError, panicking, read_panic
from hostwright_kit.policy import Effect, Judgement, judge
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates
from hostwright_kit.redact import redact, without

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Answer(Enum):
    """What came of putting the question to the client."""

    GRANTED = auto()
    DENIED = auto()
    UNASKED = auto()
    """The client cannot ask its user, or the owner does not allow this channel."""
    LATER = auto()
    """The question is on its way; the client repeats the call with the answer."""


class ApprovalNeededError(HostError):
    """The call waits for the owner."""

    def __init__(self, approval: Approval) -> None:
        super().__init__(
            f"{approval.server}.{approval.tool} needs the owner's approval ({approval.reason}). "
            f"Request {approval.id} waits until {approval.expires}.",
            fix=f"Ask the owner to run `hostwright approve {approval.id}`, then repeat exactly "
            "the same call: it will run once.",
            code="approval_needed",
        )
        self.approval = approval


class OutcomeUnknownError(HostError):
    """The act was begun, and nobody is left to tell what came of it (its server ended)."""


def error_detail(error: HostError, secrets: frozenset[str] = frozenset()) -> dict[str, str]:
    """A failure as clients may branch on it: what MCP errors carry in `_meta`."""
    detail = {
        "code": error.code,
        "message": without(error.message, secrets),
        "fix": without(error.fix, secrets),
    }
    if isinstance(error, ApprovalNeededError):
        detail["approval_id"] = error.approval.id
    return detail


class Asked(Exception):  # noqa: N818 - not an error: the client is asked and calls again
    """The question was put to the client; this leg of the call ends here."""

    def __init__(self, approval: Approval) -> None:
        super().__init__(approval.id)
        self.approval = approval


class CallScope:
    """What an act tells the ledger about itself while it runs."""

    def __init__(self) -> None:
        self.undo: dict[str, Any] | None = None

    def undone_by(self, tool: str, **arguments: Any) -> None:
        """Name the call that undoes this one; it is kept in the receipt."""
        self.undo = {"tool": tool, "arguments": arguments}


_current: ContextVar[Call | None] = ContextVar("hostwright_call", default=None)


def current_call() -> Call:
    """The call that is being carried out."""
    if (call := _current.get()) is None:
        raise RuntimeError("no call is being carried out")
    return call


_scope: ContextVar[CallScope | None] = ContextVar("hostwright_call_scope", default=None)


def call_scope() -> CallScope:
    """The scope of the call that is running; a scope that leads nowhere outside of one."""
    return _scope.get() or CallScope()


class Guard:
    """The pipeline over one policy, one ledger with its access log, one set of approvals."""

    def __init__(
        self,
        config: KitConfig,
        ledger: Ledger,
        approvals: Approvals,
        policy: PolicySource,
        rates: Rates,
        access: AccessLog,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.approvals = approvals
        self.policy = policy
        self.rates = rates
        self.access = access
        self._state_dir = ledger.path.parent

    async def run(
        self,
        call: Call,
        act: Callable[[], Awaitable[Result]],
        ask: Callable[[Approval], Awaitable[Answer]],
        failed: Callable[[Result], str | None] = lambda _: None,
        *,
        granted: Approval | None = None,
        took: Callable[[Approval], None] = lambda _: None,
    ) -> Result:
        """Take one call the whole way and return what `act` returned.

        `failed` says whether a returned result is a failure, and which. `granted` is the grant that
        an earlier leg of this very call has used up; `took` is told of the one that counts for
        this leg, before `act` begins. Raises `HostError` when the call is denied or waits, `Asked`
        when the client has to put the question.
        """
        if not call.in_panic and panicking(self._state_dir):
            self._refuse_in_panic(call)
        judgement = await self._judged(call)
        approval: Approval | None = None
        if judgement.verdict == "deny":
            await self._denied(call, judgement.reason)
            raise HostError(
                f"{call.server}.{call.tool} is denied by {judgement.reason}.",
                fix="Do without it, or let the owner change the policy.",
                code="denied",
            )
        if judgement.verdict == "ask":
            approval = granted or await self._approval(call, judgement, ask)
            took(approval)
        if judgement.uses and not await asyncio.to_thread(self.rates.take, judgement.uses):
            raise _crowded(call)
        current = _current.set(call)
        try:
            if call.effect is Effect.READ:
                return await self._read(call, approval, act, failed)
            return await self._act(call, judgement, approval, act, failed)
        finally:
            _current.reset(current)

    def _refuse_in_panic(self, call: Call) -> None:
        if (panic := read_panic(self._state_dir)) is None:
            return  # it was lifted this moment
        reason, arguments = f"the panic of {panic.by}", call.shown_arguments
        # Not waited for: that it is stopped is told also where nothing can be recorded.
        self.ledger.note(
            _entry(call, "call.denied", "denied", arguments=arguments, denied_by=reason)
        )
        raise PanicError(panic)

    def judge(self, call: Call) -> Judgement:
        """What the policy says about this call. Blocking where rules ask the disk."""
        return judge(self.policy.current(), call.subject, spent=self.rates.spent)

    async def _judged(self, call: Call) -> Judgement:
        policy, subject = self.policy.current(), call.subject
        if any(rule.asks_the_disk for rule in policy.of(subject)):
            return await asyncio.to_thread(judge, policy, subject, spent=self.rates.spent)
        return judge(policy, subject)

    async def _approval(
        self, call: Call, judgement: Judgement, ask: Callable[[Approval], Awaitable[Answer]]
    ) -> Approval:
        """A grant for exactly this call, used up by taking it."""
        wanted = await asyncio.to_thread(call.request, judgement.reason)
        bound = wanted.digest
        if taken := await asyncio.to_thread(self.approvals.consume, bound):
            return taken
        approval = await asyncio.to_thread(self.approvals.request, wanted)
        via_client = self.config.approval.via_client
        if judgement.via is not None:
            via_client = judgement.via == "client"
        answer = await ask(approval) if via_client else Answer.UNASKED
        if answer is Answer.LATER:
            raise Asked(approval)
        if answer is Answer.UNASKED:
            raise ApprovalNeededError(approval)
        decide = self.approvals.grant if answer is Answer.GRANTED else self.approvals.deny
        await asyncio.to_thread(decide, approval.id, via="client", by=call.caller.client)
        if answer is Answer.DENIED:
            await self._denied(call, f"the owner, over the client (request {approval.id})")
            raise HostError(
                f"The owner denied {call.server}.{call.tool} (request {approval.id}).",
                fix="Do not repeat it; ask the owner what to do instead.",
                code="approval_denied",
            )
        taken = await asyncio.to_thread(self.approvals.consume, bound)
        if taken is None:
            raise HostError(
                f"The grant {approval.id} was used by another call at the same moment.",
                fix="Make the call again; the owner is asked again.",
                code="approval_raced",
            )
        return taken

    async def _read(
        self,
        call: Call,
        approval: Approval | None,
        act: Callable[[], Awaitable[Result]],
        failed: Callable[[Result], str | None],
    ) -> Result:
        started = time.perf_counter()
        outcome, error = "cancelled", None
        try:
            result = await act()
            error = failed(result)
            outcome = "error" if error else "ok"
        except Exception as failure:
            outcome, error = "error", str(failure)
            raise
        finally:
            if approval is not None or self.config.ledger.reads != "none":
                elapsed = _elapsed(started)
                # Once this call has been answered: nobody waits for it, and a slow record of the
                # read would be felt with each.
                asyncio.get_running_loop().call_soon(
                    self._note, call, approval, outcome, error, elapsed
                )
        return result

    def _note(
        self, call: Call, approval: Approval | None, outcome: str, error: str | None, elapsed: float
    ) -> None:
        """Record a read where the owner wants reads, and the use of a grant as evidence."""
        read = _entry(
            call,
            "call.read",
            outcome,
            error=error,
            arguments=call.shown_arguments,
            digest=call.digest,
            approval=approval.id if approval else None,
            approved_via=approval.via if approval else None,
            duration_ms=elapsed,
        )
        where = self.config.ledger.reads
        in_ledger = approval is not None or where in ("ledger", "both")
        if in_ledger:
            self.ledger.note(read)
        if where in ("log", "both"):
            self.access.note(read, in_ledger=in_ledger)

    async def _act(
        self,
        call: Call,
        judgement: Judgement,
        approval: Approval | None,
        act: Callable[[], Awaitable[Result]],
        failed: Callable[[Result], str | None],
    ) -> Result:
        intent = await self._intent(call, judgement, approval)
        scope = CallScope()
        token = _scope.set(scope)
        started = time.perf_counter()

        def outcome(kind: str, error: str | None = None) -> Entry:
            undo = redact(scope.undo) if kind == "ok" else None
            elapsed = _elapsed(started)
            return _outcome(call, intent, kind, error=error, undo=undo, duration_ms=elapsed)

        try:
            result = await act()
        except asyncio.CancelledError:
            try:
                # Queued before it is waited for, so that a second cancellation cannot lose it.
                await self.ledger.append_async(outcome("cancelled"))
            except HostError:
                logger.exception("the cancellation of %s was not recorded", call.tool)
            raise
        except Exception as failure:
            kind = "unknown" if isinstance(failure, OutcomeUnknownError) else "error"
            await self._settle(call, outcome(kind, str(failure)), "was begun and failed")
            raise
        finally:
            _scope.reset(token)
        error = failed(result)
        await self._settle(call, outcome("error" if error else "ok", error), "was carried out")
        return result

    async def _intent(self, call: Call, judgement: Judgement, approval: Approval | None) -> Receipt:
        """Put on disk what is about to be done."""
        submitted = self.ledger.submit(
            _entry(
                call,
                "call.intent",
                None,
                arguments=call.shown_arguments,
                digest=call.digest,
                effect=call.effect.value,
                allowed_by=judgement.reason,
                approval=approval.id if approval else None,
                approved_via=approval.via if approval else None,
            )
        )

        def never_begun(done: Future[Receipt]) -> None:
            if done.exception() is None:
                self.ledger.note(_outcome(call, done.result(), "cancelled", begun=False))

        try:
            return await asyncio.wrap_future(submitted)
        except asyncio.CancelledError:
            # The intent will be on disk all the same; without this it would look cut off.
            submitted.add_done_callback(never_begun)
            raise

    async def _settle(self, call: Call, entry: Entry, what: str) -> None:
        """Put the outcome on disk; the caller must know when that was not possible."""
        try:
            await self.ledger.append_async(entry)
        except HostError as unrecorded:
            raise HostError(
                f"{call.server}.{call.tool} {what}, but its outcome could not be recorded: "
                f"{unrecorded.message}",
                fix=f"Do not repeat the call before checking what it did. {unrecorded.fix}",
                code="outcome_unrecorded",
            ) from unrecorded

    async def _denied(self, call: Call, reason: str) -> None:
        await self.ledger.append_async(
            _entry(
                call,
                "call.denied",
                "denied",
                arguments=call.shown_arguments,
                digest=call.digest,
                denied_by=reason,
            )
        )


def _crowded(call: Call) -> HostError:
    return HostError(
        f"{call.server}.{call.tool} was made as often already as a rule of the policy allows.",
        fix="Wait and make the call again, or let the owner change the rule's rate.",
        code="rate_exceeded",
    )


def _outcome(
    call: Call, intent: Receipt, outcome: str, *, error: str | None = None, **detail: Any
) -> Entry:
    return _entry(call, "call.outcome", outcome, intent_id=intent.id, error=error, **detail)


def _entry(
    call: Call,
    kind: str,
    outcome: str | None,
    *,
    intent_id: str | None = None,
    error: str | None = None,
    **detail: Any,
) -> Entry:
    kept = {key: value for key, value in detail.items() if value is not None}
    if error is not None:
        kept["error"] = redact(without(error, call.secret_values))
    return Entry(
        type=kind,
        caller=call.caller.name,
        server=call.server,
        tool=call.tool,
        outcome=outcome,
        intent_id=intent_id,
        detail={"by": call.caller.model_dump(exclude_none=True), **kept},
    )


def _elapsed(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
