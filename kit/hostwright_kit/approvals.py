"""Approvals: a question to the owner, bound to one exact call, answered over the owner's channel.

State machine of a row (each step one atomic UPDATE that names the state it leaves):

    pending ──grant──▶ granted ──consume──▶ consumed
       │ └──deny──▶ denied   └─(time)─▶ expired
       └───(time)─▶ expired

`digest` covers caller, server, tool, canonical arguments and working folder. Every grant and
denial is in the ledger before it takes effect, so a crash between the two leaves a grant that was
announced and never worked, not one that worked and was never announced.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_in, utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.store import open_store

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
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.Lock()
        self._ledger = ledger
        self._lifetime = lifetime_seconds

    def request(self, wanted: Request) -> Approval:
        """The open question for this digest: the one that waits already, or a new one."""
        self._expire()
        if found := self._one("digest = ? AND state = 'pending'", wanted.digest):
            return found
        waiting = self._count("caller = ? AND state = 'pending'", wanted.caller)
        if waiting >= MAX_PENDING_PER_CALLER:
            raise HostError(
                f"{waiting} requests of {wanted.caller} already wait for the owner.",
                fix="Let the owner decide those first (hostwright pending).",
                code="too_many_pending",
            )
        approval_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(8))
        # OR IGNORE: another process may have asked the same in this moment.
        inserted = self._update(
            "INSERT OR IGNORE INTO approvals VALUES (?,?,?,?,?,?,?,'pending',?,?,NULL,NULL)",
            approval_id,
            wanted.digest,
            wanted.caller,
            wanted.server,
            wanted.tool,
            canonical(wanted.arguments).decode(),
            wanted.reason,
            utc_now(),
            utc_in(self._lifetime),
        )
        found = self._one("digest = ? AND state = 'pending'", wanted.digest)
        if found is None:
            raise HostError(
                "The request was decided while it was being made.",
                fix="Make the same call again.",
                code="approval_raced",
            )
        if inserted:
            self._record("approval.requested", found)
        return found

    def consume(self, digest: str) -> Approval | None:
        """Use up a grant for this digest. At most one caller ever gets it."""
        self._expire()
        with self._lock:
            row = self._db.execute(
                "UPDATE approvals SET state = 'consumed' WHERE id = (SELECT id FROM approvals "
                "WHERE digest = ? AND state = 'granted' AND expires > ? LIMIT 1) "
                "AND state = 'granted' RETURNING *",
                (digest, utc_now()),
            ).fetchone()
        return _approval(row) if row else None

    def grant(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Let the call happen once. The grant lasts as long again as the question did."""
        return self._decide(approval_id, "granted", via=via, by=by)

    def deny(self, approval_id: str, *, via: Via, by: str) -> Approval:
        """Refuse the call."""
        return self._decide(approval_id, "denied", via=via, by=by)

    def get(self, approval_id: str) -> Approval:
        """One approval by its id."""
        self._expire()
        found = self._one("id = ?", approval_id.strip().upper())
        if found is None:
            raise HostError(
                f"There is no approval {approval_id!r}.",
                fix="`hostwright pending` lists the ones that wait.",
                code="not_found",
            )
        return found

    def pending(self) -> list[Approval]:
        """What waits for the owner, oldest first."""
        self._expire()
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM approvals WHERE state = 'pending' ORDER BY created"
            ).fetchall()
        return [_approval(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _decide(self, approval_id: str, state: State, *, via: Via, by: str) -> Approval:
        approval = self.get(approval_id)
        if approval.state == "pending":
            self._record(f"approval.{state}", approval, via=via, by=by)
            if self._update(
                "UPDATE approvals SET state = ?, decided = ?, via = ?, expires = ? "
                "WHERE id = ? AND state = 'pending' AND expires > ?",
                state,
                utc_now(),
                via,
                utc_in(self._lifetime),
                approval.id,
                utc_now(),
            ):
                return self.get(approval.id)
            approval = self.get(approval_id)
        raise HostError(
            f"The approval {approval.id} is {approval.state} already.",
            fix="Let the agent make the call again; it gets a new request.",
            code="approval_closed",
        )

    def _expire(self) -> None:
        self._update(
            "UPDATE approvals SET state = 'expired' "
            "WHERE state IN ('pending', 'granted') AND expires <= ?",
            utc_now(),
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

    def _one(self, where: str, value: str) -> Approval | None:
        with self._lock:
            row = self._db.execute(
                f"SELECT * FROM approvals WHERE {where}",  # noqa: S608 - our own constants
                (value,),
            ).fetchone()
        return _approval(row) if row else None

    def _count(self, where: str, value: str) -> int:
        with self._lock:
            return self._db.execute(
                f"SELECT count(*) FROM approvals WHERE {where}",  # noqa: S608 - our own constants
                (value,),
            ).fetchone()[0]

    def _update(self, sql: str, *values: str) -> int:
        with self._lock:
            return self._db.execute(sql, values).rowcount


def _approval(row: sqlite3.Row) -> Approval:
    return Approval.model_validate(dict(row))
