"""Approvals: a question to the owner, bound to one exact call, answered over the owner's channel.

State machine of a row (each step one atomic UPDATE that names the state it leaves):

    pending ──grant──▶ granted ──consume──▶ consumed
       │ │└─deny──▶ denied   │ └─(time)─▶ expired
       │ └─(time)─▶ expired  └──cancel──▶ cancelled
       └──cancel──▶ cancelled

`digest` covers caller, server, tool, canonical arguments, working folder and the state of the files
that the call would overwrite. Every grant and denial is in the ledger before it takes effect (the
transaction that makes it is held open for that long), so a crash between the two leaves a grant
that was announced and never worked, not one that worked and was never announced.

Time runs on the boot's own clock, which nobody can set. After a reboot that clock says nothing
about the time before, so the wall clock decides, and against the approval wherever it could have
been set: it has expired when the wall clock stands before its beginning, or when the machine has
been up for longer than it was to last.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import Instant, instant
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.store import naming_the_cause, open_store, transaction

State = Literal["pending", "granted", "denied", "consumed", "expired", "cancelled"]
Via = Literal["terminal", "client"]

# No 0, 1, I, O, U: ids are read aloud and typed.
ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTVWXYZ"
MAX_PENDING_PER_CALLER = 50

MIGRATIONS = (
    """
    CREATE TABLE approvals (
        id TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        caller TEXT NOT NULL,
        server TEXT NOT NULL,
        tool TEXT NOT NULL,
        arguments TEXT NOT NULL,
        reason TEXT NOT NULL,
        state TEXT NOT NULL,
        created TEXT NOT NULL,
        expires TEXT NOT NULL,
        decided TEXT,
        via TEXT
    ) STRICT;
    CREATE INDEX approvals_digest ON approvals (digest, state);
    CREATE UNIQUE INDEX approvals_open ON approvals (digest) WHERE state = 'pending';
    """,
    """
    ALTER TABLE approvals ADD COLUMN bound TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE approvals ADD COLUMN folder TEXT NOT NULL DEFAULT '';
    ALTER TABLE approvals ADD COLUMN call TEXT NOT NULL DEFAULT '';
    ALTER TABLE approvals ADD COLUMN overwrites TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE approvals ADD COLUMN why TEXT NOT NULL DEFAULT '';
    ALTER TABLE approvals ADD COLUMN boot TEXT NOT NULL DEFAULT '';
    ALTER TABLE approvals ADD COLUMN deadline REAL NOT NULL DEFAULT 0;
    ALTER TABLE approvals ADD COLUMN lifetime REAL NOT NULL DEFAULT 86400;
    CREATE INDEX approvals_call ON approvals (call, state);
    """,
)

# What has run out at the moment that the parameters tell; see the head of this file.
_OVER = """
    CASE WHEN boot = :boot AND boot != '' THEN deadline <= :elapsed
    ELSE expires <= :now OR COALESCE(decided, created) > :now
        OR (:boot != '' AND boot != '' AND lifetime <= :elapsed) END
