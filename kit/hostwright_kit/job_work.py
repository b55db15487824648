"""One job while it runs: what its work holds, how it is cancelled, how it ends.

Plain asyncio, on one event loop. The only files it touches are those of its `OutputSink`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from hostwright_kit.errors import HostError
from hostwright_kit.job_output import OutputSink, Stream
from hostwright_kit.job_records import JobRecord, utc_now


class JobOutcome(BaseModel, frozen=True):
    """How the work ended, as the work itself reports it."""

    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    exit_code: int | None = None
    error: str | None = None
    note: str | None = None
    detail: dict[str, JsonValue] | None = Field(
        default=None, description="The work's own result; kept in the record, so keep it small."
    )


class JobContext:
    """What running work holds: where its output goes, how it says how far it is.

    Cancelling a job cancels the task of its work, once. Work that has something to clean up
    catches `asyncio.CancelledError`, cleans up and either raises it again or returns the outcome
    it can then report; the job has ended only when the work has.
    """

    def __init__(self, job_id: str, sink: OutputSink) -> None:
        self.job_id = job_id
        self._sink = sink
        self.progress_fraction: float | None = None
        self.progress_text: str | None = None

    async def write(self, data: bytes, stream: Stream = "stdout") -> None:
        """Append output. Waits for the disk, so that a flood slows its source, not memory."""
        await self._sink.write(data, stream)

    def progress(self, fraction: float | None, text: str | None = None) -> None:
        self.progress_fraction = None if fraction is None else min(max(fraction, 0.0), 1.0)
        self.progress_text = text


Work = Callable[[JobContext], Awaitable[JobOutcome]]


class LiveJob:
    """A job that this process runs: its record as written, and what is newer than that."""

    def __init__(self, record: JobRecord, sink: OutputSink) -> None:
        self.record = record
        self.sink = sink
        self.context = JobContext(record.id, sink)
        self.recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.driver: asyncio.Task[None] | None = None
        self.work: asyncio.Task[JobOutcome] | None = None
        self.saved_progress: JobRecord | None = None

    def snapshot(self) -> JobRecord:
        if self.record.ended:
            return self.record
        totals = self.sink.total_bytes
        return self.record.model_copy(
            update={
                "stdout_bytes": totals["stdout"],
                "stderr_bytes": totals["stderr"],
                "stored_bytes": sum(self.sink.stored_bytes.values()),
                "output_truncated": self.sink.truncated("stdout") or self.sink.truncated("stderr"),
                "progress_fraction": self.context.progress_fraction,
                "progress_text": self.context.progress_text,
            }
        )

    def request_cancel(self) -> None:
        """Only once: a second cancellation would break into the clean-up of the first."""
        if self.record.cancel_requested_at is None and not self.record.ended:
            self.record = self.record.model_copy(update={"cancel_requested_at": utc_now()})
            if self.work is not None:
                self.work.cancel()


def outcome_of(work: asyncio.Task[JobOutcome]) -> JobOutcome:
    if work.cancelled():
        return JobOutcome(state="cancelled")
    error = work.exception()
    if error is None:
        return work.result()
    text = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
    return JobOutcome(state="failed", error=text)
