"""Signals to real processes, and to those that must never get one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.host.processes import ProcessLister
from hostwright_system.host.procfs import Proc
from hostwright_system.host.signals import SIGNALS, SignalName, process_signal
from hostwright_system.host.suite import SuiteProcesses

from .host_processes import in_namespaces, python, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfds")

IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with running(python("")) as process:
        yield process


def start_of(pid: int) -> int:
    stat = Proc().stat(pid)
    assert stat is not None
    return stat.start_ticks


async def test_the_expected_process_is_ended(child: subprocess.Popen[str]) -> None:
    start = start_of(child.pid)
    stat = Proc().stat(child.pid)
    assert stat is not None
    result = await process_signal(
        child.pid,
        "TERM",
        expected_start_time_ticks=start,
        expected_name=stat.name,
        wait_seconds=10,
    )
    assert (result.ended, result.pinned, result.identity_compared) == (True, True, True)
    assert (result.pid, result.start_time_ticks, result.signal) == (child.pid, start, "TERM")
    assert child.wait() == -signal.SIGTERM


async def test_what_does_not_end_is_told() -> None:
    with running(python(IGNORES_TERM)) as child:
        result = await process_signal(child.pid, "TERM", wait_seconds=0.1)
        assert (result.ended, result.identity_compared) == (False, False)
        assert result.waited_seconds >= 0.1
        assert child.poll() is None
        assert (await process_signal(child.pid, "KILL", wait_seconds=10)).ended


async def test_stop_and_continue(child: subprocess.Popen[str]) -> None:
    def state() -> str:
        stat = Proc().stat(child.pid)
        assert stat is not None
        return stat.state

    async def reaches(wanted: str) -> None:
        for _ in range(500):
            if (state() == "T") == (wanted == "T"):
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"state is {state()}")

    assert not (await process_signal(child.pid, "STOP", wait_seconds=0)).ended
    await reaches("T")
    await process_signal(child.pid, "CONT", wait_seconds=0)
    await reaches("S")


async def test_every_allowed_signal_arrives() -> None:
    code = (
        "import signal\n"
        "for n in (1, 2, 3, 10, 12, 15):\n"
        "    signal.signal(n, lambda n, _: print(signal.Signals(n).name[3:], flush=True))"
    )
    with running(python(code)) as child:
        assert child.stdout is not None
        names: tuple[SignalName, ...] = ("HUP", "INT", "QUIT", "USR1", "USR2", "TERM")
        for name in names:
            await process_signal(child.pid, name, wait_seconds=0)
            assert child.stdout.readline().strip() == name
    assert {*names, "KILL", "STOP", "CONT"} == set(SIGNALS)


@pytest.mark.parametrize("expected", [{"expected_start_time_ticks": 1}, {"expected_name": "init"}])
async def test_another_process_than_expected_gets_nothing(
    child: subprocess.Popen[str], expected: dict[str, object]
) -> None:
    with pytest.raises(HostError, match="not the expected one") as caught:
        await process_signal(child.pid, "KILL", **expected)  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "identity_mismatch"
    assert child.poll() is None


REUSED = """
import asyncio, json, os, subprocess, sys, time
from hostwright_kit.errors import HostError
from hostwright_system.host.procfs import Proc
from hostwright_system.host.signals import process_signal
sleeper = [sys.executable, '-c', 'import time; time.sleep(60)']
if os.fork():
    os.wait(); os._exit(0)
subprocess.run(['mount', '-t', 'proc', 'proc', '/proc'], check=True)
first = subprocess.Popen(sleeper)
start = Proc().stat(first.pid).start_ticks
first.kill(); first.wait()
time.sleep(0.05)
open('/proc/sys/kernel/ns_last_pid', 'w').write(str(first.pid - 1))
second = subprocess.Popen(sleeper)
try:
    asyncio.run(process_signal(first.pid, 'KILL', expected_start_time_ticks=start))
    code = 'sent'
except HostError as error:
    code = error.code
