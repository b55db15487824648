"""The ledger: one append-only chain of everything that was asked, decided and done.

Table `entries`, one row per entry. `body` is the RFC 8785 encoding of the entry; the hash of entry
n is SHA-256(hash of entry n-1 as 32 bytes ‖ body n), that of "entry 0" is 32 zero bytes. The other
columns repeat fields of the body so that SQLite can filter; `audit.verify` checks that they agree.
Triggers refuse UPDATE and DELETE, so that a mistake in our own code cannot rewrite history; the
chain shows what somebody else changed. A cut-off tail does not show in a bare chain.

Any number of processes append to the same file. Within a process one thread writes what has
queued up in one transaction (group commit): the caller waits until its entry is on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.store import open_store, transaction

GENESIS = bytes(32)
MAX_BATCH = 256
MAX_QUEUED = 10_000

MIGRATIONS = (
    """
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        time TEXT NOT NULL,
        type TEXT NOT NULL,
        caller TEXT,
        server TEXT,
        tool TEXT,
        outcome TEXT,
        intent_id TEXT,
        body BLOB NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_type ON entries (type, seq);
    CREATE INDEX entries_tool ON entries (tool, seq);
    CREATE INDEX entries_caller ON entries (caller, seq);
    CREATE INDEX entries_intent ON entries (intent_id) WHERE intent_id IS NOT NULL;
    CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    """,
)
COLUMNS = ("caller", "server", "tool", "outcome", "intent_id")


class Entry(BaseModel, frozen=True):
    """What is appended. Everything in it must already be fit to be read by others."""

    type: str
    caller: str | None = None
    server: str | None = None
    tool: str | None = None
    outcome: str | None = None
    intent_id: str | None = None
    detail: Mapping[str, Any] = {}


class Receipt(BaseModel, frozen=True):
    """Proof that an entry is on disk."""

    seq: int
    id: str
    time: str
    hash: str


class _Job:
    """One entry on its way to the disk."""

    def __init__(self, entry: Entry, wanted: bool) -> None:
        self.entry = entry
        self.id = secrets.token_hex(8)
        self.time = utc_now()
        self.done: Future[Receipt] | None = Future() if wanted else None
        if self.done is not None:
            # Running from the start: a caller that is cancelled cannot take back what may be on
            # disk already, and the writer may always set the result.
            self.done.set_running_or_notify_cancel()


class Ledger:
    """Appends to the chain. Open one per process; thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_store(path, MIGRATIONS)
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Nothing may be queued behind the mark that ends the writer: it would wait for ever.
        self._gate = threading.Lock()
        self._lost: str | None = None
        self._lost_count = 0
        self._closed = False
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> Receipt:
        """Append and wait until it is durable. Blocks; raises `HostError` when it cannot."""
        return self.submit(entry).result()

    def append_async(self, entry: Entry) -> asyncio.Future[Receipt]:
        """`append` without blocking the event loop.

        The entry is queued before this returns; cancelling the future does not take it back.
        """
        return asyncio.wrap_future(self.submit(entry))

    def submit(self, entry: Entry) -> Future[Receipt]:
        """Queue an entry; the future ends when it is durable or cannot be written."""
        job = _Job(entry, wanted=True)
        assert job.done is not None  # noqa: S101 - wanted is True
        self._enqueue(job)
        return job.done

    def note(self, entry: Entry) -> None:
        """Append without waiting, for reads. A failure shows in `health`, not here."""
        try:
            self._enqueue(_Job(entry, wanted=False))
        except HostError as error:
            self.remember_loss(error.message)

    def health(self) -> str | None:
        """Why some reads are missing from the ledger, if any are."""
        if self._lost is None:
            return None
        return f"{self._lost_count} read(s) were not recorded: {self._lost}"

    def close(self, timeout_seconds: float = 3.0) -> None:
        """Write what is queued and close. Safe to call twice."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout_seconds)

    def _enqueue(self, job: _Job) -> None:
        """Never waits: a full queue means that the disk is far behind, and callers must know."""
        with self._gate:
            if self._closed:
                raise _unavailable("the ledger is closed")
            if self._queue.qsize() >= MAX_QUEUED:
                raise _unavailable(f"{MAX_QUEUED} entries already wait for the disk")
            self._queue.put(job)

    def remember_loss(self, why: str) -> None:
        """An entry that nobody waited for is missing; `health` says so from now on."""
        self._lost, self._lost_count = why, self._lost_count + 1

    def _write_loop(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._next_batch()
            if batch:
                self._write(batch)
        self._db.close()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for one entry, then take along what else has queued up."""
        batch: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            batch.append(job)
            if len(batch) >= MAX_BATCH:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write(self, batch: Sequence[_Job]) -> None:
        try:
            receipts = self._insert(batch)
        except Exception as error:  # noqa: BLE001 - it reaches the callers through their futures
            for job in batch:
                self._refuse(job, str(error))
            return
        for job, receipt in receipts:
            if job.done is not None:
                job.done.set_result(receipt)

    def _refuse(self, job: _Job, why: str) -> None:
        if job.done is None:
            self.remember_loss(why)
        elif not job.done.done():
            job.done.set_exception(_unavailable(why))

    def _insert(self, batch: Sequence[_Job]) -> list[tuple[_Job, Receipt]]:
        receipts: list[tuple[_Job, Receipt]] = []
        with transaction(self._db):
            row = self._db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1")
            seq, previous = row.fetchone() or (0, GENESIS)
            for job in batch:
                try:
                    receipt = self._insert_one(job, seq + 1, previous)
                except (TypeError, ValueError, RecursionError) as error:
                    # This entry cannot be encoded; those of others in the batch can.
                    self._refuse(job, f"the entry has no encoding ({error})")
                    continue
                seq, previous = receipt.seq, bytes.fromhex(receipt.hash)
                receipts.append((job, receipt))
        return receipts

    def _insert_one(self, job: _Job, seq: int, previous: bytes) -> Receipt:
        entry = job.entry
        body = encode(seq, job.id, job.time, entry)
        link = chain(previous, body)
        self._db.execute(
            "INSERT INTO entries (seq, id, time, type, caller, server, tool, outcome, "
            "intent_id, body, hash) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(seq, job.id, job.time, entry.type),
                *(getattr(entry, name) for name in COLUMNS),
                *(body, link),
            ),
        )
        return Receipt(seq=seq, id=job.id, time=job.time, hash=link.hex())


