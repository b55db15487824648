"""The warden: one sandbox from its start to the end of everything in it.

A straight line in a process of its own, whose only child is bwrap(1). With the server it speaks
lines of JSON on a socket; the request comes in a file, because it may be long and hold secrets.

    server → warden   {"network", "rlimits"}   go; in the request already, or when it is known
                      "end"                    end it
                      (closed)                 the server is gone: the same
    warden → server   {"waiting": pid}         everything is ready, and it was not told to go
                      {"started": pid}         + the listeners' descriptors, if it has a network
                      {"failed": what, "errno"}        before any of the command ran; and it exits
                      {"exited": code}         128 + N for signal N; and it exits

    preparing → held at the doorstep → checked (→ waiting) → running → ending → reported
                └───────────────── end, closed ─────────────────────────↗

Until the warden writes to the doorstep (`doorstep.py`), the command has not begun. What is checked
in between: every bind mount shows the very file that the server had opened and judged. A path that
was exchanged for a link meanwhile is found here, whoever did it.

Ending is killing the first process of the sandbox's PID namespace: the kernel then ends all others,
also what called setsid(2) or forked twice, and no one can refuse.
"""

from __future__ import annotations

# ruff: noqa: PTH123
import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import time

from . import inside, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Where bwrap and the doorstep find what they are given.
CONTROL = 3
RULESET = 4
DOORSTEP = 5
ARGUMENTS = 6
FILTER = 7
IMAGE = 8
FIRST_DATA = 10

PREPARING_SECONDS = 20.0
_ABOVE = 300


