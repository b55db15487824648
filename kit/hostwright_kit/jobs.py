"""Long work: start it, get an id, ask how it goes, read its output, cancel it.

`JobStore` runs each job as an asyncio task, records it durably before it starts and again when it
has ended, and keeps its output in files. It knows nothing of what the work is. It touches
`STATE/jobs/` (0700): `jobs.sqlite3` and `output/`. Several processes may share that folder; each
runs its own jobs, reads all of them, and may ask another to cancel.

Everything here is asyncio: the database and the files are used in threads of its own, so that
neither a slow disk nor a busy default executor stops the event loop. Only opening a store blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import BaseModel, Field

from hostwright_kit import job_output
from hostwright_kit.errors import HostError
from hostwright_kit.job_output import DEFAULT_PAGE_BYTES, OutputPage, OutputSink, Stream
from hostwright_kit.job_records import (
    JobFilter,
    JobRecord,
    JobRecords,
    JobState,
    Retention,
    is_id,
    new_id,
    utc_now,
)
from hostwright_kit.job_work import JobContext, JobOutcome, LiveJob, Work, outcome_of
from hostwright_kit.panic import panicking

__all__ = [
    "JobContext",
    "JobFilter",
    "JobOutcome",
    "JobPage",
    "JobRecord",
    "JobState",
    "JobStore",
    "OutputPage",
    "Retention",
    "Stream",
    "Work",
]

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
MAX_PAGE_JOBS = 200
MAX_WAIT_SECONDS = 55.0
# How often a process looks whether another wants one of its jobs cancelled, and saves progress.
WATCH_SECONDS = 1.0
# How often a job of another process is looked at while somebody waits for it.
FOREIGN_POLL_SECONDS = 0.25

P = ParamSpec("P")
T = TypeVar("T")


class JobPage(BaseModel, frozen=True):
    """Jobs, newest first."""

    jobs: tuple[JobRecord, ...]
    total: int = Field(description="All that match the filter.")
    next_cursor: str | None = Field(description="Give it back to get the next page.")


class JobStore:
    """The jobs of one server. Make it at start-up (it blocks briefly); `close` it on shutdown."""

    def __init__(
        self,
        state_dir: Path,
        server: str,
        *,
        retention: Retention | None = None,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
        max_running: int = 16,
        max_unfinished: int = 256,
    ) -> None:
        self._server = server
        self._state_dir = state_dir
        self._retention = retention or Retention()
        self._max_output_bytes = max_output_bytes
        self._max_unfinished = max_unfinished
        self._output = state_dir / "jobs" / "output"
        self._output.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._output.parent.chmod(0o700)
        self._records = JobRecords(state_dir / "jobs" / "jobs.sqlite3", server)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="hostwright-jobs")
        self._slots = asyncio.Semaphore(max_running)
        self._live: dict[str, LiveJob] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self._last_id_ms = 0
        self._mark_lost()
        self._prune()
        job_output.remove_orphans(self._output, self._records.ids)

    async def start(
        self, kind: str, title: str, work: Work, *, caller: str = "", immediate: bool = False
    ) -> JobRecord:
        """Record the job durably, then run `work`; returns as soon as it is recorded.

        It waits for a free slot unless `immediate`, which is for work that is bounded to seconds
        and that somebody is waiting for.
        """
        if self._closed:
            raise HostError(
                "The server is shutting down and starts no more jobs.",
                fix="Call again when it is back.",
                code="shutting_down",
            )
        if len(self._live) >= self._max_unfinished:
            raise HostError(
                f"{len(self._live)} jobs are running or waiting, which is the limit.",
                fix="Wait for some to end, or cancel what is no longer needed.",
                code="busy",
            )
        live = self._new(kind, title, caller)
        live.driver = asyncio.create_task(self._drive(live, work, immediate), name=live.record.id)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            await asyncio.shield(live.recorded)
        except asyncio.CancelledError:
            # Nobody will ever learn the id.
            live.request_cancel()
            raise
        return live.snapshot()

    async def status(self, job_id: str) -> JobRecord:
        live = self._live.get(job_id)
        return live.snapshot() if live else await self._blocking(self._stored, job_id)

    async def list(
        self, which: JobFilter | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> JobPage:
        """Newest first. The cursor is the last id of the page before."""
        if not 1 <= limit <= MAX_PAGE_JOBS:
            raise HostError(
                f"limit is {limit}, outside 1 to {MAX_PAGE_JOBS}.",
                fix="Ask for a page inside these bounds.",
                code="invalid_argument",
            )
        if cursor is not None and not is_id(cursor):
            raise HostError(
                f"{cursor!r} is not a cursor of this list.",
                fix="Use the next_cursor of the page before, unchanged.",
                code="invalid_argument",
            )
        await self._blocking(self._mark_lost)
        records, total = await self._blocking(
            self._records.page, which or JobFilter(), limit + 1, cursor
        )
        page = records[:limit]
        now = [self._live[r.id].snapshot() if r.id in self._live else r for r in page]
        more = len(records) > limit
        return JobPage(jobs=tuple(now), total=total, next_cursor=page[-1].id if more else None)

    async def output(
        self,
        job_id: str,
        *,
        offset_bytes: int = 0,
        limit_bytes: int = DEFAULT_PAGE_BYTES,
        stream: Stream = "stdout",
    ) -> OutputPage:
        """A page of what the job wrote so far; a negative offset counts from the end."""
        record = await self.status(job_id)
        live = self._live.get(job_id)
        return await self._blocking(
            job_output.read_page,
            self._output,
            job_id,
            stream,
            offset_bytes=offset_bytes,
            limit_bytes=limit_bytes,
            total_bytes=record.stdout_bytes if stream == "stdout" else record.stderr_bytes,
            # Bytes on their way to the disk are not dropped ones: while it runs, the sink knows.
            truncated=live.sink.truncated(stream) if live else None,
            ended=record.ended,
        )

    async def wait(self, job_id: str, seconds: float) -> JobRecord:
        """The record as soon as the job has ended, or as it is after `seconds`."""
        if not 0 <= seconds <= MAX_WAIT_SECONDS:
            raise HostError(
                f"seconds is {seconds}, outside 0 to {MAX_WAIT_SECONDS:g}.",
                fix="Wait inside these bounds and ask again.",
                code="invalid_argument",
            )
        live = self._live.get(job_id)
        if live is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.ended.wait(), seconds)
            return live.snapshot()
        deadline = time.monotonic() + seconds
        record = await self.status(job_id)
        while not record.ended and (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(FOREIGN_POLL_SECONDS, left))
            record = await self.status(job_id)
        return record

    async def cancel(self, job_id: str, *, wait_seconds: float = 10.0) -> JobRecord:
        """Ask the work to end and wait for it. Look at `state`: it says whether it has ended."""
        live = self._live.get(job_id)
        if live is not None:
            live.request_cancel()
        else:
            await self.status(job_id)
            await self._blocking(self._records.request_cancel, job_id)
        return await self.wait(job_id, wait_seconds)

    async def cancel_all(self, *, wait_seconds: float = 10.0) -> list[JobRecord]:
        """Ask all work of this process to end, and wait for it, bounded; how each job is then."""
        live = list(self._live.values())
        for one in live:
            one.request_cancel()
        if live:
            ends = [asyncio.ensure_future(one.ended.wait()) for one in live]
            _, late = await asyncio.wait(ends, timeout=wait_seconds)
            for waiting in late:
                waiting.cancel()
        return [one.snapshot() for one in live]

    async def close(self, timeout_seconds: float = 4.0) -> None:
        """Cancel what runs, wait for it within the bound, and say of the rest that it is lost."""
        if self._closed:
            return
        self._closed = True
        for live in self._live.values():
            live.request_cancel()
        drivers = [live.driver for live in self._live.values() if live.driver]
        if drivers:
            await asyncio.wait(drivers, timeout=timeout_seconds)
        for live in [live for live in self._live.values() if not live.record.ended]:
            note = f"It had not ended {timeout_seconds:g} s after the server began to shut down."
            live.record = live.snapshot().model_copy(
                update={"state": "lost", "note": note, "ended_at": utc_now()}
            )
            await self._blocking(self._records.update, live.record)
            live.ended.set()
            if live.driver is not None:
                live.driver.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        await asyncio.to_thread(self._pool.shutdown)
        self._records.close()

    def _new(self, kind: str, title: str, caller: str) -> LiveJob:
        # Never the same millisecond twice, so that ids of one process sort in order of creation.
        self._last_id_ms = max(time.time_ns() // 1_000_000, self._last_id_ms + 1)
        record = JobRecord(
            id=new_id(self._last_id_ms),
            server=self._server,
            kind=kind,
            title=title,
            caller=caller,
            state="queued",
            created_at=utc_now(),
            owner_pid=self._records.owner_pid,
            owner_started=self._records.owner_started,
        )
        sink = OutputSink(self._output, record.id, self._max_output_bytes, self._pool)
        live = self._live[record.id] = LiveJob(record, sink)
        return live

    async def _drive(self, live: LiveJob, work: Work, immediate: bool) -> None:
        """One job from its first record to its last. Nothing but the loop's end cancels this."""
        try:
            await self._blocking(self._records.insert, live.record)
        except HostError as error:
            del self._live[live.record.id]
            live.recorded.set_exception(error)
            return
        live.recorded.set_result(None)
        live.work = asyncio.create_task(self._work(live, work, immediate))
        if live.record.cancel_requested_at:
            live.work.cancel()
        await asyncio.wait({live.work})
        await live.sink.close()
        outcome = outcome_of(live.work)
        if live.record.ended:
            return  # `close` gave it up, and the record says so.
        ended = live.snapshot().model_copy(
            update={
                "state": outcome.state,
                "exit_code": outcome.exit_code,
                "error": outcome.error,
                "note": " ".join(n for n in (outcome.note, live.sink.failure) if n) or None,
                "detail": outcome.detail,
                "ended_at": utc_now(),
            }
        )
        try:
            await self._blocking(self._records.update, ended)
        except HostError as error:
            # Kept in memory, so that those who ask this process still get the truth.
            note = f"{ended.note or ''} The outcome could not be recorded: {error.message}"
            live.record = ended.model_copy(update={"note": note.strip()})
        else:
            live.record = ended
            del self._live[ended.id]
        live.ended.set()
        if not self._closed:
            await self._blocking(self._prune)

    async def _work(self, live: LiveJob, work: Work, immediate: bool) -> JobOutcome:
        async with contextlib.nullcontext() if immediate else self._slots:
            now = {"state": "running", "started_at": utc_now()}
            await self._blocking(self._records.update, live.record.model_copy(update=now))
            # Not before: who reads `running` here may rely on the work having begun.
            live.record = live.record.model_copy(update=now)
            return await work(live.context)

    async def _watch(self) -> None:
        """While jobs run: hear cancel requests of other processes and a panic, save progress."""
        while self._live:
            await asyncio.sleep(WATCH_SECONDS)
            if panicking(self._state_dir):
                for live in tuple(self._live.values()):
                    live.request_cancel()
            # A database that fails here fails again when a job ends, and is reported there.
            with contextlib.suppress(HostError):
                for job_id in await self._blocking(self._records.cancel_requests):
                    if live := self._live.get(job_id):
                        live.request_cancel()
                for live in tuple(self._live.values()):
                    await self._save(live)

    async def _save(self, live: LiveJob) -> None:
        now = live.snapshot()
        if now.ended:
            # Recording the outcome failed when the job ended: once more.
            await self._blocking(self._records.update, now)
            self._live.pop(now.id, None)
            return
        if now.progress_text is None and now.progress_fraction is None:
            return
        if now.state == "running" and now != live.saved_progress:
            live.saved_progress = now
            await self._blocking(self._records.save_progress, now)

    def _stored(self, job_id: str) -> JobRecord:
        """Blocking."""
        record = self._records.get(job_id)
        if not record.ended and record.id not in self._live:
            self._mark_lost()
            record = self._records.get(job_id)
        if not record.ended:
            stdout_bytes, stderr_bytes = job_output.stored_sizes(self._output, job_id)
            sizes = {"stdout_bytes": stdout_bytes, "stderr_bytes": stderr_bytes}
            record = record.model_copy(
                update={**sizes, "stored_bytes": stdout_bytes + stderr_bytes}
            )
        return record

    def _mark_lost(self) -> None:
        """Blocking."""
        self._records.mark_lost(
            lambda job_id: job_output.stored_sizes(self._output, job_id), self._max_output_bytes
        )

    def _prune(self) -> None:
        """Blocking. Rows first: a file without a row is garbage, a row without its file a lie."""
        job_output.remove(self._output, self._records.prune(self._retention))

    async def _blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        def call() -> T:
            return function(*args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except RuntimeError as error:
            if not self._closed:
                raise
            raise HostError(
                "The jobs of this server are closed.",
                fix="Call again when the server is back.",
                code="shutting_down",
            ) from error
