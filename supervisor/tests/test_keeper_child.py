"""One process: pipes, exits, stubborn and escaping descendants, nothing left. All real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hostwright.keeper import inherited, processes
from hostwright.keeper.child import MAX_LINE_BYTES, Child, Launch
from hostwright.keeper.logs import ServerLog, tail
from hostwright.keeper.processes import Family
from hostwright_kit.errors import HostError

Start = Callable[..., Awaitable[Child]]

ECHO = """
import sys
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line); sys.stdout.buffer.flush()
"""
# Daemonises the classic way, with the environment emptied when asked to.
ESCAPE = """
import os, sys
def escape(clear):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            os.execve('/bin/sleep', ['sleep', '600'], {} if clear else dict(os.environ))
        os._exit(0)
    os.wait()
    return int(os.read(read, 20))
"""

ORDINARY_SIGNALS = (1 << 31) - 1
"""1 to 31; the C library keeps two more for itself, which make's children inherit as ignored."""


@pytest.fixture(params=["linux", "portable", "without waitid"])
async def start(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Start Python source as a child, with Linux's means and with those that macOS has too;
    whatever a test leaves is stopped."""
    processes.become_subreaper()
    linux = request.param == "linux"
    monkeypatch.setattr(processes, "LINUX", linux)
    if request.param == "without waitid":
        monkeypatch.delattr(os, "waitid")
    log = ServerLog(tmp_path / "x.log", str)
    children: list[Child] = []

    async def run(source: str, **extra: object) -> Child:
        env = {"PATH": os.environ["PATH"], "A": "b"}
        what = Launch.model_validate(
            {"name": "x", "argv": (sys.executable, "-c", textwrap.dedent(source)), "env": env}
            | extra
        )
        what = what.model_copy(update={"env": {**what.env, inherited.MARK: what.mark}})
        child = await Child.start(what, log, use_pidfd=linux)
        children.append(child)
        return child

    yield run
    for child in children:
        await child.stop(timeout_seconds=0.2)
    log.close()


def gone(pid: int) -> bool:
    return processes.identity(pid) is None


async def line(child: Child) -> str:
    return (await asyncio.wait_for(child.stdout.readline(), 20)).decode().strip()


async def test_lines_of_sixteen_mebibytes_go_both_ways(start: Start) -> None:
    child = await start(ECHO)
    for size in (1, 100_000, MAX_LINE_BYTES - 1):
        message = b"x" * size + b"\n"
        child.stdin.write(message)
        back = await asyncio.wait_for(child.stdout.readline(), 60)
        assert back == message
    result = await child.stop(timeout_seconds=20)
    assert result.how == "stdin_closed"
    assert result.exit
    assert result.exit.code == 0
    assert result.left == ()
    assert gone(child.pid)
    assert await child.stdout.read() == b""
    assert await child.stop(timeout_seconds=1) == result  # the same, not a second time


async def test_the_child_finds_an_ordinary_world(start: Start, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"key")
    os.close(write)
    child = await start(
        """
        import ctypes, os, signal, sys
        death = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(death))
        print(os.getcwd(), os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), death.value,
              signal.getsignal(signal.SIGINT) == signal.default_int_handler,
              open('/proc/self/status').read().split('SigIgn:')[1].split()[0],
              os.read(int(os.environ['HOSTWRIGHT_LINK_FD']), 9).decode(),
              len(os.listdir('/proc/self/fd')), flush=True)
        print(*sorted(os.environ), flush=True)
        """,
        cwd=tmp_path,
        pass_fds=(read,),
        env={"PATH": os.environ["PATH"], "HOSTWRIGHT_LINK_FD": str(read)},
    )
    os.close(read)
    death = str(int(signal.SIGKILL)) if processes.LINUX else "0"
    words = (await line(child)).split()
    assert words[:5] == [str(tmp_path), "True", "True", death, "True"]
    ignored = int(words[5], 16) & ORDINARY_SIGNALS
    assert ignored == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)  # by this Python itself
    assert words[6] == "key"
    assert int(words[7]) == 5  # three pipes, the passed one, the listing itself
    # A Python in the C locale adds LC_CTYPE for itself.
    names = set((await line(child)).split()) - {"LC_CTYPE"}
    assert names == {"HOSTWRIGHT_CHILD", "HOSTWRIGHT_LINK_FD", "PATH"}


async def test_a_shell_gets_default_signals(start: Start) -> None:
    child = await start("", argv=("sh", "-c", "grep SigIgn /proc/self/status"))
    assert int((await line(child)).split()[1], 16) & ORDINARY_SIGNALS == 0


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise SystemExit(3)", "exited with code 3"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("pass", "exited with code 0"),
    ],
)
async def test_its_end_is_seen_and_told_truly(start: Start, source: str, text: str) -> None:
    child = await start(source)
    ended = await asyncio.wait_for(child.wait(), 20)
    assert str(ended) == text
    if hasattr(os, "waitid"):
        # Not reaped before `stop`, so that nobody else can get its pid.
        row = processes.table()[child.pid]
        assert row.zombie
        assert row.id == child.id
    result = await child.stop(timeout_seconds=5)
    assert result.how == "already_exited"
    assert gone(child.pid)


async def test_sigterm_is_enough_for_who_ignores_a_closed_stdin(start: Start) -> None:
    child = await start("import time; print(1, flush=True); time.sleep(600)")
    await line(child)
    result = await child.stop(timeout_seconds=0.4)
    assert result.how == "terminated"
    assert result.exit
    assert result.exit.signal == "SIGTERM"


async def test_who_ignores_sigterm_and_a_closed_stdin_is_killed(start: Start) -> None:
    child = await start(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
        "while True: time.sleep(600)"
    )
    await line(child)
    result = await child.stop(timeout_seconds=0.4)
    assert result.how == "killed"
    assert result.exit
    assert result.exit.signal == "SIGKILL"
    assert gone(child.pid)


async def test_the_wrapped_program_of_a_shell_ends_too(start: Start) -> None:
    # The leader goes at once; what it wraps ignores SIGTERM and holds all three pipes.
    child = await start(
        "", argv=("sh", "-c", "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 600; done' & wait")
    )
    inner = int(await line(child))
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait_for(child.wait(), 20)
    assert not gone(inner)
    result = await child.stop(timeout_seconds=5)
    assert result.descendants_ended >= 1
    assert gone(inner)


@pytest.mark.parametrize("crashes", [False, True])
async def test_descendants_that_called_setsid_are_ended(start: Start, crashes: bool) -> None:
    child = await start(
        ESCAPE + "print(escape(False), flush=True)\n" + ("os._exit(1)" if crashes else "input()")
    )
    escaped = int(await line(child))
    assert os.getsid(escaped) != child.pid
    if crashes:
        await asyncio.wait_for(child.wait(), 20)
    assert not gone(escaped)
    result = await child.stop(timeout_seconds=5)
    assert result.descendants_ended == 1
    assert gone(escaped)


async def test_one_that_emptied_its_environment_too_is_known_from_an_earlier_look(
    start: Start,
) -> None:
    # It is still somebody's child at the first look, and nobody's at the second.
    child = await start(
        """
        import os, subprocess, sys
        inner = "import os; os.setsid(); os.execve('/bin/sleep', ['sleep', '600'], {})"
        middle = (f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {inner!r}])"
                  "; print(p.pid, flush=True); input()")
        sub = subprocess.Popen([sys.executable, '-c', middle], stdin=subprocess.PIPE)
        input()
        sub.communicate(b'\\n')
        print('now', flush=True)
        input()
        """
    )
    escaped = int(await line(child))
    async with asyncio.timeout(20):
        while not Path(f"/proc/{escaped}/cmdline").read_bytes().startswith(b"sleep"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    processes.members(child.family, processes.table(), search_marks=False)
    child.stdin.write(b"\n")
    assert await line(child) == "now"
    assert processes.table()[escaped].parent != child.pid
    assert processes.mark_of(escaped) is None
    result = await child.stop(timeout_seconds=5)
    assert gone(escaped)
    assert result.left == ()


async def test_foreign_processes_are_never_members() -> None:
    foreign = subprocess.Popen(
        ["sleep", "600"], env={**os.environ, inherited.MARK: "another"}, start_new_session=True
    )
    try:
        while processes.mark_of(foreign.pid) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # execve is not quite done
        who = processes.identity(foreign.pid)
        assert who
        family = Family(
            mark="mine",
            leader=processes.ProcessId(foreign.pid, who.started - 1),  # the pid, reused
            leader_held=False,
            seen={processes.ProcessId(foreign.pid, who.started + 1)},
        )
        assert processes.members(family, processes.table()) == {}
        # Exact by pid and time, but marked as another daemon's: not ours either.
        family = Family(mark="mine", leader=who, leader_held=False, seen={who})
        assert processes.members(family, processes.table()) == {}
        assert not processes.send(processes.ProcessId(foreign.pid, who.started + 1), signal.SIGKILL)
        ended = await processes.end_family(family, grace_seconds=0)
        assert ended == (frozenset(), frozenset())
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


async def test_fifty_fast_kills_leave_no_process_and_no_descriptor(start: Start) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    pids: list[int] = []
    for _ in range(50):
        child = await start("input()", argv=("sleep", "600"))
        pids.append(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait_for(child.wait(), 20)
        result = await child.stop(timeout_seconds=5)
        assert result.left == ()
    await asyncio.sleep(0)  # transports close their pipes in the next turn of the loop
    assert [pid for pid in pids if not gone(pid)] == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the log file itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"argv": ("no-such-program",)}, "not found"),
        ({"argv": ("true",), "cwd": Path("/no/such/folder")}, "working folder"),
        ({"argv": ("true",), "env": {"PATH": "/bin", "A": "x\0y"}}, "environment"),
    ],
)
async def test_what_cannot_start_says_why_and_what_to_do(
    start: Start, change: dict[str, object], message: str
) -> None:
    with pytest.raises(HostError, match=message) as caught:
        await start("", **change)
    assert caught.value.fix


async def test_an_unexecutable_file_gives_its_reason(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no interpreter line")
    program.chmod(0o755)
    if not processes.LINUX:
        with pytest.raises(HostError, match="Exec format error"):
            await start("", argv=(str(program),))
        return
    child = await start("", argv=(str(program),))
    ended = await asyncio.wait_for(child.wait(), 20)
    assert ended.code == 126
    await child.stop(timeout_seconds=1)
    assert "Exec format error" in tail(tmp_path / "x.log", 1)[0]


async def test_a_cancelled_stop_goes_on(start: Start) -> None:
    child = await start("import time; print(1, flush=True); time.sleep(600)")
    await line(child)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await child.stop(timeout_seconds=0.4)
    result = await child.stop(timeout_seconds=0.4)
    assert result.left == ()
    assert gone(child.pid)
