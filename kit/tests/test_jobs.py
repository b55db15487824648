"""Jobs: durable, truthful about their end, bounded."""

from __future__ import annotations

# What these tests wait for happens on disk and in other processes, where no event is to be had.
# ruff: noqa: ASYNC110
import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.errors import HostError
from hostwright_kit.job_records import process_started
from hostwright_kit.jobs import JobContext, JobFilter, JobOutcome, JobRecord, JobStore, Retention


@asynccontextmanager
async def store(folder: Path, server: str = "test", **options: Any) -> AsyncGenerator[JobStore]:
    jobs = JobStore(folder, server, **options)
    try:
        yield jobs
    finally:
        await jobs.close()


async def quick(context: JobContext) -> JobOutcome:
    await context.write(b"hello ")
    await context.write("wörld".encode())
    await context.write(b"oops", "stderr")
    return JobOutcome(exit_code=0, detail={"answer": 42})


async def endless(context: JobContext) -> JobOutcome:
    await context.write(b"begun")
    await asyncio.Event().wait()
    return JobOutcome()


def rows(folder: Path) -> list[sqlite3.Row]:
    db = sqlite3.connect(folder / "jobs" / "jobs.sqlite3")
    try:
        db.row_factory = sqlite3.Row
        return db.execute("SELECT * FROM jobs ORDER BY id").fetchall()
    finally:
        db.close()


async def until_running(jobs: JobStore, job_id: str) -> None:
    while (await jobs.status(job_id)).state != "running":
        await asyncio.sleep(0.01)


async def test_a_job_from_start_to_end(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "a title", quick, caller="me")
        assert job.state in ("queued", "running")
        done = await jobs.wait(job.id, 10)
        assert done.state == "succeeded"
        assert (done.exit_code, done.detail, done.caller) == (0, {"answer": 42}, "me")
        assert (done.stdout_bytes, done.stderr_bytes, done.stored_bytes) == (12, 4, 16)
        assert done.created_at <= (done.started_at or "") <= (done.ended_at or "")
        assert not done.output_truncated
        page = await jobs.output(job.id)
        assert (page.text, page.complete) == ("hello wörld", True)
        assert (await jobs.output(job.id, stream="stderr")).text == "oops"
    async with store(tmp_path) as again:
        assert await again.status(job.id) == done
        assert (await again.output(job.id)).text == "hello wörld"


async def test_the_record_is_durable_before_the_work_starts(tmp_path: Path) -> None:
    seen: list[str] = []

    async def look(context: JobContext) -> JobOutcome:
        seen.extend(row["state"] for row in rows(tmp_path) if row["id"] == context.job_id)
        return JobOutcome()

    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", look)
        await jobs.wait(job.id, 10)
    assert seen == ["running"]


async def test_failures_are_recorded_with_their_reason(tmp_path: Path) -> None:
    async def remedied(_: JobContext) -> JobOutcome:
        raise HostError("It is broken.", fix="Mend it.")

    async def unforeseen(_: JobContext) -> JobOutcome:
        raise KeyError("x")

    async with store(tmp_path) as jobs:
        first = await jobs.start("kind", "t", remedied)
        second = await jobs.start("kind", "t", unforeseen)
        failed = await jobs.wait(first.id, 10)
        assert (failed.state, failed.error) == ("failed", "It is broken. Fix: Mend it.")
        failed = await jobs.wait(second.id, 10)
        assert (failed.state, failed.error) == ("failed", "KeyError: 'x'")


async def test_progress_shows_while_it_runs_and_to_other_processes(tmp_path: Path) -> None:
    async def work(context: JobContext) -> JobOutcome:
        context.progress(0.5, "half")
        await asyncio.Event().wait()
        return JobOutcome()

    async with store(tmp_path) as jobs, store(tmp_path) as other:
        job = await jobs.start("kind", "t", work)
        async with asyncio.timeout(10):
            while (now := await jobs.status(job.id)).progress_text is None:
                await asyncio.sleep(0.01)
            assert (now.progress_fraction, now.progress_text) == (0.5, "half")
            while (await other.list()).jobs[0].progress_text != "half":
                await asyncio.sleep(0.05)


