"""The warden: one small process per command that ends everything the command started.

Run by `process.py` in an interpreter of its own. Every command waits for that to start, so it
imports the least that will do (no pathlib, typing or socket: they would double the time).

It is the parent of the command and a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): whatever
calls setsid(2) or forks twice becomes a child of the warden, not of init, so "no children left"
(waitpid(2), ECHILD) is the kernel's word that nothing is left. Where a cgroup v2 is writable the
command also lives in one of its own, whose `cgroup.kill` (Linux 5.14) ends every member at once.
On other systems only the process group is ended, and the report says so. A PID namespace would
hold as well, but inside it a command could not see or signal the machine's processes, which is
what it is often there for.

It touches processes that descend from it, its own cgroup, and the socket to the server, on which
both sides write lines of JSON:

    server → warden   {"path", "argv", "env", "cwd", "umask", "grace_seconds", "cgroup", "server"}
                      "end"                       end the command and all it started
                      (closed)                    the server is gone: the same
    warden → server   {"pid": N, "containment": [...]}     before any of the command runs
                      {"failed": "cwd" | "start", "errno": N}      and it exits
                      {"exited": code}            as subprocess counts: -N for signal N
                      {"ended": count, "surviving": [pid, ...]}    and it exits (count: Linux)

    starting → running → settling → terminating → killing → reported
                   └──── end, closed ────↗

Only those lines decide: the warden ignores the signals that a terminal or an init system sends to
everybody. It watches its server by pidfd as well, because a forked child of the server may hold
the other end of the socket open.
"""

from __future__ import annotations

# ruff: noqa: PTH102, PTH123
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import time

