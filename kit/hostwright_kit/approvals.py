"""Approvals: a question to the owner, bound to one exact call, answered over the owner's channel.

State machine of a row (each step one atomic UPDATE that names the state it leaves):

    pending ──grant──▶ granted ──consume──▶ consumed
       │ └──deny──▶ denied   └─(time)─▶ expired
       └───(time)─▶ expired

`digest` covers caller, server, tool, canonical arguments and working folder. Every grant and
denial is in the ledger before it takes effect (the transaction that makes it is held open for that
long), so a crash between the two leaves a grant that was announced and never worked, not one that
worked and was never announced.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_in, utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.store import naming_the_cause, open_store, transaction

State = Literal["pending", "granted", "denied", "consumed", "expired"]
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
)


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


class Request(BaseModel, frozen=True):
    """What is asked for."""

    digest: str
    caller: str
    server: str
    tool: str
    arguments: Mapping[str, Any] = Field(description="Redacted; shown to the owner.")
    reason: str


class Approvals:
    """The approvals of one installation. Blocking, thread-safe, shared between processes."""

    def __init__(self, path: Path, ledger: Ledger, *, lifetime_seconds: float) -> None:
        self._path = path
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.RLock()
        self._ledger = ledger
        self._lifetime = lifetime_seconds

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
            asked = Approval(
                id="".join(secrets.choice(ID_ALPHABET) for _ in range(8)),
                digest=wanted.digest,
                caller=wanted.caller,
                server=wanted.server,
                tool=wanted.tool,
                arguments=canonical(wanted.arguments).decode(),
                reason=wanted.reason,
                state="pending",
                created=utc_now(),
                expires=utc_in(self._lifetime),
            )
            self._record("approval.requested", asked)
            columns = asked.model_dump()
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            self._db.execute(
                f"INSERT INTO approvals ({names}) VALUES ({marks})",  # noqa: S608 - our own names
                tuple(columns.values()),
            )
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
        return _approval(rows[0]) if rows else None

    def grant(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Let the call happen once. The grant lasts as long again as the question did."""
        return self._decide(approval_id, "granted", via=via, by=by)

    def deny(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Refuse the call."""
        return self._decide(approval_id, "denied", via=via, by=by)

    def get(self, approval_id: str) -> Approval:
        """One approval by its id."""
        with self._lock, naming_the_cause(self._path):
            return self._get(approval_id)

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
                raise HostError(
                    f"The approval {approval.id} is {approval.state} already.",
                    fix="Let the agent make the call again; it gets a new request.",
                    code="approval_closed",
                )
            self._record(f"approval.{state}", approval, via=via, by=by)
            self._db.execute(
                "UPDATE approvals SET state = ?, decided = ?, via = ?, expires = ? WHERE id = ?",
                (state, utc_now(), via, utc_in(self._lifetime), approval.id),
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
        self._db.execute(
            "UPDATE approvals SET state = 'expired' "
            "WHERE state IN ('pending', 'granted') AND expires <= ?",
            (utc_now(),),
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
        return [_approval(row) for row in rows]


def _approval(row: sqlite3.Row) -> Approval:
    """The row as it is now: time runs out whether or not somebody has written that down."""
    approval = Approval.model_validate(dict(row))
    if approval.state in ("pending", "granted") and approval.expires <= utc_now():
        return approval.model_copy(update={"state": "expired"})
    return approval
