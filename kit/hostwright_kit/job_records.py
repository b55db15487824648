"""The durable record of long work: one row per job, in SQLite.

Touches one database, opened with `store.open_store`; every method blocks (milliseconds) and may be
called from any thread. States and who may write them:

    queued → running → succeeded | failed | cancelled     by the process that owns the job
    queued, running  → lost                               by any process, once the owner is gone

An owner is gone when no process has its pid *and* its start time. The start time carries the boot
and the PID namespace, so that neither a reboot nor a restarted container can revive a stale row.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

from hostwright_kit.errors import HostError
from hostwright_kit.store import open_store, transaction

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]
UNFINISHED: tuple[JobState, ...] = ("queued", "running")

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        server TEXT NOT NULL,
        kind TEXT NOT NULL,
        title TEXT NOT NULL,
        caller TEXT NOT NULL,
        state TEXT NOT NULL,
        exit_code INTEGER,
        error TEXT,
        note TEXT,
        created_at TEXT NOT NULL,
        started_at TEXT,
        ended_at TEXT,
        cancel_requested_at TEXT,
        owner_pid INTEGER NOT NULL,
        owner_started TEXT NOT NULL,
        stdout_bytes INTEGER NOT NULL DEFAULT 0,
        stderr_bytes INTEGER NOT NULL DEFAULT 0,
        stored_bytes INTEGER NOT NULL DEFAULT 0,
        output_truncated INTEGER NOT NULL DEFAULT 0,
        progress_fraction REAL,
        progress_text TEXT,
        detail TEXT
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (server, state);
    """,
)


class JobRecord(BaseModel, frozen=True):
    """One piece of long work, as it stands now."""

    id: str = Field(description="Sorts by creation time.")
    server: str = Field(description="The server that runs it.")
    kind: str = Field(description="What sort of work, e.g. `command`.")
    title: str = Field(description="One line for people; holds no secrets.")
    caller: str = Field(default="", description="Who asked for it.")
    state: JobState = Field(description="`lost`: its process died before it could say how it went.")
    exit_code: int | None = Field(default=None, description="Of the process, where there is one.")
    error: str | None = Field(default=None, description="Why it failed.")
    note: str | None = Field(
        default=None, description="What else a reader of the record must know."
    )
    created_at: str = Field(description="ISO 8601, UTC.")
    started_at: str | None = Field(default=None, description="ISO 8601, UTC.")
    ended_at: str | None = Field(default=None, description="ISO 8601, UTC.")
    cancel_requested_at: str | None = Field(
        default=None, description="ISO 8601, UTC. The work may still be ending: see `state`."
    )
    owner_pid: int = Field(description="The server process that runs it.")
    owner_started: str = Field(description="Tells that process from a later one of the same pid.")
    stdout_bytes: int = Field(default=0, description="All that was written, stored or not.")
    stderr_bytes: int = Field(default=0, description="All that was written, stored or not.")
    stored_bytes: int = Field(default=0, description="Kept on disk, both streams together.")
    output_truncated: bool = Field(
        default=False, description="Output was dropped past the cap; what is stored is its start."
    )
    progress_fraction: float | None = Field(default=None, description="0 to 1.")
    progress_text: str | None = None
    detail: dict[str, JsonValue] | None = Field(
        default=None, description="The work's own result, shaped by its kind."
    )

    @property
    def ended(self) -> bool:
        return self.state not in UNFINISHED


class JobFilter(BaseModel, frozen=True):
    """Which jobs to list; an empty field does not filter."""

    states: tuple[JobState, ...] = ()
    kind: str | None = None
    caller: str | None = None


class Retention(BaseModel, frozen=True):
    """What is kept of ended jobs, per server. Running ones are never removed."""

    max_jobs: int = Field(default=1000, ge=1)
    max_age_seconds: float = Field(default=30 * 86400.0, gt=0)
    max_stored_bytes: int = Field(default=1 << 30, ge=0)


_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(milliseconds: int) -> str:
    """Nine characters of time (45 bits) and nine of chance, in Crockford's base 32."""
    number = (milliseconds << 45) | secrets.randbits(45)
    return "".join(_ID_ALPHABET[(number >> shift) & 31] for shift in range(85, -1, -5))


def is_id(text: str) -> bool:
    return len(text) == 18 and set(text) <= set(_ID_ALPHABET)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def process_started(pid: int) -> str | None:
    """What tells this process from every other with its pid; None when it is gone (or a zombie)."""
    if not sys.platform.startswith("linux"):
        result = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        state, _, started = result.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else started.strip()
    try:
        # The command name (field 2) may hold spaces and parentheses: split after its last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{boot}/{namespace}/{fields[19]}"