time.sleep(0.05)
print(json.dumps([first.pid == second.pid, code, second.poll()]))
sys.stdout.flush()
second.kill(); second.wait()
"""


def test_a_reused_pid_is_not_hit() -> None:
    same_pid, code, status = in_namespaces(REUSED, "--pid", "--mount")
    assert same_pid, "the kernel gave the pid out again"
    assert (code, status) == ("identity_mismatch", None)


async def test_what_must_never_be_signalled() -> None:
    with running(python("")) as child:
        for pid in (1, os.getpid(), child.pid):
            with pytest.raises(HostError, match="never signalled") as caught:
                await process_signal(pid, "TERM", protected={child.pid: "it is kept"}.get)
            assert caught.value.code == "denied"
        assert child.poll() is None


SLEEPER = [sys.executable, "-c", "print('ready', flush=True); input()"]
# A grandchild, so that it is no child of the process that asks.
STRANGER = f"""
import subprocess, sys
child = subprocess.Popen({SLEEPER!r} + sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
child.kill()
"""


@pytest.mark.parametrize(
    ("mark", "said"), [({"HOSTWRIGHT_CHILD": "x"}, "looks after it"), ({}, None)]
)
def test_what_the_supervisor_started_is_known_by_its_mark(
    tmp_path: Path, mark: dict[str, str], said: str | None
) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "HOSTWRIGHT_CHILD"}
    with running([sys.executable, "-c", STRANGER], env=plain | mark, ready=False) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        why = SuiteProcesses(tmp_path).why(pid)
        assert (why is None) if said is None else (why and said in why)
        assert parent.stdin is not None
        parent.stdin.write("end\n")
        parent.stdin.flush()
        parent.wait()


def test_the_daemon_is_known_by_its_pid_file_and_a_reused_number_is_not(tmp_path: Path) -> None:
    for arguments, found in (["hostwright", "up"], True), (["other"], False):
        with running([sys.executable, "-c", STRANGER, *arguments], ready=False) as parent:
            assert parent.stdout is not None
            (tmp_path / "daemon.pid").write_text(parent.stdout.readline())
            pid = int((tmp_path / "daemon.pid").read_text())
            assert (SuiteProcesses(tmp_path).why(pid) == "it is the supervisor") is found
            assert parent.stdin is not None
            parent.stdin.write("end\n")
            parent.stdin.flush()
            parent.wait()


def test_the_wardens_of_commands_are_known_as_children(
    child: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert "job_cancel" in (SuiteProcesses(tmp_path).why(child.pid) or "")
    assert SuiteProcesses(tmp_path, (os.getppid(),)).why(os.getppid())


async def test_kernel_threads_are_refused() -> None:
    threads = [r.pid for r in ProcessLister().rows()[0] if r.kernel_thread]
    if not threads:
        pytest.skip("no kernel thread is visible from inside this container")
    with pytest.raises(HostError, match="kernel thread") as caught:
        await process_signal(threads[0], "KILL")
    assert caught.value.code == "denied"


@pytest.mark.parametrize("pid", [0, -1, -12345, 1 << 23])
async def test_numbers_that_mean_no_process_are_refused(pid: int) -> None:
    with pytest.raises(HostError) as caught:
        await process_signal(pid, "KILL")
    assert caught.value.code == "invalid_pid"


async def test_a_thread_is_no_process() -> None:
    ids: list[int] = []
    known, done = threading.Event(), threading.Event()

    def work() -> None:
        ids.append(threading.get_native_id())
        known.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    known.wait()
    try:
        with pytest.raises(HostError) as caught:
            await process_signal(ids[0], "TERM")
        assert caught.value.code in ("invalid_pid", "not_found")
    finally:
        done.set()
        thread.join()


async def test_a_process_that_ended_is_not_found() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):  # as a zombie, then reaped
        with pytest.raises(HostError) as caught:
            await process_signal(child.pid, "TERM")
        assert caught.value.code == "not_found"
        child.wait()


@pytest.mark.parametrize(
    ("name", "wait", "code"),
    [("SEGV", 1, "invalid_signal"), ("9", 1, "invalid_signal"), ("TERM", 21, "invalid_wait")],
)
async def test_other_signals_and_waits_are_refused(
    child: subprocess.Popen[str], name: str, wait: float, code: str
) -> None:
    with pytest.raises(HostError) as caught:
        await process_signal(child.pid, name, wait_seconds=wait)  # pyright: ignore[reportArgumentType]
    assert caught.value.code == code
    assert child.poll() is None


def _signal_as_nobody(pid: int) -> str:
    """Forks a nobody that tries, and gives back the code of the error it met."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            asyncio.run(process_signal(pid, "KILL"))
            os.write(writer, b"sent")
        except HostError as error:
            os.write(writer, error.code.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return answer.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_permission_it_says_so() -> None:
    with running(python("")) as child:
        assert _signal_as_nobody(child.pid) == "no_permission"
        assert child.poll() is None


async def test_waiting_stops_nobody_and_can_be_cancelled() -> None:
    with running(python(IGNORES_TERM)) as child:
        waiting = asyncio.create_task(process_signal(child.pid, "TERM", wait_seconds=20))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is wanted
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(os.listdir("/proc/self/fd")) == open_files - 1, "the pidfd is closed"  # noqa: PTH208
