"""The ledger: one append-only chain of everything that was asked, decided and done.

`ledger_file.py` says what is written; here is how a process writes: one thread takes what has
queued up and writes it in one transaction (group commit), and the caller waits until its entry is
on disk. Beyond that the writer signs checkpoints (`checkpoints.py`).
"""

from __future__ import annotations

import asyncio
import queue
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

__all__ = ["COLUMNS", "GENESIS", "MIGRATIONS", "Entry", "Ledger", "Receipt", "chain"]

MAX_BATCH = 256
MAX_QUEUED = 10_000


class _Job:
    """One entry on its way to the disk."""

    def __init__(self, what: Draft, wanted: bool) -> None:
        self.draft = what
        self.done: Future[Receipt] | None = Future() if wanted else None
        if self.done is not None:
            # Running from the start: a caller that is cancelled cannot take back what may be on
            # disk already, and the writer may always set the result.
            self.done.set_running_or_notify_cancel()


class Ledger:
    """Appends to the chain. Open one per process; thread-safe."""

    def __init__(self, path: Path, checkpoints: Checkpoints | None = None) -> None:
        """`checkpoints` signs what is written, when it is time to."""
        self.path = path
        self._file = LedgerFile(path)
        self._checkpoints = checkpoints
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Nothing may be queued behind the mark that ends the writer: it would wait for ever.
        self._gate = threading.Lock()
        self._lost: str | None = None
        self._lost_count = 0
        self._failing: str | None = None
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
        try:
            job = _Job(draft(entry), wanted=True)
        except (TypeError, ValueError, RecursionError) as error:
            refused: Future[Receipt] = Future()
            refused.set_exception(_unavailable(f"the entry has no encoding ({error})"))
            return refused
        assert job.done is not None  # noqa: S101 - wanted is True
        self._enqueue(job)
        return job.done

    def note(self, entry: Entry) -> None:
        """Append without waiting, for reads. A failure shows in `health`, not here."""
        try:
            self._enqueue(_Job(draft(entry), wanted=False))
        except (HostError, TypeError, ValueError, RecursionError) as error:
            self.remember_loss(str(error))

    def health(self) -> str | None:
        """Why nothing can be written now, or why some reads are missing, if that is so."""
        if self._failing is not None:
            return f"the last entry could not be written: {self._failing}"
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
            if self._checkpoints is not None:
                self._checkpoints.sign_if_due(self._file, len(batch), ending=ending)
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
            receipts = self._file.append([job.draft for job in batch])
        except Exception as error:  # noqa: BLE001 - it reaches the callers through their futures
            self._failing = str(error)
            for job in batch:
                self._refuse(job, str(error))
            return
        self._failing = None
        for job, receipt in zip(batch, receipts, strict=True):
            if job.done is not None:
                job.done.set_result(receipt)

    def _refuse(self, job: _Job, why: str) -> None:
        if job.done is None:
            self.remember_loss(why)
        elif not job.done.done():
            job.done.set_exception(_unavailable(why))


def _unavailable(why: str) -> HostError:
    return HostError(
        f"The ledger cannot be written: {why}.",
        fix="Free disk space or mend the permissions of the state folder (`hostwright doctor` "
        "names the cause). Nothing is done that cannot be recorded.",
        code="ledger_unavailable",
    )
