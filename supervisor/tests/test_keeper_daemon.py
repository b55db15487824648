"""What outlives a daemon: locks, records, and the processes of one that was killed. All real."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hostwright.keeper import inherited, processes
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.pidfile import DaemonLock, daemon_pid
from hostwright.keeper.processes import ProcessId
from hostwright.keeper.records import Records
from hostwright_kit.errors import HostError

# Two servers: one plain, one with a daemonised grandchild that ignores SIGTERM; and a helper that
# stays in the second one's session after its leader is gone.
DAEMON = """
import asyncio, sys
from pathlib import Path
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.status import Health
from hostwright.manifest import Manifest

PLAIN = "import sys, os; print(os.getpid(), flush=True)\\nfor line in sys.stdin: pass"
ESCAPER = '''
import os, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getpid()).encode())
        os.execv("/bin/sh", ["sh", "-c", "trap '' TERM; while :; do sleep 600; done"])
    os._exit(0)
os.wait()
helper = os.fork()
if helper == 0:
    os.execv("/bin/sleep", ["sleep", "600"])
print(os.getpid(), int(os.read(read, 20)), helper, flush=True)
for line in sys.stdin: pass
'''

async def probe(target):
    if not hasattr(target, "said"):
        target.said = (await target.stdout.readline()).split()
    return Health(latency_ms=1, tools=0)

def manifest(name, source):
    return Manifest(name=name, command=(sys.executable, "-c", source), stop_timeout_seconds=4)

async def main(run, state):
    manifests = [manifest("plain", PLAIN), manifest("escaper", ESCAPER)]
    async with Keeper(manifests, runtime_dir=run, state_dir=state, probe=probe) as keeper:
        await keeper.start_all()
        for name in keeper.names:
            print(*[int(pid) for pid in keeper.target(name).said], flush=True)
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print("down", flush=True)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


