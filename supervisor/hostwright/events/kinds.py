"""The kinds of events and their fields: the schema of what `/events` sends.

The models are for documentation and tests; on its way an event is a plain dict with the fields
named here and no others. That is what keeps arguments, results and output out of the stream:
there is no field that could carry them.

Durable kinds are entries of the ledger and are read back from there, also after a restart. The
others (`request.*`) live in memory only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """What every event has. Fields that do not apply are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    at: str = Field(description="UTC, ISO 8601.")


class _OfServer(Event):
    server: str


class _Failed(_OfServer):
    reason: str = ""


class ServerStarted(_OfServer):
    """A process runs; it has not answered yet."""

    pid: int | None = Field(default=None, description="Left out for a remote server.")


class ServerReady(_OfServer):
    """It answered its first round trip."""

    pid: int | None = Field(default=None, description="Left out for a remote server.")
    start_seconds: float | None = Field(default=None, description="From start to answer.")
    tools: int | None = None


class ServerCrashed(_Failed):
    """It ended or stopped answering, against the owner's will."""

    retry_in_seconds: float | None = Field(
        default=None, description="Left out when it is not tried again."
    )


class ServerStopped(_Failed):
    """It was ended, or ended in a way that its restart policy accepts."""


class ServerBroken(_Failed):
    """It failed too often; only the owner starts it again."""

    failures: int | None = None


class ServerEscalated(_Failed):
    """Nothing more is tried; the owner has to look."""

    what_to_do: str | None = None


class ServerWaiting(_Failed):
    """It does not run, because a server that it needs does not."""


class ServerSilent(_Failed):
    """It answers its checks, but a call of it has shown no progress for long."""

    silent_seconds: float | None = None


class ServerHibernated(_Failed):
    """It was idle and its process has ended; the next call wakes it."""


class ServerWoken(_OfServer):
    """A call wanted it, and it is ready again."""

    milliseconds: float | None = Field(
        default=None, description="From the wish to the first answer."
    )


class _OfRequest(Event):
    id: str = Field(description="The same in all events of one request.")
    method: str | None = Field(default=None, description="Left out: tools/call.")
    server: str | None = None
    tool: str | None = Field(
        default=None, description="Of tools/call; never another's name or URI."
    )
    caller: str | None = Field(
        default=None, description="The token's name, else the name that the client gives itself."
    )


class RequestAccepted(_OfRequest):
    """A call was let in and is on its way to its server."""


class RequestProgress(_OfRequest):
    """The server reported progress."""

    progress: float
    total: float | None = None


class RequestCompleted(_OfRequest):
    """The server answered."""

    outcome: Literal["ok", "error", "asked"] = Field(
        description="error: the tool says that it failed; asked: it has a question to the user."
    )
    duration_ms: float
    retried: int | None = Field(default=None, description="Times it was sent again.")


class RequestFailed(_OfRequest):
    """No answer came: cancelled, refused, the server ended, time ran out."""

    outcome: str
    code: str | None = Field(default=None, description="The error's code, where it has one.")
    duration_ms: float
    retried: int | None = Field(default=None, description="Times it was sent again.")


class _OfApproval(Event):
    approval: str = Field(description="Its id, as in `hostwright approve ID`.")
    server: str
    tool: str
    caller: str
    reason: str | None = Field(default=None, description="The rule or profile that asks.")


class ApprovalPending(_OfApproval):
    """A call waits for the owner."""


class _Decided(_OfApproval):
    via: str | None = Field(default=None, description="terminal or client")
    by: str | None = None


class ApprovalGranted(_Decided):
    """The owner lets the call run once."""


class ApprovalDenied(_Decided):
    """The owner refused it."""


class LedgerCheckpoint(Event):
    """The state of the ledger was signed."""

    size: int | None = Field(default=None, description="Entries that it covers.")
    root: str | None = None


class SafetyPanic(Event):
    """Somebody stopped everything; nothing is done until the owner lifts it."""

    panic: str | None = Field(
        default=None, description="Its id; left out: the record was put back."
    )
    caller: str = Field(description="Who stopped it.")
    via: str | None = Field(default=None, description="tool or terminal")
    reason: str = ""


class SafetyLifted(Event):
    """The owner lifted the stop; what ran before is started again."""

    panic: str = Field(description="Its id.")
    caller: str
    by: str = Field(description="Who had stopped everything.")


class EventsGap(Event):
    """Between the event before and the one after this, some are missing for good."""

    reason: Literal["overrun", "restart", "ledger"] = Field(
        description="overrun: more happened than is kept in memory; restart: the daemon was "
        "restarted, and with it went its memory; ledger: what was recorded cannot be read."
    )
    lost: int | None = Field(
        default=None, description="How many at most, before filtering; left out: not known."
    )


GAP = "events.gap"
EPHEMERAL: Mapping[str, type[Event]] = {
    "request.accepted": RequestAccepted,
    "request.progress": RequestProgress,
    "request.completed": RequestCompleted,
    "request.failed": RequestFailed,
}
DURABLE: Mapping[str, type[Event]] = {
    "server.started": ServerStarted,
    "server.ready": ServerReady,
    "server.crashed": ServerCrashed,
    "server.stopped": ServerStopped,
    "server.broken": ServerBroken,
    "server.escalated": ServerEscalated,
    "server.waiting": ServerWaiting,
    "server.silent": ServerSilent,
    "server.hibernated": ServerHibernated,
    "server.woken": ServerWoken,
    "approval.pending": ApprovalPending,
    "approval.granted": ApprovalGranted,
    "approval.denied": ApprovalDenied,
    "ledger.checkpoint": LedgerCheckpoint,
    "safety.panic": SafetyPanic,
    "safety.lifted": SafetyLifted,
}
KINDS: Mapping[str, type[Event]] = {**DURABLE, **EPHEMERAL, GAP: EventsGap}

FIELDS: Mapping[str, frozenset[str]] = {
    kind: frozenset(model.model_fields) - {"kind", "at"} for kind, model in KINDS.items()
}
ENTRY_TYPES: Mapping[str, str] = {
    # The ledger speaks of the request, the stream of the state that it leaves.
    "approval.requested": "approval.pending",
    **{kind: kind for kind in DURABLE if kind != "approval.pending"},
}
"""Types of ledger entries, and the kinds that they are here."""

MAX_TEXT_CHARS = 500
Scalar = str | int | float | bool


def keep(kind: str, fields: Mapping[str, Any]) -> tuple[dict[str, Scalar], int]:
    """The fields that this kind has, bounded, and about how many bytes they take."""
    known = FIELDS[kind]
    kept: dict[str, Scalar] = {}
    size = 0
    for name, value in fields.items():
        if value is None or name not in known:
            continue
        size += 24
        # What values are, almost always; twice for every call through the gateway.
        if value.__class__ is str and len(value) <= MAX_TEXT_CHARS:
            kept[name] = value
            size += len(value)
        elif isinstance(value, str):
            cut = f"{value[:MAX_TEXT_CHARS]}…" if len(value) > MAX_TEXT_CHARS else value
            kept[name] = cut
            size += len(cut)
        elif isinstance(value, int) or (isinstance(value, float) and abs(value) < 1e300):
            kept[name] = value
    return kept, size
