"""Limits: whatever status claims of them is true on the machine that the test runs on."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hostwright.keeper import processes
from hostwright.keeper.groups import PREFIX, Group, Groups
from hostwright.keeper.machine import State
from hostwright.keeper.status import ServerCrashed
from hostwright.manifest_rules import Limits

from .keeper_world import Open, manifest

# "eat" takes 300 MB, "fork" starts forty processes, each of which stays.
HUNGRY = """
import os, subprocess, sys, time
for line in sys.stdin:
    word = line.strip()
    if word == "eat":
        try:
            food = bytearray(300 * 2**20)
            for at in range(0, len(food), 4096): food[at] = 1
        except MemoryError:
            print("no memory left", file=sys.stderr, flush=True); sys.exit(9)
    if word == "fork":
        count = 0
        try:
            for _ in range(40):
                if os.fork() == 0: time.sleep(600)
                count += 1
        except OSError: pass
        print("forked", count, file=sys.stderr, flush=True)
        continue
    print("ok", flush=True)
"""


async def test_memory_is_held_and_its_end_is_told(suite: Open) -> None:
    s = await suite(manifest("a", HUNGRY, limits={"memory_mb": 100, "open_files": 64}))
    await s.keeper.start_all()
    limits = s.row("a").limits
    pid = s.child("a").pid
    assert limits["open_files"] == "rlimit"
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (64, 64)
    held = limits["memory"]
    assert held in ("cgroup1", "cgroup2", "rlimit")
    s.say("a", "eat")
    await s.when("a", lambda row: row.pid not in (None, pid) and row.state is State.READY)
    reason = s.of(ServerCrashed)[0].reason
    if held == "rlimit":
        assert reason == "exited with code 9"
    else:
        assert reason == "killed by SIGKILL: it reached its limit of 100 MB memory"


async def test_processes_are_held_or_it_says_that_they_are_not(suite: Open) -> None:
    s = await suite(manifest("a", HUNGRY, limits={"processes": 8, "cpu_percent": 50}))
    await s.keeper.start_all()
    limits = s.row("a").limits
    assert set(limits) == {"processes", "cpu"}
    s.say("a", "fork")
    row = await s.when("a", lambda row: any("forked" in line for line in row.last_stderr))
    count = int(row.last_stderr[-1].split()[1])
    if limits["processes"].startswith("cgroup"):
        assert count < 8
    else:
        assert limits["processes"].startswith("not enforced (")
        assert count == 40
    group = s.child("a").family.mark
    assert (await s.keeper.stop("a")).ok
    assert s.row("a").limits == {}
    assert [p for p in processes.table() if processes.mark_of(p) == group] == []


def homes() -> set[Path]:
    return Groups().homes()


def of_ours() -> list[Path]:
    mine = f"{PREFIX}{os.getpid()}-"
    return [one for home in homes() for one in home.glob(f"{mine}*") if one.is_dir()]


async def test_groups_are_gone_with_their_servers(suite: Open) -> None:
    s = await suite(manifest("a", limits={"memory_mb": 200}))
    await s.keeper.start_all()
    assert bool(of_ours()) == s.row("a").limits["memory"].startswith("cgroup")
    os.kill(s.child("a").pid, 9)
    await s.when("a", lambda row: row.restarts == 1 and row.state is State.READY)
    assert len(of_ours()) <= 1
    await s.keeper.stop("a")
    assert of_ours() == []


async def test_whoever_hides_from_every_other_sign_ends_with_the_group(suite: Open) -> None:
    hides = """
        import os, subprocess, sys
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sleep", ["sleep", "600"], {})
        for line in sys.stdin: print("ok", flush=True)
    """
    s = await suite(manifest("a", hides, limits={"processes": 50}))
    await s.keeper.start_all()
    held = s.row("a").limits["processes"]
    row = await s.when("a", lambda row: row.memory_bytes is not None)
    children = processes.children_of(row.pid or 0)
    assert len(children) == 1
    assert (await s.keeper.stop("a")).ok
    if held.startswith("cgroup"):
        assert processes.runs(processes.identity(children[0])) is False


@pytest.mark.skipif(not homes(), reason="this machine lends this user no control group")
async def test_groups_of_a_daemon_that_is_gone_are_ended() -> None:
    home = sorted(homes())[0]
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = home / f"{PREFIX}{gone.pid}-1-a"
    left.mkdir()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        (left / "cgroup.procs").write_text(str(sleeper.pid))
        assert await asyncio.to_thread(Groups().remove_stale) >= 1
        assert sleeper.wait(20) == -9
        assert not left.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def cgroup2(tmp_path: Path, *, beside: str = "") -> tuple[Groups, Path]:
    """A v2 hierarchy drawn with ordinary files, as a delegated unit would show it."""
    own = tmp_path / "cg/user.slice/hostwright.service"
    (tmp_path / "proc/self").mkdir(parents=True)
    own.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/hostwright.service\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        f"31 23 0:28 / {tmp_path}/cg rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (own / "cgroup.procs").write_text(beside)
    return Groups(proc=tmp_path / "proc"), own


def test_what_a_delegated_v2_group_is_told(tmp_path: Path) -> None:
    groups, own = cgroup2(tmp_path)
    limits = Limits(memory_mb=64, cpu_percent=150, processes=10)
    group = groups.make("a", limits)
    assert group.enforced == dict.fromkeys(("memory", "cpu", "processes"), "cgroup2")
    (folder,) = own.glob(f"{PREFIX}{os.getpid()}-*-a")
    assert (folder / "memory.max").read_text() == str(64 * 2**20)
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert (folder / "pids.max").read_text() == "10"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 0\n")
    assert not group.out_of_memory()
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n")
    assert group.out_of_memory()


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    groups = Groups(proc=tmp_path)
    group = groups.make("a", Limits(cpu_percent=10, memory_mb=64))
    assert group.enforced["cpu"] == "not enforced (this system has no control groups)"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        group.join(child.pid)
        assert group.enforced["memory"] == "rlimit"
        assert resource.prlimit(child.pid, resource.RLIMIT_DATA)[0] == 64 * 2**20
    finally:
        child.communicate()
    assert Group(Limits(), {}).end() == ()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount, and sees the empty v2 tree")
def test_the_kernels_own_kill_ends_a_whole_group() -> None:
    tree = Path("/sys/fs/cgroup/unified")
    tree = tree if tree.is_dir() else Path("/sys/fs/cgroup")
    folder = tree / f"{PREFIX}{os.getpid()}-0-kill"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no writable v2 tree: {error}")
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        (folder / "cgroup.procs").write_text(str(sleeper.pid))
        assert Group(Limits(), {folder: 2}).end() == ()
        assert sleeper.wait(20) == -9
        assert not folder.exists()
    finally:
        sleeper.kill()
        sleeper.wait()