"""


class Approval(BaseModel, frozen=True):
    """One question and what became of it."""

    id: str
    digest: str
    caller: str
    server: str
    tool: str
    arguments: str = Field(description="Canonical JSON, redacted.")
    reason: str = Field(description="The rule or profile that asks.")
    state: State
    created: str
    expires: str
    decided: str | None = None
    via: str | None = None
    bound: str = Field(default="{}", description="The caller as it is bound, canonical JSON.")
    folder: str = Field(default="", description="Where the call would be carried out.")
    call: str = Field(default="", description="The digest without what is overwritten.")
    overwrites: str = Field(
        default="{}", description="Canonical JSON: each path that is overwritten, and its state."
    )
    why: str = Field(default="", description="What the caller says it wants this for.")
    boot: str = ""
    deadline: float = Field(default=0.0, description="On that boot's own clock, seconds.")
    lifetime: float = Field(default=86_400.0, description="Seconds, from its last step on.")

    def is_over(self, now: Instant) -> bool:
        """Whether its time has run out, written down or not."""
        if self.boot and self.boot == now.boot:
            return self.deadline <= now.elapsed
        rebooted = bool(self.boot and now.boot)
        return (
            self.expires <= now.written
            or (self.decided or self.created) > now.written
            or (rebooted and self.lifetime <= now.elapsed)
        )


class Request(BaseModel, frozen=True):
    """What is asked for."""

    digest: str
    caller: str
    server: str
    tool: str
    arguments: Mapping[str, Any] = Field(description="Redacted; shown to the owner.")
    reason: str
    bound: Mapping[str, Any] = {}
    folder: str = ""
    call: str = ""
    overwrites: Mapping[str, str] = {}
    why: str = ""


class Approvals:
    """The approvals of one installation. Blocking, thread-safe, shared between processes."""

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        *,
        lifetime_seconds: float,
        clock: Callable[[], Instant] = instant,
        on_request: Callable[[Approval], object] = lambda _: None,
    ) -> None:
        """`on_request` is told of each new question, once it is on disk; it must return at once."""
        self._path = path
        self._clock = clock
        self._on_request = on_request
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.RLock()
        self._ledger = ledger
        self._lifetime = lifetime_seconds

    @property
    def ledger(self) -> Ledger:
        """Where decisions are recorded."""
        return self._ledger

    def request(self, wanted: Request) -> Approval:
        """The open question for this digest: the one that waits already, or a new one."""
        with self._writing():
            self._expire()
            if found := self._rows("digest = ? AND state = 'pending'", wanted.digest):
                return found[0]
            waiting = len(self._rows("caller = ? AND state = 'pending'", wanted.caller))
            if waiting >= MAX_PENDING_PER_CALLER:
                raise HostError(
                    f"{waiting} requests of {wanted.caller} already wait for the owner.",
                    fix="Let the owner decide those first (hostwright pending).",
                    code="too_many_pending",
                )
            now = self._clock()
            asked = Approval(
                id="".join(secrets.choice(ID_ALPHABET) for _ in range(8)),
                digest=wanted.digest,
                caller=wanted.caller,
                server=wanted.server,
                tool=wanted.tool,
                arguments=canonical(wanted.arguments).decode(),
                reason=wanted.reason,
                state="pending",
                created=now.written,
                expires=now.written_in(self._lifetime),
                bound=canonical(wanted.bound).decode(),
                folder=wanted.folder,
                call=wanted.call,
                overwrites=canonical(wanted.overwrites).decode(),
                why=wanted.why,
                boot=now.boot,
                deadline=now.elapsed + self._lifetime,
                lifetime=self._lifetime,
            )
            self._record("approval.requested", asked)
            columns = asked.model_dump()
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            self._db.execute(
                f"INSERT INTO approvals ({names}) VALUES ({marks})",  # noqa: S608 - our own names
                tuple(columns.values()),
            )
        self._on_request(asked)
        return asked

    def consume(self, digest: str) -> Approval | None:
        """Use up a grant for this digest. At most one caller ever gets it."""
        with self._writing():
            self._expire()
            # fetchall, because a statement that was not run to its end has not been committed.
            rows = self._db.execute(
                "UPDATE approvals SET state = 'consumed' WHERE id = (SELECT id FROM approvals "
                "WHERE digest = ? AND state = 'granted' LIMIT 1) RETURNING *",
                (digest,),
            ).fetchall()
        return Approval.model_validate(dict(rows[0])) if rows else None

    def grant(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Let the call happen once. The grant lasts as long again as the question did."""
        return self._decide(approval_id, "granted", via=via, by=by)

    def deny(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Refuse the call."""
        return self._decide(approval_id, "denied", via=via, by=by)

    def cancel(self, approval_id: str, *, by: str) -> Approval:
        """Take a question or an unused grant back, on behalf of who asked."""
        with self._writing():
            self._expire()
            approval = self._get(approval_id)
            if approval.state not in ("pending", "granted"):
                raise _closed(approval)
            self._record("approval.cancelled", approval, by=by)
            self._db.execute(
                "UPDATE approvals SET state = 'cancelled' WHERE id = ?", (approval.id,)
            )
            return self._get(approval.id)

    def get(self, approval_id: str) -> Approval:
        """One approval by its id."""
        with self._lock, naming_the_cause(self._path):
            return self._get(approval_id)

    def granted(self, digest: str) -> Approval | None:
        """The grant for this digest that nobody has used yet."""
        with self._lock, naming_the_cause(self._path):
            rows = self._rows("digest = ? AND state = 'granted'", digest)
        return next((approval for approval in rows if approval.state == "granted"), None)

    def pending(self) -> list[Approval]:
        """What waits for the owner, oldest first."""
        with self._lock, naming_the_cause(self._path):
            rows = self._rows("state = ? ORDER BY created, rowid", "pending")
        return [approval for approval in rows if approval.state == "pending"]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _decide(self, approval_id: str, state: State, *, via: Via, by: str) -> Approval:
        with self._writing():
            self._expire()
            approval = self._get(approval_id)
            if approval.state != "pending":
                raise _closed(approval)
            self._record(f"approval.{state}", approval, via=via, by=by)
            now = self._clock()
            self._db.execute(
                "UPDATE approvals SET state = ?, decided = ?, via = ?, expires = ?, boot = ?, "
                "deadline = ?, lifetime = ? WHERE id = ?",
                (
                    state,
                    now.written,
                    via,
                    now.written_in(self._lifetime),
                    now.boot,
                    now.elapsed + self._lifetime,
                    self._lifetime,
                    approval.id,
                ),
            )
            return self._get(approval.id)

    @contextmanager
    def _writing(self) -> Generator[None]:
        """One step of the state machine: no other thread and no other process is in between."""
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            yield

    def _get(self, approval_id: str) -> Approval:
        found = self._rows("id = ?", approval_id.strip().upper())
        if not found:
            raise HostError(
                f"There is no approval {approval_id!r}.",
                fix="`hostwright pending` lists the ones that wait.",
                code="not_found",
            )
        return found[0]

    def _expire(self) -> None:
        now = self._clock()
        self._db.execute(
            "UPDATE approvals SET state = 'expired' "  # noqa: S608 - our own constant
            f"WHERE state IN ('pending', 'granted') AND {_OVER}",
            {"boot": now.boot, "elapsed": now.elapsed, "now": now.written},
        )

    def _record(self, kind: str, approval: Approval, **detail: str) -> None:
        self._ledger.append(
            Entry(
                type=kind,
                caller=approval.caller,
                server=approval.server,
                tool=approval.tool,
                detail={
                    "approval": approval.id,
                    "digest": approval.digest,
                    "reason": approval.reason,
                    **detail,
                },
            )
        )

    def _rows(self, where: str, value: str) -> list[Approval]:
        rows = self._db.execute(
            f"SELECT * FROM approvals WHERE {where}",  # noqa: S608 - our own constants
            (value,),
        ).fetchall()
        now = self._clock()
        return [_as_of(now, Approval.model_validate(dict(row))) for row in rows]


def _as_of(now: Instant, approval: Approval) -> Approval:
    """Time runs out whether or not somebody has written that down."""
    if approval.state in ("pending", "granted") and approval.is_over(now):
        return approval.model_copy(update={"state": "expired"})
    return approval


def _closed(approval: Approval) -> HostError:
    return HostError(
        f"The approval {approval.id} is {approval.state} already.",
        fix="Let the agent make the call again; it gets a new request.",
        code="approval_closed",
    )
