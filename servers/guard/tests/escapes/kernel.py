"""Attempts on the kernel's own surfaces: namespaces, keyrings, programs in the kernel, modules."""

# pyright: basic
from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import socket
import struct

from attempt import X86, attempt, libc, number, syscall  # pyright: ignore[reportMissingImports]

BUFFER = (ctypes.c_ubyte * 256)()


@attempt("anyone")
def new_user_namespace():
    return "made" if syscall(number(272, 97), 0x10000000) == 0 else None


@attempt("root")
def new_mount_namespace():
    return "made" if syscall(number(272, 97), 0x00020000) == 0 else None


@attempt("anyone")
def user_namespace_by_clone():
    pid = syscall(number(56, 220), 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return "made"


@attempt("anyone")
def user_namespace_by_clone3():
    # struct clone_args: flags, then seven words, exit_signal among them
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0)
    pid = syscall(435, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    return "made"


@attempt("anyone")
def join_a_namespace():
    for name in ("user", "net", "mnt"):
        file = os.open("/proc/self/ns/" + name, os.O_RDONLY)
        try:
            # One's own is joined without effect, where joining is allowed at all.
            syscall(number(308, 268), file, 0)
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
            return "judged by the kernel: %s" % error
        return "joined"
    return None


@attempt()
def load_a_kernel_program():
    # BPF_MAP_CREATE, an array of one
    struct.pack_into("<IIII", BUFFER, 0, 2, 4, 4, 1)
    return "made %d" % syscall(number(321, 280), 0, BUFFER, 72)


@attempt()
def set_up_an_io_ring():
    return "made %d" % syscall(425, 4, (ctypes.c_ubyte * 120)())


@attempt()
def enter_an_io_ring():
    try:
        syscall(426, -1, 0, 0, 0, 0, 0)
    except OSError as error:
        return None if error.errno in (errno.EPERM, errno.ENOSYS) else "judged: %s" % error
    return None


@attempt()
def read_the_session_keyring():
    return "got %d" % syscall(number(250, 219), 0, -3, 1)


@attempt()
def add_a_key():
    return "added %d" % syscall(number(248, 217), b"user", b"escape", b"x", 1, -2)


@attempt()
def request_a_key():
    try:
        syscall(number(249, 218), b"user", b"escape", None, 0)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "got"


@attempt()
def count_events_of_the_processor():
    struct.pack_into("<IIQ", BUFFER, 0, 1, 112, 0)
    return "opened %d" % syscall(number(298, 241), BUFFER, 0, -1, -1, 0)


@attempt()
def handle_page_faults():
    return "opened %d" % syscall(number(323, 282), 1)


@attempt()
def watch_the_file_system():
    return "opened %d" % syscall(number(300, 262), 0, 0)


@attempt()
def load_a_module():
    try:
        syscall(number(313, 273), -1, b"", 0)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "loaded"


@attempt()
def load_another_kernel():
    try:
        syscall(number(246, 104), 0, 0, None, 1 << 31)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "loaded"


@attempt()
def restart_the_machine():
    # With wrong magic numbers: whoever is let through sees EINVAL, and nothing happens.
    try:
        syscall(number(169, 142), 0, 0, 0, None)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "restarted"


@attempt()
def swap_onto_a_file():
    try:
        syscall(number(167, 224), b"/nonexistent", 0)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "swapping"


@attempt()
def keep_accounts_of_processes():
    try:
        syscall(number(163, 89), b"/nonexistent")
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "kept"


@attempt()
def set_the_clock():
    moment = (ctypes.c_long * 2)(0, 0)
    # An id that no clock has: let through, it is EINVAL.
    try:
        syscall(number(227, 112), 99, moment)
    except OSError as error:
        return None if error.errno == errno.EPERM else "judged: %s" % error
    return "set"


@attempt()
def rename_the_host():
    return "renamed" if syscall(number(170, 161), b"x", 1) == 0 else None


@attempt()
def read_the_kernels_log():
    return "read %d" % syscall(number(103, 116), 3, BUFFER, 256)


@attempt("anyone")
def make_memory_executable_by_personality():
    before = syscall(number(135, 92), 0xFFFFFFFF)
    syscall(number(135, 92), 0x0400000)  # READ_IMPLIES_EXEC
    return "changed" if syscall(number(135, 92), 0xFFFFFFFF) != before else None


@attempt("anyone")
def type_into_a_terminal():
    """A terminal of our own stands for the user's."""
    _, slave = pty.openpty()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    try:
        fcntl.ioctl(slave, 0x5412, b"x")
    except OSError as error:
        # EIO: this kernel has dev.tty.legacy_tiocsti = 0. It was let through to the kernel.
        return "judged by the kernel" if error.errno == errno.EIO else None
    return "typed"


@attempt("anyone")
def type_into_a_terminal_with_high_bits():
    """The kernel reads 32 bits of the request; a filter that compares 64 is passed by."""
    _, slave = pty.openpty()
    fcntl.ioctl(slave, 0x540E, 0)
    try:
        syscall(number(16, 29), slave, 0x1_0000_5412, b"x")
    except OSError as error:
        return "judged by the kernel" if error.errno == errno.EIO else None
    return "typed"


def run_code(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_long)(address)()


if X86:

    @attempt()
    def call_as_a_32_bit_program():
        # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
        return "answered %d" % run_code(bytes.fromhex("53b814000000cd805bc3"))

    @attempt()
    def call_as_an_x32_program():
        return "answered %d" % syscall(0x40000000 | 39)


@attempt()
def call_what_nobody_has_judged():
    for new in range(467, 520):
        try:
            syscall(new, -1, -1, -1, -1, -1, -1)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                continue
            return "%d was judged by the kernel: %s" % (new, error)
        return "%d was let through" % new
    return None


@attempt()
def regain_a_capability():
    # capset(2), version 3: everything, in all three sets
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    return "regained" if libc.capset(header, data) == 0 else None


@attempt()
def keep_a_capability_across_execution():
    # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN
    return "raised" if libc.prctl(47, 2, 21, 0, 0) == 0 else None


@attempt("root")
def become_another_user():
    os.setresuid(1, 1, 1)
    return "became %d" % os.getuid()


@attempt()
def become_root():
    os.setuid(0)
    return "became root"


@attempt("root")
def leave_all_groups():
    os.setgroups([])
    return "left"


@attempt()
def loosen_the_filter():
    """A further filter can only tighten; reading the first one's own away needs what we lack."""
    if libc.prctl(22, 0, 0, 0, 0) == 0:  # PR_SET_SECCOMP, disabled
        return "disabled"
    return None


@attempt()
def allow_new_privileges_again():
    return "allowed" if libc.prctl(38, 0, 0, 0, 0) == 0 else None


@attempt()
def raise_a_limit():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    return "raised"


@attempt("anyone")
def use_an_unusual_protocol():
    """Each is a module of the kernel that nothing here needs."""
    for family, kind, protocol in ((2, 1, 262), (2, 1, 132), (38, 5, 0), (16, 3, 0), (1, 1, 0)):
        try:
            socket.socket(family, kind, protocol).close()
        except OSError:
            continue
        return "family %d, protocol %d" % (family, protocol)
    return None