from .processes import (
    descendants,
    kill_cgroup,
    open_pidfd,
    read,
    read_stat,
    remove_cgroup,
    send,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, TypeAlias

    from .processes import Process

    Prctl: TypeAlias = Callable[[int, int], int]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# What is already finishing when the main process ends (`tee >(grep …)`) may do so undisturbed.
SETTLE_SECONDS = 0.1
# SIGKILL acts at once, except on a process in uninterruptible sleep.
KILL_SECONDS = 5.0
POLL_SECONDS = 0.02


def _note(number: int, frame: FrameType | None) -> None:
    pass


class Warden:
    def __init__(self, control: int, request: dict[str, Any], *, must_end: bool) -> None:
        self.control = control
        self.request = request
        self.cgroup: str | None = request["cgroup"]
        self.main = 0
        self.exited = False
        self.childless = False
        self.must_end = must_end
        self.subreaper = False
        self.ended: set[Process] = set()
        self.wake, wake_writer = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_writer, False)
        # Any handler: without one the signal would be ignored and wake nothing.
        signal.signal(signal.SIGCHLD, _note)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self.poller = select.poll()
        self.poller.register(control, select.POLLIN)
        self.poller.register(self.wake, select.POLLIN)
        self.watch_server()

    def watch_server(self) -> None:
        """By pidfd; where there is none the socket alone must tell."""
        server = self.request["server"]
        try:
            handle = open_pidfd(server)
        except ProcessLookupError:
            self.must_end = True
            return
        if handle is not None:
            self.poller.register(handle, select.POLLIN)
        # It may have died, and its pid been taken, before the pidfd was opened.
        if os.getppid() != server:
            self.must_end = True

    def run(self) -> None:
        self.start()
        while not (self.exited or self.must_end):
            self.turn(None)
        if self.exited and not self.must_end:
            self.wait_until_empty(SETTLE_SECONDS)
        self.terminate()
        surviving = self.kill()
        if self.cgroup:
            deadline = time.monotonic() + 1
            while not remove_cgroup(self.cgroup) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        known = sys.platform.startswith("linux")
        count = len(self.ended) if known else None
        self.say({"ended": count, "surviving": sorted(pid for pid, _ in surviving)})

    # Starting

    def start(self) -> None:
        prctl = load_prctl()
        self.subreaper = prctl is not None and prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
        self.make_cgroup()
        failed_read, failed_write = os.pipe()
        go_read, go_write = os.pipe()
        self.main = os.fork()
        if self.main == 0:
            os.close(go_write)
            os.read(go_read, 1)
            self.become_command(failed_write, prctl)
        os.close(failed_write)
        os.close(go_read)
        means = ["cgroup"] if self.cgroup else []
        means += ["subreaper"] if self.subreaper else []
        # First of all: should the command kill us, the server knows what it has to end.
        self.say({"pid": self.main, "containment": [*means, "process_group"]})
        os.close(go_write)
        failure = b""
        while part := os.read(failed_read, 64):
            failure += part
        os.close(failed_read)
        if failure:
            stage, _, number = failure.decode().partition(" ")
            os.waitpid(self.main, 0)
            if self.cgroup:
                remove_cgroup(self.cgroup)
            self.say({"failed": stage, "errno": int(number)})
            sys.exit(0)
        # The command holds them now; a copy here would keep its pipes open for ever.
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.close(null)

    def make_cgroup(self) -> None:
        """The command's own cgroup. Without it the subreaper still holds, so failing is fine."""
        if not self.cgroup:
            return
        try:
            os.mkdir(self.cgroup)
            # Opening proves that joining is allowed and that this kernel can kill by cgroup.
            for name in ("cgroup.procs", "cgroup.kill"):
                os.close(os.open(f"{self.cgroup}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            remove_cgroup(self.cgroup)
            self.cgroup = None

    def become_command(self, failed: int, prctl: Prctl | None) -> None:
        """In the forked child: never returns. Descriptors 0 to 2 are the command's already."""
        stage = "start"
        try:
            signal.set_wakeup_fd(-1)
            for number in range(1, signal.NSIG):
                # KILL, STOP and the C library's own signals refuse; everything else is reset.
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            if prctl is not None:
                # Even a warden that is killed takes the main process with it.
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if self.cgroup:
                # Before anything of the command runs, so that nothing of it can be outside.
                with open(f"{self.cgroup}/cgroup.procs", "w") as members:
                    members.write("0")
            os.umask(self.request["umask"])
            stage = "cwd"
            os.chdir(self.request["cwd"])
            stage = "start"
            os.execve(self.request["path"], self.request["argv"], self.request["env"])  # noqa: S606 - that is its task
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else errno.EINVAL
            os.write(failed, f"{stage} {number}".encode())
        finally:
            os._exit(127)

    # Watching

    def turn(self, seconds: float | None) -> None:
        """One wait: for a child, for the server, or for the time to pass."""
        events = self.poller.poll(None if seconds is None else max(0.0, seconds) * 1000)
        for descriptor, _ in events:
            if descriptor == self.wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 4096)
            else:
                # "end", end of file, or the server's own end: all mean the same.
                self.must_end = True
                self.poller.unregister(descriptor)
        self.reap()

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            self.childless = False
            if pid == 0:
                return
            if pid == self.main:
                self.exited = True
                self.say({"exited": os.waitstatus_to_exitcode(status)})

    def wait_until_empty(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.empty() and (left := deadline - time.monotonic()) > 0:
            self.turn(min(left, POLL_SECONDS))

    def empty(self) -> bool:
        self.reap()
        if not self.childless:
            return False
        return self.subreaper or not self.group_lives()

    def group_lives(self) -> bool:
        """Without a subreaper the process group is all that is known."""
        try:
            os.killpg(self.main, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # macOS says this of a group that holds only zombies, too.
            return False
        return True

    # Ending

    def targets(self) -> set[Process]:
        found = descendants(os.getpid())
        if self.cgroup:
            # Also what a warden inside a container inside the command may have adopted.
            for pid in map(int, read(f"{self.cgroup}/cgroup.procs").split()):
                if stat := read_stat(pid):
                    found.add((pid, stat.started_ticks))
        self.ended |= found
        return found

    def signal_all(self, number: int) -> None:
        # Parents first: a shell whose child is ended before it would go on with its next line.
        for process in sorted(self.targets(), key=lambda process: (process[1], process[0])):
            send(process, number)
        if not self.subreaper:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.main, number)

    def terminate(self) -> None:
        """Ask: SIGTERM to all, and SIGCONT, since a stopped process cannot answer."""
        if self.empty():
            return
        self.signal_all(signal.SIGTERM)
        self.signal_all(signal.SIGCONT)
        self.wait_until_empty(self.request["grace_seconds"])

    def kill(self) -> set[Process]:
        """SIGKILL until nothing is left; returns what is left nevertheless."""
        deadline = time.monotonic() + KILL_SECONDS
        while not self.empty():
            if time.monotonic() > deadline:
                left = self.targets()
                self.ended -= left
                return left
            self.freeze(deadline)
            if self.cgroup:
                kill_cgroup(self.cgroup)
            self.signal_all(signal.SIGKILL)
            self.turn(POLL_SECONDS)
        return set()

    def freeze(self, deadline: float) -> None:
        """Stop everything first: what is stopped cannot fork faster than we kill."""
        stopped: set[Process] = set()
        while (moving := self.targets() - stopped) and time.monotonic() < deadline:
            for process in moving:
                send(process, signal.SIGSTOP)
            stopped |= moving

    def say(self, message: dict[str, Any]) -> None:
        # A server that is gone hears nothing; ending the command goes on all the same.
        with contextlib.suppress(OSError):
            write_all(self.control, json.dumps(message).encode() + b"\n")


def load_prctl() -> Prctl | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    # prctl is variadic in C: without types the numbers would be passed as 32-bit ints.
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    return lambda option, value: prctl(option, value, 0, 0, 0)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def read_request(control: int) -> tuple[dict[str, Any], bool] | None:
    """The first line, and whether more came with it; None when the server went away before."""
    data = b""
    while b"\n" not in data:
        part = os.read(control, 1 << 16)
        if not part:
            return None
        data += part
    line, _, rest = data.partition(b"\n")
    return json.loads(line), bool(rest)


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    if received := read_request(control):
        request, end = received
        Warden(control, request, must_end=end).run()
