"""Nothing that a command started outlives it, however hard it tries.

Each test marks its processes with a random environment variable, which children inherit, and looks
for it in /proc: what it finds was started by that test. The means are tried one by one: with a
cgroup where this machine lets us make one, and always with the subreaper alone.
"""

from __future__ import annotations

# What these tests wait for happens in other processes, where no event is to be had.
# ruff: noqa: ASYNC110
import asyncio
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobStore
from hostwright_system.shell import CommandResult, CommandRunner, CommandSpec, cgroups, process
from hostwright_system.shell.warden.processes import read_stat

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux can contain what detaches itself"
)

MEANS = ["subreaper", *(["cgroup"] if cgroups.cgroup_parent() else [])]


def marked(marker: str) -> set[int]:
    """The pids of all living processes that carry the marker."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):
            if marker.encode() in (entry / "environ").read_bytes() and read_stat(int(entry.name)):
                found.add(int(entry.name))
    return found


@pytest.fixture(params=MEANS)
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "subreaper":
        # As on a machine whose cgroups are not ours to write.
        monkeypatch.setattr(process, "cgroup_parent", lambda: None)
    return request.param


@pytest.fixture
def marker() -> Iterator[str]:
    mark = f"marker-{secrets.token_hex(8)}"
    yield mark
    # A test that failed must not leave to the machine what it found.
    while left := marked(mark):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest_asyncio.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(tmp_path / "state", "system")
    yield store
    await store.close()


@pytest.fixture
def runner(jobs: JobStore) -> CommandRunner:
    return CommandRunner(jobs, grace_seconds=0.3)


def python(code: str, marker: str) -> CommandSpec:
    argv = (sys.executable, "-S", "-c", textwrap.dedent(code))
    return CommandSpec(argv=argv, env={"MARKER": marker})


def line(text: str, marker: str) -> CommandSpec:
    return CommandSpec(line=text, env={"MARKER": marker})


def assert_contained(result: CommandResult, means: str, marker: str) -> None:
    assert marked(marker) == set()
    assert result.surviving_pids == ()
    assert result.escaped_children == "contained"
    assert ("cgroup" in result.containment) == (means == "cgroup")
    assert "subreaper" in result.containment
    assert list(Path(cgroups.cgroup_parent() or "/nowhere").glob(f"*-{result.job_id}")) == []


# Each starts something that outlives the main process, says how much, and exits at once.
ESCAPES = {
    "a background child that holds the pipe": ("sleep 1000 & echo started", 1),
    "a grandchild": ("(sleep 1000 & sleep 1000 &) ; echo started", 2),
    "a setsid daemon": ("setsid sleep 1000 & sleep 0.5; echo started", 1),
    "setsid and a double fork": (
        "(setsid sh -c '(setsid sleep 1000 &) ; sleep 1000' >/dev/null 2>&1 </dev/null &) ;"
        " sleep 0.5; echo started",
        3,
    ),
    "one that ignores SIGTERM and SIGHUP": (
        "(trap '' TERM HUP; sleep 1000 & sleep 1000) & sleep 0.5; echo started",
        2,
    ),
    "one that is stopped": ("sh -c 'kill -STOP $$; sleep 1000' & sleep 0.5; echo started", 1),
}


@pytest.mark.parametrize("name", ESCAPES)
async def test_what_outlives_the_main_process_is_ended_and_counted(
    runner: CommandRunner, means: str, marker: str, name: str
) -> None:
    text, count = ESCAPES[name]
    # Far less than the processes would live: the exit is seen, not the end of the pipe.
    result = await runner.run(line(text, marker), timeout_seconds=20)
    assert_contained(result, means, marker)
    assert (result.exit_code, result.timed_out) == (0, False)
    assert result.stdout.head == "started\n"
    assert result.ended_processes is not None
    assert result.ended_processes >= count


async def test_a_time_out_ends_a_tree_that_ignores_sigterm(
    runner: CommandRunner, means: str, marker: str
) -> None:
    code = """
        import os, signal, time
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for level in range(3):
            if os.fork() == 0:
                os.setsid()
        print("up", flush=True)
        while True:
            time.sleep(1000)
    """
    result = await runner.run(python(code, marker), timeout_seconds=10)
    assert_contained(result, means, marker)
    assert (result.timed_out, result.signal) == (True, "SIGKILL")
    assert result.ended_processes == 8


async def test_what_is_already_finishing_may_finish(
    runner: CommandRunner, means: str, marker: str
) -> None:
    # A busy machine may eat the short time that is given; ended at once, none would ever finish.
    finished: list[str] = []
    for _ in range(10):
        result = await runner.run(line("(sleep 0.03; echo late) & echo early", marker))
        assert_contained(result, means, marker)
        finished.append(result.stdout.head)
        if finished[-1] == "early\nlate\n":
            break
    assert finished[-1] == "early\nlate\n", finished


async def test_sigterm_comes_first_and_leaves_time_to_clean_up(
    runner: CommandRunner, means: str, marker: str
) -> None:
    spec = line("trap 'echo cleaned; exit 9' TERM; echo up; while :; do sleep 0.05; done", marker)
    result = await runner.run(spec, timeout_seconds=5)
    assert_contained(result, means, marker)
    assert result.stdout.head == "up\ncleaned\n"
    assert (result.timed_out, result.exit_code) == (True, 9)


async def test_two_hundred_forks_in_their_own_sessions(
    runner: CommandRunner, means: str, marker: str
) -> None:
    code = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(200):
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
        print("up", flush=True)
    """
    result = await runner.run(python(code, marker), timeout_seconds=30)
    assert_contained(result, means, marker)
    assert result.ended_processes == 200


