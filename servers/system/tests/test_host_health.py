"""Health and disks: the real machine, real mounts, and odd content for the parsers."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_system.host.bounded import BoundedCalls, Silent
from hostwright_system.host.disks import disk_rows, parse_mountinfo, storage_class
from hostwright_system.host.health import (
    HealthMonitor,
    SystemHealth,
    parse_pressure,
    read_pressure,
    system_health,
    system_health_async,
)
from hostwright_system.host.sampling import MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS, SampleRing

from .host_processes import in_namespaces, running

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own interfaces")


def test_health_agrees_with_the_machine() -> None:
    health = system_health()
    assert len(health.cpu.per_core_percent) == health.cpu.logical_cores == psutil.cpu_count()
    assert all(0 <= share <= 100 for share in health.cpu.per_core_percent)
    assert 0 < health.cpu.window_seconds <= MAX_WINDOW_SECONDS
    assert health.memory.total_bytes == psutil.virtual_memory().total
    assert health.memory.used_bytes + health.memory.available_bytes == health.memory.total_bytes
    assert (health.memory.swap_used_percent is None) == (health.memory.swap_total_bytes == 0)
    booted = datetime.fromisoformat(health.booted_at)
    measured = datetime.fromisoformat(health.measured_at)
    assert booted.tzinfo == UTC
    assert (measured - booted).total_seconds() == pytest.approx(health.uptime_seconds, abs=2)
    assert health.operating_system.hostname == os.uname().nodename
    assert SystemHealth.model_validate_json(health.model_dump_json()) == health


def test_the_root_file_system_is_there_with_the_sizes_of_statvfs() -> None:
    (root,) = [d for d in system_health().disks if d.mount_point == "/"]
    real = os.statvfs("/")
    assert root.status == "ok"
    assert root.total_bytes == real.f_blocks * real.f_frsize
    assert root.inodes_total in (real.f_files, None)
    assert root.used_percent == pytest.approx(psutil.disk_usage("/").percent, abs=0.5)


def test_work_shows_in_the_share_of_the_cpu() -> None:
    monitor = HealthMonitor()
    with running([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"]):
        time.sleep(0.4)
        cpu = monitor.read().cpu
        assert 0.4 <= cpu.window_seconds < MAX_WINDOW_SECONDS, "the reading at the start is used"
        assert max(cpu.per_core_percent) > 20
        assert cpu.used_percent > 0
    again = monitor.read().cpu
    assert again.window_seconds >= MIN_WINDOW_SECONDS


async def test_the_event_loop_goes_on_meanwhile() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    # A monitor without a reading that is old enough has to wait for one: in a thread.
    health = await system_health_async(HealthMonitor())
    ticking.cancel()
    assert health.cpu.window_seconds >= MIN_WINDOW_SECONDS
    assert ticks >= 3


async def test_a_kept_fresh_monitor_always_has_a_reading() -> None:
    monitor = HealthMonitor()
    keeping = asyncio.create_task(monitor.keep_fresh())
    await asyncio.sleep(MIN_WINDOW_SECONDS + 0.02)
    health = await system_health_async(monitor)
    assert health.cpu.window_seconds < MAX_WINDOW_SECONDS
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 200))
def test_the_base_of_a_rate_is_never_too_young_or_too_old(times: list[float], now: float) -> None:
    ring: SampleRing[float] = SampleRing()
    for at in sorted(times):
        ring.add(at, at)
    base = ring.base(now)
    if base is not None:
        age, value = base
        assert MIN_WINDOW_SECONDS <= age <= MAX_WINDOW_SECONDS
        assert age == now - value


# Disks


def line(point: str, kind: str, number: str = "0:50", source: str = "x") -> bytes:
    return f"36 35 {number} / {point} rw,relatime shared:1 - {kind} {source} rw".encode()


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        ("ext4", "254:0", "local"),
        ("xfs", "8:1", "local"),
        ("btrfs", "0:30", "local"),
        ("zfs", "0:31", "local"),
        ("nfs4", "0:40", "network"),
        ("cifs", "0:41", "network"),
        ("fuse.sshfs", "0:42", "fuse"),
        ("fuseblk", "8:2", "fuse"),
        ("tmpfs", "0:43", "memory"),
        ("overlay", "0:44", "overlay"),
        ("proc", "0:1", None),
        ("cgroup2", "0:2", None),
        ("autofs", "0:3", None),
        ("fuse.portal", "0:4", None),
        ("a-new-pseudo-fs", "0:5", None),
    ],
)
def test_what_stands_behind_a_mount(kind: str, number: str, expected: str | None) -> None:
    (mount,) = parse_mountinfo(line("/x", kind, number))
    assert storage_class(mount) == expected


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_mount_points_are_unescaped(name: str) -> None:
    raw = os.fsencode(f"/{name}")
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in raw)
    data = b"36 35 0:50 / " + escaped + b" rw - tmpfs none rw\n"
    (mount,) = parse_mountinfo(data)
    assert os.fsencode(mount.mount_point) == raw


@given(st.binary(max_size=300))
def test_no_mountinfo_breaks_the_reader(data: bytes) -> None:
    assert len(list(parse_mountinfo(data))) <= len(data.splitlines())


TMPFS = """
import json, os, pathlib, subprocess, sys
from hostwright_system.host.disks import disk_rows
a = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '{folder}')
b, over = a / 'second name', a / 'first'
over.mkdir(); b.mkdir()
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m,nr_inodes=10', 'small', over], check=True)
(over / 'file').write_bytes(b'x' * 524288)
subprocess.run(['mount', '--bind', over, b], check=True)
rows = [r for r in disk_rows()[0] if r.device == 'small']
without = [r for r in disk_rows(with_memory=False)[0] if r.device == 'small']
print(json.dumps([[r.model_dump() for r in rows], len(without)]))
"""


@linux_only
def test_a_small_file_system_is_measured(tmp_path: Path) -> None:
    rows, in_health = in_namespaces(TMPFS.format(folder=tmp_path), "--mount")
    (row,) = rows
    assert row["mount_point"] == f"{tmp_path}/first"
    assert row["other_mount_points"] == [f"{tmp_path}/second name"]
    assert (row["storage"], row["status"], row["read_only"]) == ("memory", "ok", False)
    assert (row["total_bytes"], row["used_bytes"]) == (1 << 20, 1 << 19)
    assert row["used_percent"] == 50.0
    assert (row["inodes_total"], row["inodes_used"], row["inodes_used_percent"]) == (10, 2, 20.0)
    assert in_health == 0, "what lives in memory is no disk"


# A FUSE mount whose server never says a word: statvfs hangs, as it does on a dead NFS server.
DEAD = """
import ctypes, json, os, time
from hostwright_system.host import disks
fd = os.open('/dev/fuse', os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
data = f'fd={{fd}},rootmode=40000,user_id=0,group_id=0'.encode()
if libc.mount(b'dead', {folder!r}.encode(), b'fuse', 0, data):
    raise OSError(ctypes.get_errno(), 'mount')
answers = []
for _ in range(3):
    began = time.monotonic()
    rows = disks.disk_rows()[0]
    answers.append([next(r.model_dump() for r in rows if r.device == 'dead'),
                    any(r.mount_point == '/' and r.status == 'ok' for r in rows),
                    time.monotonic() - began])
import threading
print(json.dumps([answers, threading.active_count()]), flush=True)
os._exit(0)
"""


@linux_only
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE")
def test_a_dead_mount_hangs_nothing(tmp_path: Path) -> None:
    answers, threads = in_namespaces(DEAD.format(folder=str(tmp_path)), "--mount")
    for row, root_is_fine, _ in answers:
        assert (row["status"], row["total_bytes"], row["storage"]) == (
            "not_answering",
            None,
            "fuse",
        )
        assert "has not answered" in row["reason"]
        assert root_is_fine
    assert answers[0][2] >= 0.9, "the first question waits the full time"
    assert all(seconds < 0.9 for *_, seconds in answers[1:]), "later ones do not wait again"
    assert threads == 2, "one thread hangs, however often it was asked"


def test_calls_that_hang_are_started_once_and_answer_later() -> None:
    release, started = threading.Event(), []
    calls: BoundedCalls[int] = BoundedCalls()

    def hang() -> int:
        started.append(1)
        release.wait()
        return 7

    def fail() -> int:
        raise OSError(5, "broken")

    first = calls.run({"a": hang, "b": lambda: 3, "c": fail}, timeout_seconds=0.05)
    assert first["b"] == 3
    assert isinstance(first["a"], Silent)
    assert isinstance(first["c"], OSError)
    second = calls.run({"a": hang}, timeout_seconds=0.05)["a"]
    assert isinstance(second, Silent)
    assert second.seconds >= 0.05
    assert len(started) == 1
    release.set()
    answers = (calls.run({"a": hang}, timeout_seconds=1)["a"] for _ in range(200))
    assert any(answer == 7 for answer in answers)


def test_programming_errors_are_not_swallowed() -> None:
    calls: BoundedCalls[int] = BoundedCalls()
    with pytest.raises(ZeroDivisionError):
        calls.run({"a": lambda: 1 // 0}, timeout_seconds=1)


# Pressure


@linux_only
def test_pressure_of_the_machine_or_the_reason() -> None:
    pressure = read_pressure()
    if Path("/proc/pressure/memory").exists():
        assert pressure.memory is not None
        assert pressure.unavailable_reason is None
        assert pressure.memory.some.total_microseconds >= 0
    else:
        assert pressure.unavailable_reason is not None


def test_absent_pressure_is_null_with_a_reason(tmp_path: Path) -> None:
    pressure = read_pressure(str(tmp_path))
    assert pressure.cpu is pressure.memory is pressure.io is None
    assert "no /proc/pressure" in str(pressure.unavailable_reason)


def test_one_pressure_file_that_is_not_understood_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text("nonsense")
    for name in ("memory", "io"):
        (tmp_path / name).write_text("some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n")
    pressure = read_pressure(str(tmp_path))
    assert pressure.cpu is None
    assert "not understood" in str(pressure.unavailable_reason)
    assert pressure.memory is not None
    assert pressure.memory.some.avg_60s_percent == 2.0
    assert pressure.memory.full is None


@given(st.text(max_size=120))
def test_pressure_is_read_or_refused(content: str) -> None:
    with pytest.raises(ValueError):
        parse_pressure(content)


def test_disks_are_one_row_each() -> None:
    rows, _ = disk_rows()
    points = [r.mount_point for r in rows]
    assert len(points) == len(set(points))
    assert points == sorted(points)
