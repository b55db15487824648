"""The ledger: one append-only chain of everything that was asked, decided and done.

`ledger_file.py` says what is written; here is how a process writes: one thread takes what has
queued up and writes it in one transaction (group commit), and the caller waits until its entry is
on disk. Who blocks anyway and finds nothing queued writes itself, which spares it two changes of
threads. Where a daemon writes for all, entries are handed over instead (`ledger_line.py`). Whoever
writes also signs checkpoints (`checkpoints.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from hostwright_kit.checkpoints import Checkpoints
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_file import (
    COLUMNS,
    GENESIS,
    MIGRATIONS,
    Draft,
    Entry,
    LedgerFile,
    Receipt,
    chain,
    draft,
)
from hostwright_kit.ledger_line import Done, LedgerLine, LineLostError, RefusedError

__all__ = ["COLUMNS", "GENESIS", "MIGRATIONS", "Entry", "Ledger", "Receipt", "chain"]

MAX_BATCH = 512
MAX_QUEUED = 10_000


class _Job:
    """Entries on their way to the disk, together."""

    __slots__ = ("done", "drafts")

    def __init__(self, drafts: Sequence[Draft], done: Done) -> None:
        self.drafts = drafts
        self.done = done
        """Called by the writer: with the receipts, or with why there are none."""


class Ledger:
    """Appends to the chain. Open one per process; thread-safe."""

    def __init__(
        self,
        path: Path,
        checkpoints: Checkpoints | None = None,
        *,
        through: Path | None = None,
    ) -> None:
        """`checkpoints` signs what is written here, when it is time to.

        `through`: the socket of the process that writes for all, while there is one.
        """
        self.path = path
        self._file = LedgerFile(path)
        self._line = LedgerLine(through, path) if through is not None else None
        self._checkpoints = checkpoints
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Nothing may be queued behind the mark that ends the writer: it would wait for ever.
        self._gate = threading.Lock()
        self._turn = threading.Lock()
        """Held by who writes: the file, the line and the checkpoints are for one at a time."""
        self._queued = 0
        """Jobs that are not written yet, those included that the thread has taken."""
        self._lost: str | None = None
        self._lost_count = 0
        self._failing: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> Receipt:
        """Append and wait until it is durable. Blocks; raises `HostError` when it cannot."""
        if not self._takes_turn():
            return self.submit(entry).result()
        receipt: Receipt | None = None
        problem: str | None = None

        def done(receipts: Sequence[Receipt] | None, why: str | None) -> None:
            nonlocal receipt, problem
            receipt, problem = receipts[0] if receipts else None, why

        try:
            self._write_now([_Job([draft(entry)], done)])
        except (TypeError, ValueError, RecursionError) as error:
            raise _unencodable(error) from error
        finally:
            self._turn.release()
        if receipt is None:
            raise _unavailable(str(problem))
        return receipt

    def append_async(self, entry: Entry) -> asyncio.Future[Receipt]:
        """`append` without blocking the event loop.

        The entry is queued before this returns; cancelling the future does not take it back.
        """
        return asyncio.wrap_future(self.submit(entry))

    def submit(self, entry: Entry) -> Future[Receipt]:
        """Queue an entry; the future ends when it is durable or cannot be written."""
        future: Future[Receipt] = Future()
        # Running from the start: a caller that is cancelled cannot take back what may be on disk
        # already, and the writer may always set the result.
        future.set_running_or_notify_cancel()
        try:
            job = _Job([draft(entry)], _ends(future))
        except (TypeError, ValueError, RecursionError) as error:
            future.set_exception(_unencodable(error))
            return future
        self._enqueue(job)
        return future

    def take(self, given: Sequence[tuple[Sequence[Draft], Done]]) -> None:
        """Write entries of other processes, what is together in one transaction. Blocks."""
        jobs = [_Job(drafts, done) for drafts, done in given]
        with self._turn:
            if self._closed:
                for job in jobs:
                    job.done(None, "the ledger is closed")
                return
            self._write_now(jobs)

    def note(self, entry: Entry) -> None:
        """Append without waiting, for reads. A failure shows in `health`, not here."""
        try:
            self._enqueue(_Job([draft(entry)], self._noted))
        except (HostError, TypeError, ValueError, RecursionError) as error:
            self.remember_loss(str(error))

    def flush(self, timeout_seconds: float = 10.0) -> None:
        """Wait until what was queued before is written, or could not be: for those who read it."""
        over = threading.Event()
        with contextlib.suppress(HostError):  # closed: everything is written
            self._enqueue(_Job([], lambda _receipts, _why: over.set()))
            over.wait(timeout_seconds)

    def health(self) -> str | None:
        """Why nothing can be written now, or why some reads are missing, if that is so."""
        if self._failing is not None:
            return f"the last entry could not be written: {self._failing}"
        if self._lost is None:
            return None
        return f"{self._lost_count} read(s) were not recorded: {self._lost}"

    def unsigned(self) -> str | None:
        """Why the last checkpoint could not be signed, or not be copied elsewhere, if so."""
        return self._checkpoints.problem if self._checkpoints is not None else None

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
            if self._queued >= MAX_QUEUED:
                raise _unavailable(f"{MAX_QUEUED} entries already wait for the disk")
            self._queued += 1
            self._queue.put(job)

    def _takes_turn(self) -> bool:
        """Take the turn if that keeps the order: nothing is queued, and nobody writes."""
        with self._gate:
            return not self._closed and not self._queued and self._turn.acquire(blocking=False)

    def _write_now(self, jobs: Sequence[_Job]) -> None:
        """Write in the thread that has the turn."""
        batch: list[_Job] = []
        count = 0
        for job in jobs:
            batch.append(job)
            count += len(job.drafts)
            if count >= MAX_BATCH:
                self._write_and_sign(batch)
                batch, count = [], 0
        if batch:
            self._write_and_sign(batch)

    def _write_and_sign(self, batch: Sequence[_Job]) -> None:
        written = self._write(batch)
        if self._checkpoints is None:
            return
        waited = self._checkpoints.due_in_seconds() is not None
        self._checkpoints.sign_if_due(self._file, written)
        if not waited and self._checkpoints.due_in_seconds() is not None:
            # The thread has to know that something will be due.
            with contextlib.suppress(HostError):
                self._enqueue(_Job([], lambda _receipts, _why: None))

    def remember_loss(self, why: str, count: int = 1) -> None:
        """Entries that nobody waited for are missing; `health` says so from now on."""
        self._lost, self._lost_count = why, self._lost_count + count

    def _noted(self, receipts: Sequence[Receipt] | None, why: str | None) -> None:
        if receipts is None:
            self.remember_loss(str(why))

    def _write_loop(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._next_batch()
            with self._turn:
                here = self._write(batch) if batch else 0
                if self._checkpoints is not None:
                    self._checkpoints.sign_if_due(self._file, here, ending=ending)
            with self._gate:
                self._queued -= len(batch)
        with self._turn:
            if self._line is not None:
                self._line.close()
            self._file.close()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for one entry, then take along what else has queued up.

        Returns with nothing when a checkpoint is due before an entry comes.
        """
        batch: list[_Job] = []
        wait = self._checkpoints.due_in_seconds() if self._checkpoints else None
        try:
            job = self._queue.get(timeout=wait)
        except queue.Empty:
            return batch, False
        count = 0
        while job is not None:
            batch.append(job)
            count += len(job.drafts)
            if count >= MAX_BATCH:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write(self, batch: Sequence[_Job]) -> int:
        """Write and tell; returns how many were written here and not by the daemon."""
        drafts = [one for job in batch for one in job.drafts]
        try:
            receipts, here = self._append(drafts) if drafts else ([], False)
        except Exception as error:  # noqa: BLE001 - it reaches the callers
            if len(batch) == 1 or isinstance(error, sqlite3.OperationalError | RefusedError):
                return self._failed(batch, str(error))
            # One of them is no entry, or there already; the others have nothing to do with that.
            return sum(self._write([job]) for job in batch)
        self._failing = None
        at = 0
        for job in batch:
            job.done(receipts[at : at + len(job.drafts)], None)
            at += len(job.drafts)
        return len(drafts) if here else 0

    def _append(self, drafts: Sequence[Draft]) -> tuple[list[Receipt], bool]:
        """Over the line if there is one, else here."""
        if self._line is not None:
            try:
                receipts = self._line.append(drafts)
            except LineLostError:
                return self._append_rest(drafts), True
            if receipts is not None:
                return receipts, False
        return self._file.append(drafts), True

    def _append_rest(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """The writer was lost; it may have written some of these, and may be about to."""
        ids = [one.id for one in drafts]
        for last in (False, True):
            known = self._file.known(ids)
            rest = [one for one in drafts if one.id not in known]
            try:
                known |= {one.id: one for one in self._file.append(rest)} if rest else {}
            except sqlite3.IntegrityError:
                # It wrote them between our two looks: look again.
                if last:
                    raise
            else:
                break
        return [known[one] for one in ids]

    def _failed(self, batch: Sequence[_Job], why: str) -> int:
        self._failing = why
        for job in batch:
            job.done(None, why)
        return 0


def _ends(future: Future[Receipt]) -> Done:
    """Ends the future when the one entry of a job is written or refused."""

    def done(receipts: Sequence[Receipt] | None, why: str | None) -> None:
        if receipts is not None:
            future.set_result(receipts[0])
        else:
            future.set_exception(_unavailable(str(why)))

    return done


def _unencodable(error: Exception) -> HostError:
    return _unavailable(f"the entry has no encoding ({error})")


def _unavailable(why: str) -> HostError:
    return HostError(
        f"The ledger cannot be written: {why}.",
        fix="Free disk space or mend the permissions of the state folder (`hostwright doctor` "
        "names the cause). Nothing is done that cannot be recorded.",
        code="ledger_unavailable",
    )
