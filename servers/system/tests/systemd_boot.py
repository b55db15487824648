"""The keeper: boots a systemd as PID 1 of its own namespaces and takes it away again.

A program, not a module: `systemd_host.py` starts it as root with a pipe as its standard input and
reads one line of JSON from its standard output: `{"pid": N}`, or `{"error": …}`. It uses the
standard library only, because it must not matter which environment the tests run in.

What is made, and who removes it:

- namespaces (mount, PID, UTS, IPC, network, cgroup) hold every process and every mount; the
  kernel drops them when their PID 1 is gone. The user namespace stays the same one, so that uid 0
  outside is uid 0 for the D-Bus daemon inside;
- one cgroup per hierarchy, called NAME: this program removes them, and those that an earlier
  keeper left when it was killed.

PID 1 is killed when standard input ends (the test finished, failed or was killed: the kernel
closes the pipe in each case), on SIGTERM, and by the kernel when this program itself dies.

The file system inside is a tmpfs with the host's /usr bound read-only, which is all that a
merged-/usr Debian needs. The container interface that systemd expects of us is described at
https://systemd.io/CONTAINER_INTERFACE/.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import NoReturn

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
# What could change the host's kernel from in there: CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_TIME.
DROPPED_CAPABILITIES = (16, 17, 25)

CGROUP_PREFIX = "hostwright-test-"
CONTROLLERS = {"cpu", "cpuacct", "memory", "pids"}
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
COPIED_FROM_ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "alternatives")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = libc.mount(
        source.encode(), bytes(target), kind.encode() or None, flags, data.encode() or None
    )
    check(result, f"mount {source} on {target}")


def bind_read_only(source: Path, target: Path) -> None:
    mount(str(source), target, flags=MS_BIND)
    mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


# --- cgroups: version 1, version 2, or systemd's hybrid of both -----------------------------------


class Hierarchy:
    """One mounted cgroup hierarchy that systemd inside shall see."""

    def __init__(self, mountpoint: Path, kind: str, options: str) -> None:
        self.mountpoint, self.kind, self.options = mountpoint, kind, options


def hierarchies() -> list[Hierarchy]:
    """Those of this machine, from proc_pid_mountinfo(5)."""
    found: list[Hierarchy] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mountpoint = Path(left.split()[4])
        kind, _, options = right.split()[:3]
        names = set(options.split(",")) & (CONTROLLERS | {"name=systemd"})
        if kind == "cgroup2":
            found.append(Hierarchy(mountpoint, kind, ""))
        elif kind == "cgroup" and names:
            found.append(Hierarchy(mountpoint, kind, ",".join(sorted(names))))
    if not found:
        raise OSError(errno.ENOENT, "no cgroup hierarchy is mounted")
    return found


def remove_cgroup(path: Path, patience_s: float = 5.0) -> None:
    """Remove PATH and what systemd made below it; the kernel may need a moment after the kill."""
    deadline = time.monotonic() + patience_s
    while path.exists():
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if path.exists() and time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"cgroup {path} could not be removed")
        time.sleep(0.01)


def remove_stale(found: list[Hierarchy]) -> None:
    """What a killed keeper left: the name says whose it was."""
    for hierarchy in found:
        for path in hierarchy.mountpoint.glob(f"{CGROUP_PREFIX}*"):
            owner = path.name.removeprefix(CGROUP_PREFIX).split("-")[0]
            if owner.isdecimal() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    remove_cgroup(path, patience_s=0.2)


def make_cgroups(found: list[Hierarchy], name: str) -> None:
    for hierarchy in found:
        if hierarchy.kind == "cgroup2":
            # Only the machine's real root may hold processes and hand controllers down; elsewhere
            # the kernel says EBUSY and the units inside go without accounting.
            for controller in ("cpu", "memory", "pids"):
                with contextlib.suppress(OSError):
                    control = hierarchy.mountpoint / "cgroup.subtree_control"
                    control.write_text(f"+{controller}")
        (hierarchy.mountpoint / name).mkdir()


def mount_cgroups(found: list[Hierarchy], target: Path) -> None:
    if all(hierarchy.kind == "cgroup2" for hierarchy in found):
        mount("cgroup2", target, "cgroup2", MS_NOSUID | MS_NOEXEC | MS_NODEV)
        return
    mount("tmpfs", target, "tmpfs", data="mode=755")
    for hierarchy in found:
        if hierarchy.kind == "cgroup2":
            name, options = "unified", ""
        else:
            options = hierarchy.options
            name = options.removeprefix("name=")
            options = f"none,{options}" if options.startswith("name=") else options
        (target / name).mkdir()
        mount(name, target / name, hierarchy.kind, data=options)
        for alias in name.split(",") if "," in name else ():
            (target / alias).symlink_to(name)


# --- the file system inside -----------------------------------------------------------------------


def fill_etc(etc: Path) -> None:
    for name in COPIED_FROM_ETC:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, etc / name, symlinks=True)
        elif source.exists():
            shutil.copy2(source, etc / name)
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    (etc / "fstab").touch()
    (etc / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (etc / "machine-id").write_text(secrets.token_hex(16) + "\n")
    journald = etc / "systemd/journald.conf.d"
    journald.mkdir(parents=True)
    # A test writes more lines per second than the rate limit lets through.
    (journald / "test.conf").write_text(
        "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n"
    )
    units = etc / "systemd/system"
    units.mkdir()
    (units / "console-getty.service").symlink_to("/dev/null")  # there is no console to log in on
    # `user@0.service`, the user's own manager, needs the session that pam_systemd makes and none of
    # the host's log-in rules.
    rules = ("account required pam_permit.so", "session required pam_systemd.so")
    (etc / "pam.d").mkdir()
    (etc / "pam.d/systemd-user").write_text("\n".join(rules) + "\n")


def fill_dev(dev: Path) -> None:
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    for name, minor in DEVICES.items():
        os.mknod(dev / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        (dev / name).chmod(0o666)
    os.mknod(dev / "tty", 0o666 | stat.S_IFCHR, os.makedev(5, 0))
    (dev / "console").touch()
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    mount("devpts", dev / "pts", "devpts", data="newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", dev / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def fill_root(root: Path, found: list[Hierarchy]) -> None:
    mount("tmpfs", root, "tmpfs", data="mode=755")
    for name in ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "root", "mnt", "home", "srv"):
        (root / name).mkdir()
    for name in ("log/journal", "lib", "tmp"):
        (root / "var" / name).mkdir(parents=True)
    (root / "var/run").symlink_to("../run")
    bind_read_only(Path("/usr"), root / "usr")
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    fill_etc(root / "etc")
    strict = MS_NOSUID | MS_NOEXEC | MS_NODEV
    mount("proc", root / "proc", "proc", strict)
    mount("sysfs", root / "sys", "sysfs", strict | MS_RDONLY)
    fill_dev(root / "dev")
    mount("tmpfs", root / "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", root / "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    mount_cgroups(found, root / "sys/fs/cgroup")
    # The kernel's switches are the host's own.
    bind_read_only(root / "proc/sys", root / "proc/sys")


def become_systemd(found: list[Hierarchy], name: str, root: Path, binds: list[Path]) -> NoReturn:
    """In the child, already PID 1 of the new PID namespace."""
    for hierarchy in found:
        (hierarchy.mountpoint / name / "cgroup.procs").write_text("0")
    flags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
    check(libc.unshare(flags), "unshare")
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    socket.sethostname("hostwright-test")
    fill_root(root, found)
    for path in binds:
        inside = root / path.relative_to("/")
        inside.mkdir(parents=True)
        bind_read_only(path, inside)
    os.chdir(root)
    check(libc.pivot_root(b".", b"mnt"), "pivot_root")
    check(libc.umount2(b"/mnt", MNT_DETACH), "umount /mnt")
    os.chdir("/")
    for capability in DROPPED_CAPABILITIES:
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "drop capability")
    argv = ["/usr/lib/systemd/systemd", "--show-status=0", "--unit=multi-user.target"]
    environment = {"container": "hostwright-test", "PATH": "/usr/sbin:/usr/bin", "TERM": "dumb"}
    os.execve(argv[0], argv, environment)  # noqa: S606 (becoming PID 1 is the point)


def boot(found: list[Hierarchy], name: str, root: Path, binds: list[Path]) -> int:
    """Fork PID 1; returns when it has become systemd, or raises what kept it from that."""
    check(libc.unshare(CLONE_NEWPID), "unshare the PID namespace")
    keeper = os.pidfd_open(os.getpid())
    failure_read, failure_write = os.pipe()  # closed by a successful exec, says why otherwise
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "set the death signal")
            if select.select([keeper], [], [], 0)[0]:
                os._exit(1)  # the keeper was gone before it could matter to the kernel
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(2, 1)
            become_systemd(found, name, root, binds)
        except BaseException as error:  # noqa: BLE001 (nothing may run past here in the child)
            os.write(failure_write, str(error).encode())
        os._exit(1)
    os.close(failure_write)
    os.close(keeper)
    with os.fdopen(failure_read, "rb") as stream:
        failure = stream.read()
    if failure:
        os.waitpid(pid, 0)
        raise OSError(errno.EIO, failure.decode(errors="replace"))
    return pid


def ignore(number: int, frame: object) -> None:
    """A handler, so that the signal reaches the wake-up pipe instead of killing this program."""


def wait_for_end(pid: int) -> None:
    """Until standard input ends, a signal asks for it, or PID 1 ends by itself."""
    woken_read, woken_write = os.pipe()
    os.set_blocking(woken_write, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ignore)
    signal.set_wakeup_fd(woken_write)
    init = os.pidfd_open(pid)
    poll = select.poll()
    for descriptor in (0, woken_read, init):
        poll.register(descriptor, select.POLLIN)
    poll.poll()


def answer(**fields: object) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")
    os.close(1)


def main() -> int:
    root = Path(sys.argv[1])
    found = hierarchies()
    remove_stale(found)
    name = f"{CGROUP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        make_cgroups(found, name)
        pid = boot(found, name, root, [Path(word) for word in sys.argv[2:]])
        answer(pid=pid)
        wait_for_end(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError as error:
        refused = error.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
        answer(error=str(error), refused=refused)
        return 1
    finally:
        for hierarchy in found:
            remove_cgroup(hierarchy.mountpoint / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