class FailedError(Exception):
    """It did not come to the command. The text is for the server, which words it."""

    def __init__(self, what: str, number: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.number = number


class Warden:
    """The descriptors, in order: socket to the server, request, the command's image, stdin, stdout,
    stderr, doorstep, filter, then the request's `data` files, then one opened place per entry of
    `binds`."""

    def __init__(self, descriptors: list[int]) -> None:
        self.server = socket.socket(fileno=descriptors[0])
        with os.fdopen(descriptors[1], "rb") as file:
            self.request: dict[str, Any] = json.load(file)
        self.image = descriptors[2]
        self.stdio = descriptors[3:6]
        self.doorstep, self.filter = descriptors[6:8]
        data = self.request["data"]
        self.data = descriptors[8 : 8 + data]
        self.places = descriptors[8 + data :]
        self.bwrap = 0
        self.command = 0
        self.bwrap_handle = -1

    def run(self) -> None:
        try:
            control = self._start()
            helper = self._hold(control)
            go = self.request["go"]
            if go is None:
                self._say({"waiting": self.command})
                go = self._wait_for_go()
            listeners = self._let_go(control, helper, go)
        except FailedError as failure:
            self._end()
            self._say({"failed": failure.what, "errno": failure.number})
            return
        except OSError as error:
            self._end()
            self._say({"failed": str(error), "errno": error.errno or 0})
            return
        self._say({"started": self.command}, listeners)
        for descriptor in listeners:
            os.close(descriptor)
        self._watch(control)

    # Starting

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        # The kernel tells who writes, by its pid out here: the doorstep knows only one inside.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ruleset = kernel.Ruleset()
        self.ruleset = ruleset
        arguments = os.memfd_create("arguments")
        os.write(arguments, b"".join(os.fsencode(a) + b"\0" for a in self.request["arguments"]))
        os.lseek(arguments, 0, os.SEEK_SET)
        given = {
            **dict(enumerate(self.stdio)),
            CONTROL: theirs.fileno(),
            RULESET: ruleset.descriptor,
            DOORSTEP: self.doorstep,
            ARGUMENTS: arguments,
            FILTER: self.filter,
            IMAGE: self.image,
            **{FIRST_DATA + number: file for number, file in enumerate(self.data)},
        }
        read, write = os.pipe()
        self.bwrap = os.fork()
        if self.bwrap == 0:
            os.close(read)
            self._become_bwrap(given, write)
        self.bwrap_handle = os.pidfd_open(self.bwrap)
        os.close(write)
        theirs.close()
        os.close(arguments)
        with os.fdopen(read, "rb") as failed:
            if failure := failed.read():
                what, _, number = failure.decode().partition(" ")
                raise FailedError(what, int(number))
        for descriptor in (*self.stdio, *self.data, self.doorstep, self.filter, self.image):
            os.close(descriptor)
        return ours

    def _become_bwrap(self, given: dict[int, int], failed: int) -> NoReturn:
        what = "start"
        try:
            os.setsid()
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            what = "cgroup"
            for folder in self.request["cgroups"]:
                with open(f"{folder}/cgroup.procs", "w") as members:
                    members.write("0")
            if overlay := self.request["overlay"]:
                what = "overlay"
                self._lay_over(overlay)
            what = "start"
            failed = _moved_up(failed)
            above = {number: _moved_up(descriptor) for number, descriptor in given.items()}
            for number, descriptor in above.items():
                os.dup2(descriptor, number)
            bwrap = self.request["bwrap"]
            inner = ("--args", str(ARGUMENTS), "--", f"/proc/self/fd/{DOORSTEP}")
            os.execve(bwrap, [bwrap, *inner], {})  # noqa: S606 - that is its task
        except (OSError, ValueError) as error:
            os.write(failed, f"{what} {getattr(error, 'errno', 0) or 0}".encode())
        finally:
            os._exit(127)

    def _lay_over(self, overlay: dict[str, str]) -> None:
        """An overlay of a folder: what is written goes aside, the folder stays as it is.

        In mount (and, without root, user) namespaces of its own, that bwrap then starts from, and
        at a place that nobody else can exchange. Which folder it is of is not left to a path
        either: it is opened again in here, and must be the one that the server had judged.
        """
        uid, gid = os.geteuid(), os.getegid()
        if uid == 0:
            kernel.unshare(kernel.CLONE_NEWNS)
        else:
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        private, recursive = 1 << 18, 1 << 14
        kernel.mount("none", "/", "none", private | recursive)
        lower = os.open(overlay["lower"], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        number = self.request["binds"].index(overlay["lower"])
        if not os.path.samestat(os.fstat(lower), os.fstat(self.places[number])):
            raise OSError(errno.ESTALE, "exchanged")
        upper, work = (_escaped(overlay[key]) for key in ("upper", "work"))
        options = f"userxattr,lowerdir=/proc/self/fd/{lower},upperdir={upper},workdir={work}"
        nosuid_nodev = 2 | 4
        kernel.mount("overlay", overlay["shown"], "overlay", nosuid_nodev, options)

    # At the doorstep

    def _hold(self, control: socket.socket) -> socket.socket:
        """Everything between "all is mounted" and "go"; the link to the child that is inside."""
        self.command = self._wait_until_ready(control)
        self.root = os.open(f"/proc/{self.command}/root", os.O_PATH | os.O_CLOEXEC)
        self._check_binds()
        for path, rights in self.request["rights"].items():
            self._allow(path, rights)
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            # What it does not hold open, others see closed when this process is gone.
            for link in (ours, control, self.server):
                link.close()
            inside.serve(self.command, self.request["masks"], theirs)
        theirs.close()
        self._expect_ok(ours.recv(64))
        return ours

    def _wait_for_go(self) -> dict[str, Any]:
        poller = select.poll()
        poller.register(self.bwrap_handle, select.POLLIN)
        poller.register(self.server, select.POLLIN)
        if any(descriptor == self.bwrap_handle for descriptor, _ in poller.poll()):
            raise FailedError("setup")
        message = b""
        while not message.endswith(b"\n"):
            part = self.server.recv(65_536)
            if not part:
                raise FailedError("cancelled")
            message += part
        if not message.startswith(b"{"):
            raise FailedError("cancelled")
        return json.loads(message)

    def _let_go(
        self, control: socket.socket, helper: socket.socket, go: dict[str, Any]
    ) -> list[int]:
        for number, (soft, hard) in go["rlimits"].items():
            resource.prlimit(self.command, int(number), (soft, hard))
        helper.send(json.dumps(go["network"]).encode())
        message, listeners, _, _ = socket.recv_fds(helper, 64, 64)
        self._expect_ok(message)
        # Its end: from now on nobody of ours is inside.
        helper.recv(1)
        helper.close()
        control.send(b"g")
        return listeners

    def _expect_ok(self, message: bytes) -> None:
        if message != b"ok":
            raise FailedError("namespaces", int(message or b"0"))

    def _wait_until_ready(self, control: socket.socket) -> int:
        poller = select.poll()
        poller.register(control, select.POLLIN)
        poller.register(self.server, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(PREPARING_SECONDS * 1000)}
        if control.fileno() not in ready:
            raise FailedError("cancelled" if ready else "time")
        # struct ucred: three ints
        data, extra, _, _ = control.recvmsg(1, socket.CMSG_SPACE(12))
        if data != b"r" or not extra:
            raise FailedError("setup")
        return struct.unpack("=3i", extra[0][2])[0]

    def _shown(self, path: str) -> int:
        """Open a place of the sandbox from outside."""
        return kernel.open_beneath(self.root, path)

    def _check_binds(self) -> None:
        overlay = self.request["overlay"]
        # An overlay shows other files than the folder beneath it, and was compared before.
        covered = overlay["lower"] if overlay else None
        for place, path in zip(self.places, self.request["binds"], strict=True):
            meant = os.fstat(place)
            shown = self._shown(path)
            seen = os.fstat(shown)
            os.close(shown)
            os.close(place)
            same = os.path.samestat(meant, seen)
            if not same and path != covered:
                raise FailedError(f"exchanged {path}")

    def _allow(self, path: str, rights: int) -> None:
        try:
            place = self._shown(path)
        except FileNotFoundError:
            return
        self.ruleset.allow(place, rights)
        os.close(place)

    # Running and ending

    def _watch(self, control: socket.socket) -> None:
        poller = select.poll()
        poller.register(self.bwrap_handle, select.POLLIN)
        poller.register(self.server, select.POLLIN)
        ended = poller.poll()
        if not any(descriptor == self.bwrap_handle for descriptor, _ in ended):
            self._terminate(poller)
        code = self._end()
        # The doorstep's last word, if the command could not be executed.
        control.setblocking(False)
        with contextlib.suppress(OSError):
            if len(word := control.recv(4)) == 4:
                self._say({"failed": "execute", "errno": struct.unpack("=i", word)[0]})
                return
        self._say({"exited": code})

    def _terminate(self, poller: select.poll) -> None:
        """Ask the command first; it may have something to put away."""
        poller.unregister(self.server)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.command, signal.SIGTERM)
        poller.poll(self.request["grace_seconds"] * 1000)

    def _end(self) -> int:
        """End whatever there is; the exit code as bwrap tells it."""
        if not self.bwrap:
            return 0
        first = self._first_inside()
        with contextlib.suppress(ProcessLookupError):
            if first:
                # Not bwrap: it waits for this one, and so tells when all of them are gone.
                os.kill(first, signal.SIGKILL)
            else:
                os.kill(self.bwrap, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while True:
            pid, status = os.waitpid(self.bwrap, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                os.kill(self.bwrap, signal.SIGKILL)
                _, status = os.waitpid(self.bwrap, 0)
                break
            select.select([self.bwrap_handle], [], [], 0.5)
        self.bwrap = 0
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def _first_inside(self) -> int:
        """bwrap's child, which is process 1 inside. It is not reaped before bwrap ends."""
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{self.bwrap}/task/{self.bwrap}/children") as file,
        ):
            return int((file.read().split() or ["0"])[0])
        return 0

    def _say(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self.server, [json.dumps(message).encode() + b"\n"], descriptors or [])


def _moved_up(descriptor: int) -> int:
    """A copy whose number no fixed place needs; it closes when bwrap begins."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE)


def _escaped(path: str) -> str:
    """mount(2) options: overlayfs takes a backslash before what separates."""
    for mark in ("\\", ":", ","):
        path = path.replace(mark, "\\" + mark)
    return path