class Daemon:
    """A keeper in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.run, self.state = folder / "run", folder / "state"
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(self.run), str(self.state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.plain = int(self.process.stdout.readline())
        self.escaper = [int(pid) for pid in self.process.stdout.readline().split()]
        assert self.process.stdout.readline() == "up\n"

    @property
    def pids(self) -> list[int]:
        return [self.plain, *self.escaper]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    one = Daemon(tmp_path)
    yield one
    one.kill()
    await open_and_close(tmp_path)
    wait_gone(*one.pids)


def running(pid: int) -> bool:
    row = processes.table().get(pid)
    return row is not None and not row.zombie


def wait_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {[p for p in pids if running(p)]}"
        time.sleep(0.01)


async def open_and_close(folder: Path) -> Any:
    async def never(_: Any) -> Any:
        raise AssertionError("nothing runs here")

    keeper = Keeper([], runtime_dir=folder / "run", state_dir=folder / "state", probe=never)
    survivors = await keeper.open()
    await keeper.close()
    return survivors


async def test_an_orderly_end_leaves_nothing(daemon: Daemon) -> None:
    assert all(running(pid) for pid in daemon.pids)
    out, _ = await asyncio.to_thread(daemon.process.communicate, "\n", timeout=60)
    assert out == "down\n"
    assert daemon.process.returncode == 0
    assert [pid for pid in daemon.pids if processes.identity(pid)] == []
    assert json.loads((daemon.run / "children.json").read_text())["children"] == {}
    assert daemon_pid(daemon.run) is None


async def test_after_kill_9_the_servers_die_and_the_next_start_ends_the_rest(
    daemon: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leader, escaped, helper = daemon.escaper
    daemon.kill()
    wait_gone(daemon.plain, leader)  # by the kernel, at once
    assert running(escaped)
    assert running(helper)
    with caplog.at_level(logging.WARNING):
        survivors = await open_and_close(tmp_path)
    wait_gone(escaped, helper)
    assert survivors.servers == ("escaper",)
    assert survivors.left == ()
    assert survivors.ended >= 2
    lines = [record.message for record in caplog.records]
    assert [line for line in lines if f"names pid {daemon.process.pid}" in line]
    assert [line for line in lines if "that an earlier daemon left of escaper" in line]
    assert (await open_and_close(tmp_path)).ended == 0


async def test_a_leader_that_survived_is_ended_with_its_session(tmp_path: Path) -> None:
    # As on a system without PR_SET_PDEATHSIG: a leader that nothing killed, in the record.
    (tmp_path / "run").mkdir(mode=0o700)
    script = "sleep 600 & echo $!; exec sleep 600"
    leader = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, env={}
    )
    assert leader.stdout
    inner = int(leader.stdout.readline())
    identity = processes.identity(leader.pid)
    assert identity
    records = Records(tmp_path / "run")
    await records.begin("a-mark", "server")
    await records.started("a-mark", identity)
    survivors = await open_and_close(tmp_path)
    assert survivors.servers == ("server",)
    assert survivors.ended == 2
    wait_gone(inner, leader.pid)
    leader.wait()


async def test_a_record_with_a_reused_pid_never_touches_the_foreign_process(
    tmp_path: Path,
) -> None:
    foreign = subprocess.Popen(["sleep", "600"], start_new_session=True)
    marked = subprocess.Popen(
        ["sleep", "600"], start_new_session=True, env={**os.environ, inherited.MARK: "other-mark"}
    )
    try:
        (tmp_path / "run").mkdir(mode=0o700)
        records = Records(tmp_path / "run")
        for number, process in enumerate((foreign, marked)):
            now = processes.identity(process.pid)
            assert now
            earlier = ProcessId(now.pid, now.started - 1)
            await records.begin(f"mark-{number}", "old")
            await records.started(f"mark-{number}", earlier)
            content = json.loads((tmp_path / "run/children.json").read_text())
            content["children"][f"mark-{number}"]["seen"] = [[now.pid, now.started + 1]]
            (tmp_path / "run/children.json").write_text(json.dumps(content))
        assert (await open_and_close(tmp_path)).ended == 0
        assert foreign.poll() is None
        assert marked.poll() is None
    finally:
        for process in (foreign, marked):
            process.kill()
            process.wait()


async def test_a_record_of_another_boot_is_forgotten(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "600"], env={inherited.MARK: "m"}, start_new_session=True)
    try:
        now = processes.identity(process.pid)
        (tmp_path / "run").mkdir(mode=0o700)
        child = {"name": "x", "leader": now, "seen": []}
        content = {"version": 1, "boot": "another", "children": {"m": child}}
        (tmp_path / "run/children.json").write_text(json.dumps(content))
        assert (await open_and_close(tmp_path)).ended == 0
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


async def test_a_started_process_whose_pid_was_never_written_is_found_by_its_mark(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    await Records(tmp_path / "run").begin("only-a-mark", "server")
    process = subprocess.Popen(["sleep", "600"], env={inherited.MARK: "only-a-mark"})
    survivors = await open_and_close(tmp_path)
    assert (survivors.servers, survivors.ended) == (("server",), 1)
    wait_gone(process.pid)
    process.wait()


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2}', b"\xff\xfe", b"[]"])
async def test_a_damaged_record_is_kept_aside_and_nothing_is_guessed(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run/children.json").write_bytes(content)
    assert (await open_and_close(tmp_path)).ended == 0
    assert (tmp_path / "run/children.damaged").read_bytes() == content
    assert "damaged" in caplog.text


async def test_two_daemons_on_the_same_state_are_refused(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon_pid(daemon.run) == daemon.process.pid
    with pytest.raises(HostError, match=f"pid {daemon.process.pid} runs") as caught:
        await open_and_close(tmp_path)
    assert caught.value.code == "already_running"
    assert "hostwright down" in caught.value.fix
    # Another runtime folder, the same state: refused as well.
    (tmp_path / "other").mkdir(mode=0o700)
    with (
        pytest.raises(HostError, match="Another daemon"),
        DaemonLock(tmp_path / "other", daemon.state),
    ):
        pass
    assert daemon_pid(tmp_path / "other") is None
    assert all(running(pid) for pid in daemon.pids)


def test_asking_for_the_daemon_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    lock = DaemonLock(tmp_path, tmp_path)
    source = """
        import sys
        from pathlib import Path
        from hostwright.keeper.pidfile import daemon_pid
        print(1, flush=True)
        while True: daemon_pid(Path(sys.argv[1]))
    """
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), str(tmp_path)], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for asker in askers:
            assert asker.stdout
            asker.stdout.readline()
        for _ in range(20):
            lock.acquire()
            assert daemon_pid(tmp_path) == os.getpid()
            lock.release()
    finally:
        for asker in askers:
            asker.kill()
            asker.wait()
    assert daemon_pid(tmp_path) is None


def test_a_stale_pid_file_is_replaced_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "daemon.pid").write_text("4194304\n")
    assert daemon_pid(tmp_path) is None
    with DaemonLock(tmp_path, tmp_path):
        assert daemon_pid(tmp_path) == os.getpid()
    assert len(caplog.records) == 1
    assert "4194304" in caplog.text
    caplog.clear()
    with DaemonLock(tmp_path, tmp_path):
        pass
    assert caplog.records == []


def test_a_pid_file_full_of_nonsense_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "daemon.pid").write_bytes(b"\xff" * 100)
    with DaemonLock(tmp_path, tmp_path):
        assert daemon_pid(tmp_path) == os.getpid()


async def test_a_folder_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(HostError):
        await open_and_close(tmp_path)
    (tmp_path / "run").unlink()
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/daemon.lock").mkdir()
    with pytest.raises(HostError, match="lock file"):
        await open_and_close(tmp_path)
    await asyncio.sleep(0)
    assert daemon_pid(tmp_path / "run") is None  # what was locked already is free again