async def test_processes_that_keep_forking_while_they_are_killed(
    runner: CommandRunner, means: str, marker: str
) -> None:
    # Each generation replaces itself and dies, in a new session: a list of pids is always stale.
    # Bounded in width (8) and in time, should the containment fail.
    code = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end = time.monotonic() + 30
        for _ in range(8):
            if os.fork() == 0:
                while time.monotonic() < end:
                    if os.fork():
                        os._exit(0)
                    os.setsid()
                os._exit(0)
        print("up", flush=True)
    """
    result = await runner.run(python(code, marker), timeout_seconds=20)
    assert_contained(result, means, marker)
    assert result.stdout.head == "up\n"


async def test_cancelling_the_call_ends_the_command_first(
    runner: CommandRunner, jobs: JobStore, means: str, marker: str
) -> None:
    spec = line("setsid sleep 1000 & echo up; sleep 1000", marker)
    call = asyncio.create_task(runner.run(spec, timeout_seconds=40))
    async with asyncio.timeout(20):
        while len(marked(marker)) < 3:
            await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert marked(marker) == set()
    record = (await jobs.list()).jobs[0]
    assert record.state == "cancelled"
    assert (await jobs.output(record.id)).text == "up\n"


async def test_cancelling_a_job_ends_it_and_keeps_its_result(
    runner: CommandRunner, jobs: JobStore, means: str, marker: str
) -> None:
    job = await runner.start(line("trap '' TERM; echo up; sleep 1000; sleep 1000", marker))
    async with asyncio.timeout(20):
        while not (await jobs.output(job.id)).text:
            await asyncio.sleep(0.02)
    done = await jobs.cancel(job.id)
    assert marked(marker) == set()
    assert done.state == "cancelled"
    assert done.detail is not None
    assert done.detail["signal"] == "SIGKILL"


async def test_closing_the_jobs_ends_their_commands(
    runner: CommandRunner, jobs: JobStore, means: str, marker: str
) -> None:
    for _ in range(3):
        await runner.start(line("setsid sleep 1000 & sleep 1000", marker))
    async with asyncio.timeout(20):
        while len(marked(marker)) < 9:
            await asyncio.sleep(0.02)
    await jobs.close()
    assert marked(marker) == set()


async def test_a_command_that_kills_its_supervisor_is_ended_and_reported(
    runner: CommandRunner, means: str, marker: str
) -> None:
    with pytest.raises(HostError) as caught:
        await runner.run(line("sleep 1000 & kill -9 $PPID; sleep 1000", marker))
    assert caught.value.code == "supervision_lost"
    assert ("may still run" in caught.value.message) == (means == "subreaper")
    assert marked(marker) == set()


async def test_a_command_that_stops_its_supervisor_is_still_ended_in_time(
    runner: CommandRunner, means: str, marker: str
) -> None:
    spec = line("setsid sleep 1000 & kill -STOP $PPID; sleep 1000", marker)
    result = await runner.run(spec, timeout_seconds=3)
    assert_contained(result, means, marker)
    assert result.timed_out


async def test_a_supervisor_ignores_the_signals_of_terminals_and_init(
    runner: CommandRunner, means: str, marker: str
) -> None:
    result = await runner.run(line("kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID", marker))
    assert_contained(result, means, marker)
    assert result.exit_code == 0


SERVER = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    from hostwright_kit.jobs import JobStore
    from hostwright_system.shell import CommandRunner, CommandSpec, process

    async def main(state, marker, means):
        if means == "subreaper":
            process.cgroup_parent = lambda: None
        jobs = JobStore(Path(state), "system")
        runner = CommandRunner(jobs, grace_seconds=0.3)
        line = "trap '' TERM; (setsid sh -c 'sleep 1000 & sleep 1000' &); echo up; sleep 1000"
        job = await runner.start(CommandSpec(line=line, env={"MARKER": marker}))
        # A child that only forked holds every descriptor of the server open.
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
        print(job.id, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main(*sys.argv[1:]))
    """
)


