"""What kind of machine this is: the real one, and the marks and limits of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostwright_system.host.environment import (
    cgroup_limits,
    detect_virtualization,
    operating_system,
    virtualization,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own interfaces")


@linux_only
def test_the_operating_system_is_what_os_release_says() -> None:
    done = subprocess.run(
        ["sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"; echo "$ID"'],
        capture_output=True,
        text=True,
        check=True,
    )
    system = operating_system()
    assert [system.name, system.id] == done.stdout.splitlines()
    assert system.kernel_release == os.uname().release


@linux_only
def test_virtualization_agrees_with_systemd() -> None:
    found = virtualization()
    assert found.evidence or found.container is None
    if shutil.which("systemd-detect-virt"):
        done = subprocess.run(["systemd-detect-virt", "--vm"], capture_output=True, check=False)
        assert (found.virtual_machine or "none") == done.stdout.decode().strip()


HEX = "ab" * 32


@pytest.mark.parametrize(
    ("files", "container", "machine"),
    [
        ({}, None, None),
        ({"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn", None),
        ({"run/.containerenv": ""}, "podman", None),
        ({".dockerenv": ""}, "docker", None),
        ({"proc/1/cgroup": f"0::/docker/{HEX}\n"}, "docker", None),
        ({"proc/1/cgroup": "0::/docker-tools.slice\n"}, None, None),
        ({"proc/sys/kernel/osrelease": "5.15.0-microsoft-standard-WSL2"}, "wsl", None),
        ({"sys/class/dmi/id/sys_vendor": "QEMU\n"}, None, "qemu"),
        ({"sys/class/dmi/id/product_name": "VMware7,1\n"}, None, "vmware"),
        ({"sys/class/dmi/id/sys_vendor": "Dell Inc.\n"}, None, None),
        ({"sys/hypervisor/type": "xen\n"}, None, "xen"),
        ({"proc/cpuinfo": "model name\t: x\nflags\t\t: fpu hypervisor lm\n"}, None, "vm-other"),
        ({"proc/cpuinfo": "flags\t\t: fpu nohypervisor lm\n"}, None, None),
    ],
)
def test_marks_of_containers_and_machines(
    tmp_path: Path, files: dict[str, str], container: str | None, machine: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = detect_virtualization(tmp_path)
    assert (found.container, found.virtual_machine) == (container, machine)
    assert bool(found.evidence) == bool(container or machine)


def fake_cgroup(root: Path, mountinfo: str, membership: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    (root / "proc/self/mountinfo").write_text(mountinfo)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


V2 = "31 23 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def test_the_tightest_limit_of_all_levels_holds(tmp_path: Path) -> None:
    fake_cgroup(
        tmp_path,
        V2,
        "0::/a/b\n",
        {
            "a/memory.max": "1000\n",
            "a/memory.current": "400\n",
            "a/cpu.max": "max 100000\n",
            "a/b/memory.max": "max\n",
            "a/b/cpu.max": "150000 100000\n",
        },
    )
    limits = cgroup_limits(tmp_path)
    assert limits is not None
    assert (limits.memory_limit_bytes, limits.memory_used_bytes) == (1000, 400)
    assert limits.cpu_limit_cores == 1.5


def test_limits_of_the_first_version(tmp_path: Path) -> None:
    mounts = (
        "32 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"35 31 0:33 /docker/{HEX} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    fake_cgroup(
        tmp_path,
        mounts,
        f"4:memory:/docker/{HEX}\n2:cpu,cpuacct:/x\n",
        {
            "memory/memory.limit_in_bytes": "2048\n",
            "memory/memory.usage_in_bytes": "7\n",
            "cpu/x/cpu.cfs_quota_us": "50000\n",
            "cpu/x/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    limits = cgroup_limits(tmp_path)
    assert limits is not None
    assert (limits.memory_limit_bytes, limits.memory_used_bytes) == (2048, 7)
    assert limits.cpu_limit_cores == 0.5


def test_no_limit_is_null(tmp_path: Path) -> None:
    fake_cgroup(tmp_path, V2, "0::/../other\n", {"memory.max": "max\n"})
    limits = cgroup_limits(tmp_path)
    assert limits is not None
    assert limits.memory_limit_bytes is limits.cpu_limit_cores is None
    assert cgroup_limits(tmp_path / "nowhere") is None
