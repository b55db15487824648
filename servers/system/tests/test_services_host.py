"""The harness keeps its promise: nothing is left, however the test ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .systemd_host import SystemdHost, systemd_host

__all__ = ["systemd_host"]
pytestmark = pytest.mark.systemd

HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from systemd_host import SystemdHost
with SystemdHost(Path(sys.argv[2])) as host:
    print(host.keeper_pid, host.pid, flush=True)
    sys.stdin.read()
"""


def cgroups(keeper_pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/hostwright-test-{keeper_pid}-*"))


def alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_in(namespace: Path) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if (folder / "ns/pid").readlink() == namespace:
                    found.append(int(folder.name))
    return found


def wait_until_gone(pids: list[int], keeper_pid: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids) and not cgroups(keeper_pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"left: {[p for p in pids if alive(p)]} {cgroups(keeper_pid)}")


def test_leaving_the_block_leaves_nothing(systemd_host: SystemdHost, tmp_path: Path) -> None:
    with SystemdHost(tmp_path) as host:
        keeper, init = host.keeper_pid, host.pid
        assert cgroups(keeper)
        assert host.run("systemctl", "is-system-running").stdout.strip() == b"running"
        host.run("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
        namespace = Path(f"/proc/{init}/ns/pid").readlink()
        assert len(processes_in(namespace)) > 3
    assert processes_in(namespace) == []
    assert not cgroups(keeper)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["boot.log"]


@pytest.mark.parametrize("victim", ["test", "keeper"])
def test_a_kill_leaves_nothing(systemd_host: SystemdHost, tmp_path: Path, victim: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        keeper, init = map(int, holder.stdout.readline().split())
        assert alive(init)
        os.kill(holder.pid if victim == "test" else keeper, signal.SIGKILL)
        if victim == "test":
            wait_until_gone([holder.pid, keeper, init], keeper)
            return
        deadline = time.monotonic() + 20
        while alive(init) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(init)
    # Only empty cgroups can outlive a killed keeper; the next one removes them.
    (tmp_path / "next").mkdir()
    with SystemdHost(tmp_path / "next"):
        assert not cgroups(keeper)