async def test_output_is_readable_while_the_job_runs(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", endless)
        async with asyncio.timeout(10):
            while not (page := await jobs.output(job.id)).text:
                await asyncio.sleep(0.01)
        assert page.text == "begun"
        assert not page.complete
        assert not page.truncated


async def test_cancel_returns_when_the_work_has_ended(tmp_path: Path) -> None:
    cleaned = False

    async def work(_: JobContext) -> JobOutcome:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned = True
        return JobOutcome()

    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", work)
        await until_running(jobs, job.id)
        gone = await jobs.cancel(job.id)
        assert cleaned
        assert gone.state == "cancelled"
        assert gone.cancel_requested_at
        assert gone.ended_at
        # Cancelling what has ended changes nothing.
        assert await jobs.cancel(job.id) == gone


async def test_cancel_says_so_when_the_work_goes_on_and_never_interrupts_clean_up(
    tmp_path: Path,
) -> None:
    release = asyncio.Event()

    async def stubborn(_: JobContext) -> JobOutcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
        return JobOutcome(state="cancelled", note="cleaned up")

    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", stubborn)
        await until_running(jobs, job.id)
        still = await jobs.cancel(job.id, wait_seconds=0.05)
        assert still.state == "running"
        assert still.cancel_requested_at
        assert (await jobs.cancel(job.id, wait_seconds=0.05)).state == "running"
        release.set()
        done = await jobs.wait(job.id, 10)
        assert (done.state, done.note) == ("cancelled", "cleaned up")


async def test_jobs_queue_for_slots_unless_immediate(tmp_path: Path) -> None:
    async with store(tmp_path, max_running=1) as jobs:
        first = await jobs.start("kind", "t", endless)
        await until_running(jobs, first.id)
        second = await jobs.start("kind", "t", quick)
        third = await jobs.start("kind", "t", quick, immediate=True)
        assert (await jobs.wait(third.id, 10)).state == "succeeded"
        assert (await jobs.status(second.id)).state == "queued"
        fourth = await jobs.start("kind", "t", quick)
        assert (await jobs.cancel(fourth.id)).state == "cancelled"
        await jobs.cancel(first.id)
        assert (await jobs.wait(second.id, 10)).state == "succeeded"


async def test_too_many_unfinished_jobs_are_refused(tmp_path: Path) -> None:
    async with store(tmp_path, max_unfinished=2) as jobs:
        for _ in range(2):
            await jobs.start("kind", "t", endless)
        with pytest.raises(HostError) as caught:
            await jobs.start("kind", "t", quick)
        assert caught.value.code == "busy"


async def test_a_start_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs:
        starting = asyncio.create_task(jobs.start("kind", "t", endless))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        async with asyncio.timeout(10):
            while not (found := (await jobs.list()).jobs) or not found[0].ended:
                await asyncio.sleep(0.01)
        assert found[0].state == "cancelled"


async def test_list_filters_and_pages_newest_first(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs:
        made: list[JobRecord] = []
        for n in range(7):
            job = await jobs.start("even" if n % 2 == 0 else "odd", str(n), quick, caller=str(n))
            made.append(await jobs.wait(job.id, 10))
        expected = [job.id for job in reversed(made)]
        found: list[str] = []
        cursor = None
        while True:
            page = await jobs.list(limit=3, cursor=cursor)
            assert page.total == 7
            found += [job.id for job in page.jobs]
            if (cursor := page.next_cursor) is None:
                break
        assert found == expected
        odd = await jobs.list(JobFilter(kind="odd"))
        assert [job.title for job in odd.jobs] == ["5", "3", "1"]
        assert (await jobs.list(JobFilter(caller="2"))).jobs == (made[2],)
        assert (await jobs.list(JobFilter(states=("failed", "lost")))).total == 0
        assert (await jobs.list(JobFilter(states=("succeeded",)))).total == 7
        for limit, cursor in ((0, None), (201, None), (5, "'; DROP TABLE jobs")):
            with pytest.raises(HostError) as caught:
                await jobs.list(limit=limit, cursor=cursor)
            assert caught.value.code == "invalid_argument"


async def test_unknown_ids_and_bad_waits_are_refused(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs, store(tmp_path, "other") as other:
        job = await jobs.start("kind", "t", quick)
        await jobs.wait(job.id, 10)
        for call in (
            jobs.status("nothing"),
            jobs.output("../../etc/passwd"),
            jobs.cancel("nothing"),
            other.status(job.id),
        ):
            with pytest.raises(HostError) as caught:
                await call
            assert caught.value.code == "not_found"
        with pytest.raises(HostError):
            await jobs.wait(job.id, 1e9)


async def test_the_output_cap_is_reported(tmp_path: Path) -> None:
    async def work(context: JobContext) -> JobOutcome:
        for _ in range(10):
            await context.write(b"x" * 100)
        return JobOutcome()

    async with store(tmp_path, max_output_bytes=250) as jobs:
        job = await jobs.start("kind", "t", work)
        done = await jobs.wait(job.id, 10)
        assert (done.stdout_bytes, done.stored_bytes, done.output_truncated) == (1000, 250, True)
        page = await jobs.output(job.id)
        assert (len(page.text), page.total_bytes, page.truncated) == (250, 1000, True)
        assert not (await jobs.output(job.id, stream="stderr")).truncated


async def test_retention_bounds_count_age_and_bytes_but_never_what_runs(tmp_path: Path) -> None:
    output = tmp_path / "jobs" / "output"

    async def finished(jobs: JobStore, count: int) -> list[str]:
        ids: list[str] = []
        for _ in range(count):
            ids.append((await jobs.start("kind", "t", quick)).id)
            await jobs.wait(ids[-1], 10)
        return ids

    async with store(tmp_path, retention=Retention(max_jobs=3)) as jobs:
        running = await jobs.start("kind", "t", endless)
        await until_running(jobs, running.id)
        ids = await finished(jobs, 6)
        async with asyncio.timeout(10):
            while (await jobs.list()).total > 4:
                await asyncio.sleep(0.01)
        assert [job.id for job in (await jobs.list()).jobs] == [*reversed(ids[3:]), running.id]
        await jobs.cancel(running.id)
    kept = {path.name.partition(".")[0] for path in output.iterdir()}
    assert kept <= {*ids[3:], running.id}
    assert set(ids[-2:]) <= kept
    # Each of them stored 16 bytes.
    async with store(tmp_path, retention=Retention(max_stored_bytes=35)) as jobs:
        assert [job.id for job in (await jobs.list()).jobs] == [*reversed(ids[4:])]
    async with store(tmp_path, retention=Retention(max_age_seconds=1e-3)) as jobs:
        assert (await jobs.list()).total == 0
    assert list(output.iterdir()) == []


async def test_close_cancels_and_says_what_it_could_not_end(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def stubborn(_: JobContext) -> JobOutcome:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if release.is_set():
                    raise
        return JobOutcome()

    jobs = JobStore(tmp_path, "test")
    good = await jobs.start("kind", "t", endless)
    bad = await jobs.start("kind", "t", stubborn)
    await until_running(jobs, good.id)
    await until_running(jobs, bad.id)
    await jobs.close(timeout_seconds=0.3)
    await jobs.close()
    states = {row["id"]: (row["state"], row["note"]) for row in rows(tmp_path)}
    assert states[good.id][0] == "cancelled"
    assert states[bad.id][0] == "lost"
    assert "had not ended" in states[bad.id][1]
    for call in (jobs.start("kind", "t", quick), jobs.status(good.id)):
        with pytest.raises(HostError) as caught:
            await call
        assert caught.value.code == "shutting_down"
    release.set()
    await asyncio.sleep(0.01)


OWNER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from hostwright_kit.jobs import JobOutcome, JobStore

    async def work(context):
        await context.write(b"so far")
        print(context.job_id, flush=True)
        await asyncio.Event().wait()

    async def main():
        jobs = JobStore(Path(sys.argv[1]), "test")
        job = await jobs.start("kind", "t", work)
        # Only a cancellation from elsewhere ends this loop.
        while not (await jobs.wait(job.id, 50)).ended:
            pass
        await jobs.close()

    asyncio.run(main())
    """
)


@asynccontextmanager
async def owner(folder: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Another process with a running job."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(folder), stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_jobs_of_a_killed_owner_are_lost_with_their_output_kept(tmp_path: Path) -> None:
    async with store(tmp_path) as early, owner(tmp_path) as (process, job_id):
        assert (await early.status(job_id)).state == "running"
        process.send_signal(signal.SIGKILL)
        await process.wait()
        # Both a store that was open meanwhile and one that is opened now see the truth.
        assert (await early.wait(job_id, 10)).state == "lost"
        async with store(tmp_path) as jobs:
            lost = await jobs.status(job_id)
            assert lost.state == "lost"
            assert str(process.pid) in (lost.note or "")
            assert lost.ended_at
            assert lost.stdout_bytes == 6
            page = await jobs.output(job_id)
            assert (page.text, page.complete) == ("so far", True)
            assert (await jobs.cancel(job_id)).state == "lost"


async def test_a_job_of_another_process_is_left_running_and_can_be_cancelled(
    tmp_path: Path,
) -> None:
    async with owner(tmp_path) as (process, job_id), store(tmp_path) as jobs:
        running = await jobs.status(job_id)
        assert (running.state, running.owner_pid) == ("running", process.pid)
        assert (await jobs.output(job_id)).text == "so far"
        assert (await jobs.wait(job_id, 0.1)).state == "running"
        assert (await jobs.cancel(job_id)).state == "cancelled"
        assert await process.wait() == 0


async def test_a_reused_pid_does_not_keep_a_job_alive(tmp_path: Path) -> None:
    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", quick)
        await jobs.wait(job.id, 10)
    db = sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3")
    # This very pid, but of an earlier boot.
    db.execute("UPDATE jobs SET state = 'running', owner_started = 'before'")
    db.commit()
    db.close()
    async with store(tmp_path) as jobs:
        assert (await jobs.status(job.id)).state == "lost"


def test_process_started_tells_the_living_from_the_dead() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid())
    child = subprocess.Popen(["sleep", "100"])
    try:
        assert process_started(child.pid) != process_started(os.getpid())
    finally:
        child.kill()
    # A zombie runs nothing any more, whoever has yet to wait for it.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_started(child.pid) is None
    child.wait()


async def test_an_outcome_that_cannot_be_recorded_is_still_told(tmp_path: Path) -> None:
    async def work(_: JobContext) -> JobOutcome:
        await release.wait()
        return JobOutcome(exit_code=7, state="failed")

    release = asyncio.Event()
    async with store(tmp_path) as jobs:
        job = await jobs.start("kind", "t", work)
        await until_running(jobs, job.id)
        db = sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3")
        db.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        release.set()
        told = await jobs.wait(job.id, 10)
        assert (told.state, told.exit_code) == ("failed", 7)
        assert "could not be recorded" in (told.note or "")
        # As soon as the database takes it, it is recorded after all.
        db.execute("DROP TRIGGER refuse")
        db.close()
        async with asyncio.timeout(10):
            while rows(tmp_path)[0]["state"] != "failed":
                await asyncio.sleep(0.05)