class JobRecords:
    """The table. One instance per process and database; it serialises its own use."""

    def __init__(self, path: Path, server: str) -> None:
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.Lock()
        self._server = server
        self.owner_pid = os.getpid()
        self.owner_started = process_started(self.owner_pid) or ""

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def insert(self, record: JobRecord) -> None:
        row = _to_row(record)
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with self._use() as db:
            # The names are the model's own fields, never input.
            db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608

    def update(self, record: JobRecord) -> None:
        """Write everything the owner knows, except a cancel request that came from elsewhere."""
        row = _to_row(record)
        del row["id"]
        if row["cancel_requested_at"] is None:
            del row["cancel_requested_at"]
        sets = ", ".join(f"{name} = ?" for name in row)
        with self._use() as db:
            db.execute(f"UPDATE jobs SET {sets} WHERE id = ?", (*row.values(), record.id))  # noqa: S608

    def save_progress(self, record: JobRecord) -> None:
        with self._use() as db:
            db.execute(
                "UPDATE jobs SET progress_fraction = ?, progress_text = ?"
                " WHERE id = ? AND state = 'running'",
                (record.progress_fraction, record.progress_text, record.id),
            )

    def get(self, job_id: str) -> JobRecord:
        with self._use() as db:
            row = db.execute(
                "SELECT * FROM jobs WHERE id = ? AND server = ?", (job_id, self._server)
            ).fetchone()
        if row is None:
            raise HostError(
                f"There is no job {job_id!r} on the server {self._server!r}.",
                fix="Give the id from the result of the call that began it; jobs that ended are "
                "removed after a while.",
                code="not_found",
            )
        return _to_record(row)

    def page(
        self, which: JobFilter, limit: int, before_id: str | None
    ) -> tuple[list[JobRecord], int]:
        """Newest first, from below `before_id`; and how many match in all."""
        where, values = ["server = ?"], [self._server]
        if which.states:
            where.append(f"state IN ({', '.join('?' * len(which.states))})")
            values += which.states
        for name, value in (("kind", which.kind), ("caller", which.caller)):
            if value is not None:
                where.append(f"{name} = ?")
                values.append(value)
        matching = " AND ".join(where)
        with self._use() as db:
            total = db.execute(f"SELECT count(*) FROM jobs WHERE {matching}", values).fetchone()[0]  # noqa: S608
            rows = db.execute(
                f"SELECT * FROM jobs WHERE {matching} AND id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608
                (*values, before_id or "~", limit),
            ).fetchall()
        return [_to_record(row) for row in rows], total

    def request_cancel(self, job_id: str) -> None:
        """Ask the owner, which may be another process, to cancel. The first request stands."""
        with self._use() as db:
            db.execute(
                "UPDATE jobs SET cancel_requested_at = ? WHERE id = ? AND server = ?"
                " AND cancel_requested_at IS NULL AND state IN ('queued', 'running')",
                (utc_now(), job_id, self._server),
            )

    def cancel_requests(self) -> list[str]:
        """The unfinished jobs of this process that somebody wants cancelled."""
        with self._use() as db:
            rows = db.execute(
                "SELECT id FROM jobs WHERE state IN ('queued', 'running') AND owner_pid = ?"
                " AND owner_started = ? AND cancel_requested_at IS NOT NULL",
                (self.owner_pid, self.owner_started),
            ).fetchall()
        return [row["id"] for row in rows]

    def mark_lost(self, sizes: Callable[[str], tuple[int, int]], max_output_bytes: int) -> None:
        """Close the rows of owners that are gone; `sizes(id)` gives the stored bytes per stream."""
        with self._use() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state IN ('queued', 'running') AND server = ?",
                (self._server,),
            ).fetchall()
            for row in rows:
                pid, started = row["owner_pid"], row["owner_started"]
                if (pid, started) == (self.owner_pid, self.owner_started):
                    continue
                if process_started(pid) == started:
                    continue
                stdout_bytes, stderr_bytes = sizes(row["id"])
                db.execute(
                    "UPDATE jobs SET state = 'lost', ended_at = ?, note = ?, stdout_bytes = ?,"
                    " stderr_bytes = ?, stored_bytes = ?, output_truncated = ?"
                    " WHERE id = ? AND state IN ('queued', 'running')",
                    (
                        utc_now(),
                        f"The server process {pid} that ran it ended without recording the"
                        " outcome; the end time is when that was noticed.",
                        stdout_bytes,
                        stderr_bytes,
                        stdout_bytes + stderr_bytes,
                        int(stdout_bytes + stderr_bytes >= max_output_bytes),
                        row["id"],
                    ),
                )

    def prune(self, keep: Retention) -> list[str]:
        """Remove the oldest ended jobs beyond the bounds; returns their ids."""
        with self._use() as db, transaction(db):
            rows = db.execute(
                "SELECT id, ended_at, stored_bytes FROM jobs WHERE server = ?"
                " AND state NOT IN ('queued', 'running') ORDER BY id DESC",
                (self._server,),
            ).fetchall()
            oldest = datetime.now(UTC).timestamp() - keep.max_age_seconds
            stored, removed = 0, list[str]()
            for index, row in enumerate(rows):
                stored += row["stored_bytes"]
                ended = datetime.fromisoformat(row["ended_at"]).timestamp()
                if index >= keep.max_jobs or stored > keep.max_stored_bytes or ended < oldest:
                    removed.append(row["id"])
            db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in removed])
        return removed

    def ids(self) -> set[str]:
        """Of every server that shares the database."""
        with self._use() as db:
            return {row["id"] for row in db.execute("SELECT id FROM jobs")}

    @contextlib.contextmanager
    def _use(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise HostError(
                    f"The record of jobs cannot be read or written: {error}.",
                    fix="Check free disk space and the permissions of the state folder.",
                    code="store_unavailable",
                ) from error


def _to_row(record: JobRecord) -> dict[str, Any]:
    row: dict[str, Any] = record.model_dump()
    row["output_truncated"] = int(record.output_truncated)
    row["detail"] = None if record.detail is None else json.dumps(record.detail)
    return row


def _to_record(row: sqlite3.Row) -> JobRecord:
    values = {name: row[name] for name in _names(row)}
    values["output_truncated"] = bool(values["output_truncated"])
    values["detail"] = None if values["detail"] is None else json.loads(values["detail"])
    return JobRecord.model_validate(values)


def _names(row: sqlite3.Row) -> Sequence[str]:
    return [name for name in row.keys() if name in JobRecord.model_fields]  # noqa: SIM118 - a Row iterates over its values
