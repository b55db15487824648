"""The first moments of a forked server: everything that it must not share with its parent.

A program that is executed finds a fresh world; one that is forked finds the zygote's. Here it is
made fresh: descriptors, environment, folder, umask, limits, signals, random numbers, time zone,
locale, settings that libraries read when they were imported, standard streams, name. Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import locale
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastmcp
import setproctitle

from hostwright.zygote.job import Job

PR_SET_PDEATHSIG = 1
GO = b"1"


class Marker:
    """The place in this process's environment block where the mark is written.

    /proc/PID/environ shows the block that execve(2) made, whatever os.environ says later; a forked
    process would show its parent's mark, and so would all that it forks without executing. The
    block is ordinary memory, so the child writes its own mark over its parent's.
    """

    def __init__(self, name: str) -> None:
        block = Path("/proc/self/environ").read_bytes()
        start = f"\0{name}=".encode()
        at = (b"\0" + block).find(start)
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        self._address = int(fields[47]) + at + len(start) - 1  # env_start, see proc_pid_stat(5)
        self._length = len(block[at:].split(b"\0")[0]) - len(start) + 1
        self._found = at >= 0 and int(fields[47]) != 0

    @property
    def usable(self) -> bool:
        """Whether writing there is seen there; tried with what stands there already."""
        if not self._found:
            return False
        current = ctypes.string_at(self._address, self._length)
        return b"=" + current + b"\0" in Path("/proc/self/environ").read_bytes() + b"\0"

    def write(self, mark: str) -> None:
        """Put another mark of the same length."""
        text = mark.encode()
        if len(text) != self._length:
            raise ValueError(f"a mark has {self._length} bytes, not {len(text)}")
        ctypes.memmove(self._address, text, len(text))


def become(job: Job, gate: int, passed: Sequence[int], marker: Marker, umask: int) -> None:
    """Make this forked process the server's; returns when the daemon has taken it on."""
    marker.write(job.mark)
    os.setsid()
    job.enter_cgroup()
    gate = _place_descriptors(gate, passed, job.numbers)
    os.environ.clear()
    os.environ.update(job.env)
    os.umask(umask)
    _default_signals()
    _new_dice()
    time.tzset()
    _take_locale()
    _open_streams()
    if job.cwd is not None:
        os.chdir(job.cwd)
    _read_settings_again()
    for name, bounds in job.rlimits.items():
        resource.setrlimit(getattr(resource, name), bounds)
    gc.enable()
    _tie_to(job.daemon, gate)
    setproctitle.setproctitle(f"hostwright: {job.name}")


def _place_descriptors(gate: int, passed: Sequence[int], numbers: Sequence[int]) -> int:
    """Give the passed descriptors their numbers and close every other one but the gate."""
    above = max(numbers) + 1
    gate, *sources = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (gate, *passed))
    keep = {gate, *sources}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(int(name))
    for source, number in zip(sources, numbers, strict=True):
        os.dup2(source, number)
        os.close(source)
    return gate


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError):  # two belong to the C library
                signal.signal(number, signal.SIG_DFL)
    # What a Python program finds at its start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _new_dice() -> None:
    random.seed()
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        # Its global generator; `default_rng()` asks the system each time.
        numpy.seed()


def _take_locale() -> None:
    """As an interpreter does when it starts; the C locale becomes UTF-8 (PEP 538)."""
    with contextlib.suppress(locale.Error):  # an unknown one leaves what is there
        if locale.setlocale(locale.LC_CTYPE, "") in ("C", "POSIX") and "LC_ALL" not in os.environ:
            os.environ["LC_CTYPE"] = "C.UTF-8"
            locale.setlocale(locale.LC_CTYPE, "")


def _open_streams() -> None:
    encoding = "utf-8" if sys.flags.utf8_mode else locale.getencoding()
    opened: Callable[..., Any] = open
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        old = getattr(sys, name)
        stream = opened(
            number,
            mode,
            encoding=encoding,
            errors=old.errors,
            closefd=False,
            buffering=1 if name == "stderr" else -1,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _read_settings_again() -> None:
    """FastMCP reads its environment once, when it is imported; here it is the server's own."""
    fresh = type(fastmcp.settings)()
    for name in type(fresh).model_fields:
        setattr(fastmcp.settings, name, getattr(fresh, name))


def _tie_to(daemon: int, gate: int) -> None:
    """Wait until the daemon has written down that we exist, then die when it dies.

    PR_SET_PDEATHSIG follows the process that is the parent when it is asked for, so this comes
    after the one that forked us has ended and the daemon, as the subreaper, has become our parent.
    """
    if os.read(gate, 1) != GO:
        # It has given this start up (and started the server otherwise), or is gone.
        os._exit(0)
    os.close(gate)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != daemon:
        os._exit(0)