def encode(seq: int, entry_id: str, time: str, entry: Entry) -> bytes:
    """The bytes that are hashed: every field, canonical."""
    fields = entry.model_dump(exclude_none=True)
    return canonical({"seq": seq, "id": entry_id, "time": time, **fields})


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of an entry, given that of the one before. Fixed lengths: nothing can shift."""
    return hashlib.sha256(previous + body).digest()


def _unavailable(why: str) -> HostError:
    return HostError(
        f"The ledger cannot be written: {why}.",
        fix="Free disk space or mend the permissions of the state folder (`hostwright doctor` "
        "names the cause). Nothing is done that cannot be recorded.",
        code="ledger_unavailable",
    )


def open_readonly(path: Path) -> sqlite3.Connection:
    """A reading connection; it never creates or changes the file."""
    if not path.exists():
        raise _missing(path)
    query = "SELECT 1 FROM sqlite_master WHERE name = 'entries'"
    db = _connect_readonly(path, "mode=ro")
    try:
        found = db.execute(query).fetchone()
    except sqlite3.DatabaseError as error:
        db.close()
        wal = path.with_name(f"{path.name}-wal")
        unread = wal.exists() and wal.stat().st_size
        if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or unread:
            raise
        # A copy on a disk that is read-only: nobody can be writing, and all of it is in the file.
        db = _connect_readonly(path, "mode=ro&immutable=1")
        found = db.execute(query).fetchone()
    if found is None:
        # A server is making it in this moment.
        db.close()
        raise _missing(path)
    return db


def _missing(path: Path) -> HostError:
    return HostError(
        f"There is no ledger at {path} yet.", fix="Make a first call.", code="not_found"
    )


def _connect_readonly(path: Path, options: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10, check_same_thread=False
    )
    db.row_factory = sqlite3.Row
    return db
