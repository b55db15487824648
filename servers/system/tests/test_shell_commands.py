"""Commands end to end, with real processes: output, input, time, environment, concurrency."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobStore
from hostwright_system.shell import CommandRunner, CommandSpec

MIB = 1024 * 1024


@pytest_asyncio.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(tmp_path / "state", "system")
    yield store
    await store.close()


@pytest.fixture
def runner(jobs: JobStore) -> CommandRunner:
    return CommandRunner(jobs, grace_seconds=0.3)


def line(text: str, **options: object) -> CommandSpec:
    return CommandSpec.model_validate({"line": text, **options})


def peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


async def test_exit_code_streams_and_the_job_that_keeps_them(
    runner: CommandRunner, jobs: JobStore
) -> None:
    result = await runner.run(line("echo out; echo err >&2; exit 3"))
    assert (result.exit_code, result.signal, result.timed_out) == (3, None, False)
    assert (result.stdout.head, result.stderr.head) == ("out\n", "err\n")
    assert result.ended_processes == 0
    record = await jobs.status(result.job_id)
    assert (record.state, record.exit_code) == ("failed", 3)
    assert record.detail == result.model_dump(mode="json")
    assert (await jobs.output(result.job_id)).text == "out\n"
    assert (await jobs.output(result.job_id, stream="stderr")).text == "err\n"
    assert (await jobs.status((await runner.run(line("true"))).job_id)).state == "succeeded"


async def test_argv_reaches_the_program_untouched(runner: CommandRunner) -> None:
    odd = ("a b", "$HOME", "*", "'\"", "", "ünïcode", "\udcff")
    code = "import os, sys; sys.stdout.buffer.write(b'\\n'.join(map(os.fsencode, sys.argv[1:])))"
    result = await runner.run(CommandSpec(argv=(sys.executable, "-c", code, *odd)))
    assert result.stdout.head_base64 is not None
    assert base64.b64decode(result.stdout.head_base64) == b"\n".join(map(os.fsencode, odd))


async def test_death_by_signal_is_told_from_an_exit_code(
    runner: CommandRunner, jobs: JobStore
) -> None:
    result = await runner.run(line("kill -SEGV $$"))
    assert (result.exit_code, result.signal) == (None, "SIGSEGV")
    assert (await jobs.status(result.job_id)).error == "SIGSEGV ended it."


async def test_merged_streams_keep_their_order(runner: CommandRunner) -> None:
    result = await runner.run(line("echo 1; echo 2 >&2; echo 3", merge_stderr=True))
    assert (result.stdout.head, result.stderr.total_bytes) == ("1\n2\n3\n", 0)


async def test_binary_output_comes_through_exactly(runner: CommandRunner, jobs: JobStore) -> None:
    data = bytes(range(256)) * 40
    encoded = base64.b64encode(data).decode()
    result = await runner.run(CommandSpec(argv=("cat",), stdin_base64=encoded))
    assert result.stdout.head_base64 is not None
    assert base64.b64decode(result.stdout.head_base64) == data
    page = await jobs.output(result.job_id)
    assert page.base64 is not None
    assert base64.b64decode(page.base64) == data


async def test_stdin_is_the_text_or_nothing(runner: CommandRunner) -> None:
    assert (await runner.run(line("cat", stdin_text="grüße"))).stdout.head == "grüße"
    nothing = await runner.run(line("cat; readlink /proc/self/fd/0"))
    assert nothing.stdout.head == "/dev/null\n"
    # More than a pipe holds, to a command that reads none of it.
    assert (await runner.run(line("true", stdin_text="x" * MIB))).exit_code == 0


async def test_the_environment_is_scrubbed(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOSTWRIGHT_PIN", "SOME_API_KEY", "ANYTHING_ELSE"):
        monkeypatch.setenv(name, "hush-7f3a")
    runner = CommandRunner(jobs)
    result = await runner.run(CommandSpec(argv=("env",), env={"DB_PASSWORD": "given"}))
    assert "hush-7f3a" not in result.stdout.head
    assert "DB_PASSWORD=given\n" in result.stdout.head
    assert "PATH=" in result.stdout.head


async def test_a_command_inherits_nothing_but_its_three_streams(
    runner: CommandRunner, tmp_path: Path
) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        code = (
            "import os; print(sorted(os.listdir('/proc/self/fd'), key=int));"
            "print(os.getsid(0) == os.getpid())"
        )
        result = await runner.run(
            CommandSpec(argv=(sys.executable, "-c", code), cwd=str(tmp_path), umask=0o077)
        )
    finally:
        os.close(leaked)
    # 3 is the listing's own.
    assert result.stdout.head == "['0', '1', '2', '3']\nTrue\n"
    result = await runner.run(line("umask; pwd; (: </dev/tty) 2>&1; echo", cwd=str(tmp_path)))
    assert result.stdout.head.startswith(f"0022\n{tmp_path}\n")
    assert "/dev/tty" in result.stdout.head
    status = await runner.run(CommandSpec(argv=("cat", "/proc/self/status")))
    # Signals 1 to 31; the C library keeps two more for itself, which make's children inherit.
    ignored = int(status.stdout.head.split("SigIgn:")[1].split()[0], 16)
    assert ignored & 0x7FFF_FFFF == 0
    assert "SigBlk:\t0000000000000000" in status.stdout.head


async def test_what_the_kernel_refuses_to_execute_is_explained(
    runner: CommandRunner, jobs: JobStore, tmp_path: Path
) -> None:
    for content, part in (
        (b"\x00\x01 neither", "interpreter first"),
        (b"#!/no/such/interpreter\n", "#! line"),
    ):
        tool = tmp_path / "tool"
        tool.write_bytes(content)
        tool.chmod(0o755)
        with pytest.raises(HostError) as caught:
            await runner.run(CommandSpec(argv=(str(tool),)))
        assert caught.value.code == "cannot_execute"
        assert part in caught.value.fix
    assert (await jobs.list()).jobs[0].state == "failed"


@pytest.mark.parametrize("seconds", [0, -1, 50.1, float("nan"), float("inf")])
async def test_time_out_of_bounds_is_refused(runner: CommandRunner, seconds: float) -> None:
    with pytest.raises(HostError) as caught:
        await runner.run(line("true"), timeout_seconds=seconds)
    assert "shell_start" in caught.value.fix
    with pytest.raises(HostError):
        await runner.run(line("true"), head_bytes=-1)


async def test_a_time_out_is_a_result_with_the_output_so_far(
    runner: CommandRunner, jobs: JobStore
) -> None:
    result = await runner.run(line("echo begun; exec sleep 1000"), timeout_seconds=5)
    assert (result.timed_out, result.signal) == (True, "SIGTERM")
    assert result.stdout.head == "begun\n"
    assert result.ended_processes == 1
    record = await jobs.status(result.job_id)
    assert (record.state, record.error) == ("failed", "It was ended after its time of 5 s.")


async def test_a_flood_stays_out_of_memory_and_off_the_event_loop(
    runner: CommandRunner, jobs: JobStore
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    await runner.run(line("true"))
    # proc_pid_clear_refs(5): 5 resets the peak, which an earlier test may have set higher.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kib()
    ticking = asyncio.create_task(tick())
    result = await runner.run(
        line("printf start; head -c 209715200 /dev/zero | tr '\\0' x; printf end"),
        timeout_seconds=50,
    )
    ticking.cancel()
    grown_kib = peak_kib() - before
    assert result.exit_code == 0
    assert result.stdout.total_bytes == 200 * MIB + 8
    assert result.stdout.head.startswith("startxxx")
    assert result.stdout.tail.endswith("xxxend")
    assert grown_kib < 32 * 1024
    assert ticks > 20
    record = await jobs.status(result.job_id)
    assert record.output_truncated
    assert record.stored_bytes == 64 * MIB
    page = await jobs.output(result.job_id, offset_bytes=-10)
    assert (page.text, page.truncated, page.complete) == ("x" * 10, True, True)


async def test_twenty_commands_run_at_once_and_keep_their_own_output(
    runner: CommandRunner, tmp_path: Path
) -> None:
    # Each waits for all the others to have begun: one after the other, none would ever end.
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    wait = 'while [ "$(ls | wc -l)" -lt 20 ]; do sleep 0.05; done'
    results = await asyncio.gather(
        *(
            runner.run(
                line(f"echo {n}; : >{n}; {wait}; echo {n} >&2", cwd=str(meeting)),
                timeout_seconds=50,
            )
            for n in range(20)
        )
    )
    assert [r.exit_code for r in results] == [0] * 20
    assert [r.stdout.head for r in results] == [f"{n}\n" for n in range(20)]
    assert [r.stderr.head for r in results] == [f"{n}\n" for n in range(20)]


async def test_a_started_job_is_polled_paged_and_leaves_its_result(
    runner: CommandRunner, jobs: JobStore
) -> None:
    job = await runner.start(line("echo one; sleep 1; echo two"), title="counting", caller="me")
    assert (job.title, job.kind, job.caller) == ("counting", "command", "me")
    async with asyncio.timeout(20):
        while not (page := await jobs.output(job.id)).text:  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.02)
    assert (page.text, page.complete) == ("one\n", False)
    done = await jobs.wait(job.id, 20)
    assert (done.state, done.exit_code) == ("succeeded", 0)
    assert (await jobs.output(job.id, offset_bytes=page.next_offset_bytes)).text == "two\n"
    assert done.detail is not None
    assert done.detail["signal"] is None


async def test_a_title_never_shows_the_arguments(runner: CommandRunner, jobs: JobStore) -> None:
    result = await runner.run(CommandSpec(argv=("echo", "hush-7f3a")))
    assert (await jobs.status(result.job_id)).title == "echo"
