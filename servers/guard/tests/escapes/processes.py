"""Attempts on other processes and on what bounds one's own. World: bait_pid, secret, marker."""

# pyright: basic
from __future__ import annotations

import ctypes
import errno
import os
import signal
import time

from attempt import attempt, libc, number, syscall, world  # pyright: ignore[reportMissingImports]

MARKER = "escape-survivor"


def bait():
    return world("bait_pid")


@attempt("anyone")
def signal_a_process_outside():
    os.kill(bait(), 0)
    return "reached"


@attempt("anyone")
def open_a_process_outside():
    return "opened %d" % syscall(434, bait(), 0)


@attempt("root")
def attach_to_a_process_outside():
    if libc.ptrace(16, bait(), 0, 0) == 0:
        os.waitpid(bait(), 0x40000000)
        libc.ptrace(17, bait(), 0, 0)
        return "attached"
    raise OSError(ctypes.get_errno(), "ptrace")


@attempt()
def trace_the_first_process():
    if libc.ptrace(16, 1, 0, 0) == 0:
        return "attached"
    raise OSError(ctypes.get_errno(), "ptrace")


@attempt("anyone")
def be_traced():
    return "traced" if libc.ptrace(0, 0, 0, 0) == 0 else None


@attempt("root")
def read_the_memory_of_a_process_outside():
    local = (ctypes.c_size_t * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    remote = (ctypes.c_size_t * 2)(world("bait_address"), 8)
    return "read %d" % syscall(number(310, 270), bait(), local, 1, remote, 1, 0)


@attempt()
def write_the_memory_of_the_first_process():
    with open("/proc/1/mem", "r+b") as file:
        file.read(1)
    return "opened"


@attempt("root")
def take_a_descriptor_of_a_process_outside():
    handle = syscall(434, bait(), 0)
    return "took %d" % syscall(438, handle, 0, 0)


@attempt("root")
def read_the_environment_of_a_process_outside():
    with open("/proc/%d/environ" % bait(), "rb") as file:
        return world("marker") if world("marker").encode() in file.read() else None


@attempt("root")
def find_a_secret_in_any_environment():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/environ" % name, "rb") as file:
                    if world("marker").encode() in file.read():
                        return "process " + name
            except OSError:
                continue
    return None


@attempt()
def find_a_secret_on_any_command_line():
    for name in os.listdir("/proc"):
        if name.isdigit():
            with open("/proc/%s/cmdline" % name, "rb") as file:
                text = file.read()
            if b"/run/user" in text or world("state").encode() in text:
                return text
    return None


@attempt()
def find_anything_inherited_in_the_environment():
    wanted = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "PWD")
    more = [n for n in os.environ if n not in (*wanted, "ESCAPE_WORLD", "LC_CTYPE")]
    return more or None


@attempt()
def see_processes_outside():
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return max(found) if bait() in found else None


@attempt()
def signal_everybody():
    """Inside a namespace that is everybody inside; the first process must outlive it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(-1, 0)
    os.kill(1, signal.SIGKILL)
    time.sleep(0.2)
    # Process 1 takes no signal from inside: were it gone, so would we be.
    return None if os.path.exists("/proc/1/status") else "ended"


@attempt("root")
def raise_the_priority():
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    return "raised"


@attempt("root")
def ask_for_real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "granted"


@attempt()
def be_spared_when_memory_is_short():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return "spared"


@attempt("root")
def lock_memory():
    block = ctypes.create_string_buffer(16 * 2**20)
    return "locked" if libc.mlock(block, ctypes.c_size_t(16 * 2**20)) == 0 else None


@attempt()
def fork_without_end():
    """As many as there is room for; the limit and its own end bound it."""
    count = 0
    try:
        for _ in range(world("processes") + 200):
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            count += 1
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
    return count if count > world("processes") else None


@attempt()
def use_more_memory():
    block = bytearray()
    while len(block) < (world("memory_mb") + 64) * 2**20:
        block += b"x" * (8 * 2**20)
    return "used %d" % len(block)


@attempt()
def dump_core():
    return "dumps" if __import__("resource").getrlimit(4)[1] else None


@attempt()
def leave_a_process_behind():
    """It leaves session, parents and environment; the caller looks for it afterwards."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve("/bin/sleep", [MARKER, "300"], {})
        os._exit(0)