async def test_sigkill_of_the_server_leaves_no_process_and_a_true_record(
    tmp_path: Path, means: str, marker: str
) -> None:
    state = tmp_path / "killed"
    # Not asyncio's: its wait() waits for the pipes, which the forked child holds.
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(state), marker, means],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin
    assert server.stdout
    try:
        job_id = (await asyncio.to_thread(server.stdout.readline)).decode().strip()
        async with asyncio.timeout(20):
            # At least the outer shell and its sleep, the inner one's two.
            while len(marked(marker)) < 4:
                await asyncio.sleep(0.02)
            # What the server had not read yet when it died is lost with it.
            output = state / "jobs" / "output" / f"{job_id}.stdout"
            while not output.exists() or output.read_bytes() != b"up\n":
                await asyncio.sleep(0.02)
    finally:
        server.kill()
        server.wait()
    async with asyncio.timeout(20):
        while marked(marker):
            await asyncio.sleep(0.02)
    jobs = JobStore(state, "system")
    try:
        lost = await jobs.status(job_id)
        assert lost.state == "lost"
        assert (await jobs.output(job_id)).text == "up\n"
        async with asyncio.timeout(20):
            while list(Path(cgroups.cgroup_parent() or "/nowhere").glob(f"*-{job_id}")):
                await asyncio.sleep(0.02)
    finally:
        # Until here the forked child held the server's descriptors open.
        server.stdin.close()
        server.stdout.close()
        await jobs.close()


@pytest.mark.skipif("cgroup" not in MEANS, reason="needs a writable cgroup v2")
async def test_cgroups_of_servers_that_are_gone_are_emptied_at_the_next_start(
    jobs: JobStore, marker: str
) -> None:
    parent = Path(cgroups.cgroup_parent() or "")
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = parent / f"hostwright-{gone.pid}-1-{marker}"
    stale.mkdir()
    left = subprocess.Popen(["sleep", "1000"], env={**os.environ, "MARKER": marker})
    try:
        (stale / "cgroup.procs").write_text(str(left.pid))
        mine = parent / cgroups.cgroup_name(marker)
        mine.mkdir()
        CommandRunner(jobs)
        assert left.wait(10) == -signal.SIGKILL
        assert not stale.exists()
        assert mine.exists()
        mine.rmdir()
    finally:
        if left.poll() is None:
            left.kill()
            left.wait()
