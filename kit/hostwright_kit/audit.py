"""Reading the ledger: filtered pages of events, and receipts of acts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_kit.archives import Archive, Sources, missing
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError
from hostwright_kit.verifying import Verification, verify

__all__ = ["Verification", "verify"]

MAX_PAGE = 500
MAX_SCANNED_PAGES = 40
MISSING = "Older entries could not be looked through: their archive is not here."


class Event(BaseModel, frozen=True):
    """One ledger entry."""

    seq: int = Field(default=0, description="In the chain; 0: a read, from the access log.")
    id: str
    time: str = Field(description="UTC, ISO 8601.")
    type: str = Field(description="call.intent, call.outcome, call.read, call.denied, approval.*")
    caller: str | None = None
    server: str | None = None
    tool: str | None = None
    outcome: str | None = Field(default=None, description="ok, error, cancelled, denied, …")
    intent_id: str | None = Field(default=None, description="The intent this entry answers.")
    detail: dict[str, Any] = {}
    hash: str = Field(default="", description="SHA-256 chain value, hex; none for such a read.")


class EventPage(BaseModel, frozen=True):
    """Events, newest first."""

    events: list[Event]
    next_cursor: str | None = Field(default=None, description="Give it back for older events.")
    missing: str | None = Field(default=None, description=MISSING)


class ReceiptEntry(BaseModel, frozen=True):
    """One act: what was intended and what came of it."""

    id: str = Field(description="The id of the intent.")
    time: str
    caller: str | None
    server: str | None
    tool: str | None
    outcome: Literal["ok", "error", "cancelled", "unknown", "unrecorded"] = Field(
        description="unknown: its server ended before it told. unrecorded: begun, but no outcome "
        "is on record (running now, or cut off)."
    )
    finished: str | None = Field(default=None, description="When the outcome was recorded, UTC.")
    duration_ms: float | None = None
    approval: str | None = Field(default=None, description="The approval that was used, if any.")
    arguments: dict[str, Any] = Field(default={}, description="Redacted.")
    undo: dict[str, Any] | None = Field(
        default=None, description="The tool and arguments that undo it, where the act told."
    )
    error: str | None = None


class ReceiptPage(BaseModel, frozen=True):
    """Receipts, newest first."""

    receipts: list[ReceiptEntry]
    next_cursor: str | None = None
    missing: str | None = Field(default=None, description=MISSING)


class EventFilter(BaseModel, frozen=True):
    """What to look for. Empty fields match everything."""

    type: str | None = Field(default=None, description="Exact, or a prefix ending in `.*`.")
    caller: str | None = None
    server: str | None = None
    tool: str | None = None
    outcome: str | None = None
    since: str | None = Field(default=None, description="UTC, ISO 8601, inclusive.")
    until: str | None = Field(default=None, description="UTC, ISO 8601, exclusive.")


def list_events(
    path: Path, wanted: EventFilter, *, limit: int = 50, cursor: str | None = None
) -> EventPage:
    """A page of events, archives included. Blocks on disk."""
    with Sources.of(path) as sources:
        rows, gone = _select(sources, wanted, limit + 1, cursor)
    events = [_event(row) for row in rows[:limit]]
    return EventPage(events=events, next_cursor=_next(rows, limit), missing=gone)


def all_rows(path: Path, wanted: EventFilter) -> Generator[sqlite3.Row]:
    """Everything that fits, oldest first; a `HostError` where an archive is not here. Blocks."""
    clauses, values = _where(wanted)
    with Sources.of(path) as sources:
        found = list(sources.newest_first())
        for source in reversed(found):
            if isinstance(source, Archive):
                raise missing(source)
            db, above = source
            sql = f"SELECT * FROM entries WHERE {' AND '.join([*clauses, 'seq > ?'])} ORDER BY seq"  # noqa: S608
            yield from db.execute(sql, (*values, above))


def list_receipts(
    path: Path, wanted: EventFilter, *, limit: int = 50, cursor: str | None = None
) -> ReceiptPage:
    """A page of acts, each with its outcome. `wanted.outcome` filters by the outcome.

    At most `MAX_SCANNED_PAGES` pages of acts are looked through; a page may then hold fewer than
    `limit`, and its cursor goes on.
    """
    outcome = wanted.outcome
    intents = wanted.model_copy(update={"type": "call.intent", "outcome": None})
    receipts: list[ReceiptEntry] = []
    gone: str | None = None
    with Sources.of(path) as sources:
        for _ in range(MAX_SCANNED_PAGES):
            rows, gone = _select(sources, intents, MAX_PAGE + 1, cursor)
            for number, row in enumerate(rows[:MAX_PAGE], 1):
                receipt = _receipt(sources, row)
                if outcome is None or receipt.outcome == outcome:
                    receipts.append(receipt)
                    if len(receipts) == limit:
                        more = len(rows) > number
                        position = str(row["seq"]) if more else None
                        return ReceiptPage(receipts=receipts, next_cursor=position, missing=gone)
            cursor = _next(rows, MAX_PAGE)
            if cursor is None:
                break
    return ReceiptPage(receipts=receipts, next_cursor=cursor, missing=gone)


def _select(
    sources: Sources, wanted: EventFilter, limit: int, cursor: str | None
) -> tuple[list[sqlite3.Row], str | None]:
    """So many rows, newest first; and which archive was not here, if one was needed."""
    clauses, values = _where(wanted)
    if cursor is not None:
        clauses.append("seq < ?")
        values.append(_position(cursor))
    where = " AND ".join([*clauses, "seq > ?"])
    # Only column names and operators of this module are put into the text.
    sql = f"SELECT * FROM entries WHERE {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    rows: list[sqlite3.Row] = []
    for source in sources.newest_first():
        if isinstance(source, Archive):
            return rows, missing(source).message
        db, above = source
        rows += db.execute(sql, (*values, above, limit - len(rows))).fetchall()
        if len(rows) == limit:
            break
    return rows, None


def _where(wanted: EventFilter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if wanted.type and wanted.type.endswith(".*"):
        clauses.append("substr(type, 1, ?) = ?")
        values += [len(wanted.type) - 1, wanted.type[:-1]]
    elif wanted.type:
        clauses.append("type = ?")
        values.append(wanted.type)
    for column in ("caller", "server", "tool", "outcome"):
        if (value := getattr(wanted, column)) is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    for operator, value in ((">=", wanted.since), ("<", wanted.until)):
        if value is not None:
            clauses.append(f"time {operator} ?")
            values.append(moment_of(value))
    return clauses, values


def moment_of(text: str) -> str:
    """A time as the ledger writes it, because times are compared as text."""
    try:
        moment = datetime.fromisoformat(text)
        return format_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise HostError(
            f"{text[:80]!r} is not a time.",
            fix="Give UTC in ISO 8601, for example 2025-01-31T08:00:00Z.",
            code="bad_time",
        ) from None


def _position(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise HostError(
            f"The cursor {cursor!r} is not one of ours.",
            fix="Give back next_cursor of the page before, unchanged, or leave it out.",
            code="bad_cursor",
        )
    return int(cursor)


def _next(rows: Sequence[sqlite3.Row], limit: int) -> str | None:
    return str(rows[limit - 1]["seq"]) if len(rows) > limit else None


def _event(row: sqlite3.Row) -> Event:
    body: dict[str, Any] = json.loads(row["body"])
    return Event.model_validate({**body, "hash": row["hash"].hex()})


def _outcome(sources: Sources, intent: Event) -> sqlite3.Row | None:
    query = "SELECT * FROM entries WHERE intent_id = ? AND type = 'call.outcome' LIMIT 1"
    for source in sources.newest_first():
        if isinstance(source, Archive):
            raise missing(source)
        db, above = source
        found = db.execute(query, (intent.id,)).fetchone()
        # It follows its intent; what is older than that need not be looked through.
        if found is not None or above < intent.seq:
            return found
    return None


def _receipt(sources: Sources, row: sqlite3.Row) -> ReceiptEntry:
    intent = _event(row)
    found = _outcome(sources, intent)
    common = {
        "id": intent.id,
        "time": intent.time,
        "caller": intent.caller,
        "server": intent.server,
        "tool": intent.tool,
        "approval": intent.detail.get("approval"),
        "arguments": intent.detail.get("arguments", {}),
    }
    if found is None:
        return ReceiptEntry.model_validate({**common, "outcome": "unrecorded"})
    outcome = _event(found)
    return ReceiptEntry.model_validate(
        {
            **common,
            "outcome": outcome.outcome,
            "finished": outcome.time,
            "duration_ms": outcome.detail.get("duration_ms"),
            "undo": outcome.detail.get("undo"),
            "error": outcome.detail.get("error"),
        }
    )
