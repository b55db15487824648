"""Processes: parsers against odd input, listings against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.host.commandline import MAX_COMMAND_LENGTH, shown_command
from hostwright_system.host.processes import ProcessLister, ProcessRow, psutil_rows
from hostwright_system.host.procfs import (
    CgroupPlace,
    Container,
    Proc,
    parse_cgroup,
    parse_stat,
)
from hostwright_system.host.query import system_query

from .host_processes import python, running

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HEX = "0123456789abcdef" * 4


@given(
    pid=st.integers(1, 1 << 22),
    name=st.binary(max_size=15).filter(lambda b: b"\0" not in b),
    numbers=st.lists(st.integers(0, 1 << 63), min_size=49, max_size=49),
)
def test_a_stat_line_is_read_whatever_the_name_holds(
    pid: int, name: bytes, numbers: list[int]
) -> None:
    fields = [str(n).encode() for n in numbers]
    stat = parse_stat(b"%d (%s) S " % (pid, name) + b" ".join(fields) + b"\n")
    assert (stat.pid, stat.name) == (pid, name.decode("utf-8", "backslashreplace"))
    assert (stat.state, stat.ppid) == ("S", numbers[0])
    assert stat.cpu_ticks == numbers[10] + numbers[11]
    assert (stat.start_ticks, stat.rss_pages) == (numbers[18], numbers[20])


@given(st.binary(max_size=300))
def test_a_torn_stat_line_is_refused_not_misread(data: bytes) -> None:
    try:
        stat = parse_stat(data)
    except ValueError:
        return
    assert stat.pid >= 0 or b"-" in data


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("0::/system.slice/nginx.service", CgroupPlace("nginx.service", None, None)),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service",
            CgroupPlace("getty@tty1.service", None, None),
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/_cgroup.service/x",
            CgroupPlace("user@1000.service", "cgroup.service", None),
        ),
        (
            "0::/user.slice/user-0.slice/session-3.scope",
            CgroupPlace("session-3.scope", None, None),
        ),
        ("9:name=systemd:/init.scope\n0::/", CgroupPlace("init.scope", None, None)),
        ("0::/nginx.service.d/deep", CgroupPlace(None, None, None)),
        (
            f"0::/system.slice/docker-{HEX}.scope",
            CgroupPlace(f"docker-{HEX}.scope", None, Container("docker", HEX)),
        ),
        (f"4:memory:/docker/{HEX}", CgroupPlace(None, None, Container("docker", HEX))),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{HEX}.scope",
            CgroupPlace(f"cri-containerd-{HEX}.scope", None, Container("containerd", HEX)),
        ),
        (
            f"1:cpu:/kubepods/besteffort/pod12/{HEX}",
            CgroupPlace(None, None, Container("kubernetes", HEX)),
        ),
        (
            f"0::/machine.slice/libpod-{HEX}.scope/container",
            CgroupPlace(f"libpod-{HEX}.scope", None, Container("podman", HEX)),
        ),
        ("0::/lxc.payload.web", CgroupPlace(None, None, Container("lxc", "web"))),
        ("0::/docker/not-an-id", CgroupPlace(None, None, None)),
        ("rubbish", CgroupPlace(None, None, None)),
    ],
)
def test_the_cgroup_names_unit_and_container(line: str, place: CgroupPlace) -> None:
    assert parse_cgroup(line.encode()) == place


@given(st.binary(max_size=300))
def test_no_cgroup_content_breaks_the_reader(data: bytes) -> None:
    place = parse_cgroup(data)
    assert place.unit is None or "/" not in place.unit


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tool", "--password", SECRET],
        ["tool", "--password", f"{SECRET} with spaces"],
        ["tool", f"--db-password={SECRET} and more"],
        ["env", f"API_TOKEN={SECRET}", "tool"],
        ["curl", f"https://me:{SECRET}@example.org/"],
        ["curl", "-H", f"Authorization: Bearer {SECRET}"],
        ["curl", "-H", f"Cookie: a=b; session={SECRET}", "https://example.org"],
        ["sh", "-c", f"curl -H 'Proxy-Authorization: Basic {SECRET}' -H 'X-Api-Key:{SECRET}'"],
        ["sh", "-c", f"tool --token '{SECRET} x'"],
        [f"postgres: password={SECRET}"],
    ],
)
def test_secrets_never_show_in_a_command_line(arguments: list[str]) -> None:
    shown = shown_command(arguments)
    assert SECRET not in shown
    assert shown.startswith(arguments[0].partition(" ")[0])


def test_a_command_line_stays_readable_and_bounded() -> None:
    assert shown_command(["ls", "-l", "a b", ""]) == "ls -l 'a b' ''"
    assert shown_command([]) == ""
    assert len(shown_command(["x" * 5000])) == MAX_COMMAND_LENGTH


def row_of(pid: int, lister: ProcessLister) -> ProcessRow:
    rows, _ = lister.rows()
    (row,) = lister.complete([r for r in rows if r.pid == pid])
    return row


@linux_only
def test_a_real_process_is_told_as_it_is() -> None:
    renamed = "open('/proc/self/comm', 'w').write('a) R 1 (b')"
    with running(python(renamed, "--token", SECRET)) as child:
        row = row_of(child.pid, ProcessLister())
        other = psutil.Process(child.pid)
        assert row.name == "a) R 1 (b"
        assert (row.parent_pid, row.threads) == (os.getpid(), 1)
        assert row.uid == os.geteuid()
        assert row.user == other.username()
        assert row.executable == other.exe()
        assert row.command is not None
        assert "--token [redacted]" in row.command
        assert row.memory_rss_bytes == pytest.approx(other.memory_info().rss, rel=0.3)
        assert not row.kernel_thread
        assert row.start_time_ticks == round((other.create_time() - psutil.boot_time()) * 100)


@linux_only
def test_cpu_is_measured_over_a_window_and_told_per_core() -> None:
    with running([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"]) as child:
        lister = ProcessLister()
        rows, notes = lister.rows()
        assert all(r.cpu_percent is None for r in rows)
        assert "no earlier sample" in notes[0]
        # On a busy machine the child has to wait for its share.
        for _ in range(200):
            time.sleep(0.3)
            rows, notes = lister.rows()
            busy = next(r for r in rows if r.pid == child.pid)
            assert busy.cpu_percent is not None
            assert busy.cpu_percent < 150
            if busy.cpu_percent > 5:
                break
        else:
            pytest.fail("a child that does nothing but work shows no work")
        assert "over the last" in notes[0]
        assert busy.cpu_seconds > 0


@linux_only
async def test_a_first_question_by_cpu_waits_for_a_reading() -> None:
    rows, notes = ProcessLister().rows({"cpu_percent"})
    assert all(r.cpu_percent is not None for r in rows)
    assert "over the last " in notes[0]


@linux_only
async def test_processes_are_found_by_their_fields() -> None:
    with running(python("", "a-mark-of-this-test")) as child:
        page = await system_query("processes", filters={"command": "a-mark-of-this-test"})
        assert [r.pid for r in page.rows if isinstance(r, ProcessRow)] == [child.pid]
        page = await system_query("processes", filters={"pid": child.pid})
        (row,) = page.rows
        assert isinstance(row, ProcessRow)
        assert row.command is not None, "the rows of the page are complete"
        assert row.command.endswith("a-mark-of-this-test")
        page = await system_query(
            "processes",
            filters={"pid": [child.pid, os.getpid()], "start_time_ticks": row.start_time_ticks},
        )
        assert page.total == 1
        page = await system_query("processes", sort="memory_rss_bytes", order="desc", limit=2)
        assert page.truncated
        assert page.total == pytest.approx(len(psutil.pids()), abs=20)


@linux_only
async def test_a_walk_by_pid_meets_every_process_once() -> None:
    seen: list[int] = []
    cursor: str | None = None
    with running(python("")) as child:
        while True:
            page = await system_query("processes", sort="pid", limit=7, cursor=cursor)
            seen += [r.pid for r in page.rows if isinstance(r, ProcessRow)]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == sorted(set(seen))
        assert {1, os.getpid(), child.pid} <= set(seen)


@linux_only
def test_a_dead_child_that_nobody_reaped_is_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        row = row_of(child.pid, ProcessLister())
        assert (row.state, row.executable, row.command) == ("zombie", None, "")
    finally:
        child.wait()
    assert Proc().stat(child.pid) is None, "a process that ended is no error"


def test_psutil_fills_the_same_rows() -> None:
    with running(python("", "--password", SECRET)) as child:
        row = next(r for r in psutil_rows() if r.pid == child.pid)
        assert (row.parent_pid, row.uid) == (os.getpid(), os.geteuid())
        assert row.command is not None
        assert SECRET not in row.command
        assert row.start_time_ticks == round(psutil.Process(child.pid).create_time() * 1e6)


async def test_wrong_questions_name_the_choices() -> None:
    with pytest.raises(HostError) as caught:
        await system_query("moons")  # pyright: ignore[reportArgumentType] - the point
    assert caught.value.code == "invalid_kind"
    assert "processes, services, ports" in caught.value.fix
    with pytest.raises(HostError) as caught:
        await system_query("processes", sort="colour")
    assert "memory_rss_bytes" in caught.value.fix


@linux_only
def test_an_odd_proc_is_survived(tmp_path: Path) -> None:
    for pid, content in ((1, b""), (2, b"2 (x"), (3, b"3 (ok) S " + b"1 " * 49)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_bytes(content)
    (tmp_path / "4").mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "\u0665").mkdir()  # a digit to Python, no pid to the kernel
    rows, _ = ProcessLister(Proc(str(tmp_path))).rows()
    assert [r.pid for r in rows] == [3]
