"""The sandbox's seccomp filter.

What it says, in this order: a call made the way of another architecture (`int 0x80`, x32) ends the
process; a call that is newer than this list does not exist (ENOSYS); what `syscalls.FORBIDDEN`
names is refused (EPERM); some calls are judged by their arguments; the rest is allowed, within what
the namespaces, Landlock and the missing capabilities leave of it. Pure: makes bytes.
"""

from __future__ import annotations

import errno
import functools
import platform
import socket

from hostwright_guard.sandbox import bpf, syscalls
from hostwright_guard.sandbox.bpf import Instruction, errno_, give

ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
X32_BIT = 0x4000_0000

# clone(2): everything that makes a new namespace, CLONE_NEWTIME aside, which shares its bit with
# the signal number and cannot be given to clone.
NEW_NAMESPACES = 0x7E02_0000

# ioctl_tty(2): put characters into the terminal's input, as if the user had typed them.
TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

SET_ID_BITS = 0o6000
# open(2): O_CREAT, and the own bit of O_TMPFILE; only then is there a mode.
CREATES = 0o100 | 0o20000000

# personality(2): plain Linux, 32-bit uname, both, and asking what it is. Not READ_IMPLIES_EXEC.
PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)

# ip(7): whatever the two take for TCP and UDP. Not SCTP, DCCP, MPTCP, UDP-Lite: each is a kernel
# module of its own.
PROTOCOLS = (0, 6, 17)
# Python hides Linux' socket flags on other systems: the low bits are the type.
TYPE_BITS = 0xF


class UnknownMachineError(Exception):
    """There is no filter for this processor architecture."""


@functools.cache
def filter_for(machine: str | None = None) -> bytes:
    """The filter as `bwrap --seccomp` reads it."""
    return bpf.assemble(program(machine or platform.machine()))


def program(machine: str) -> list[Instruction]:
    """The filter for one architecture."""
    if machine not in ARCHITECTURES:
        raise UnknownMachineError(machine)
    code = [bpf.load(bpf.ARCHITECTURE)]
    code += bpf.unless_equal(ARCHITECTURES[machine], [give(bpf.KILL_PROCESS)])
    code.append(bpf.load(bpf.NUMBER))
    if machine == "x86_64":
        code += bpf.when_at_least(X32_BIT, [give(bpf.KILL_PROCESS)])
    code += bpf.when_at_least(syscalls.LAST_JUDGED + 1, [give(errno_(errno.ENOSYS))])
    for numbers in syscalls.FORBIDDEN.values():
        code += _block(machine, numbers, [give(errno_(errno.EPERM))])
    # A structure in memory cannot be judged. ENOSYS makes libraries fall back to what can be.
    for numbers in (syscalls.CLONE3, syscalls.OPENAT2):
        code += _block(machine, numbers, [give(errno_(errno.ENOSYS))])
    code += _block(machine, syscalls.CLONE, _clone())
    code += _block(machine, syscalls.IOCTL, _ioctl())
    code += _block(machine, syscalls.SOCKET, _socket())
    code += _block(machine, syscalls.SOCKETPAIR, _socketpair())
    code += _block(machine, syscalls.PERSONALITY, _personality())
    for call in syscalls.SET_MODE.values():
        code += _block(machine, call.numbers, _mode(call))
    return [*code, give(bpf.ALLOW)]


def _block(machine: str, numbers: syscalls.Numbers, block: list[Instruction]) -> list[Instruction]:
    number = numbers.x86_64 if machine == "x86_64" else numbers.aarch64
    return [] if number is None else bpf.when_equal(number, block)


def _clone() -> list[Instruction]:
    return [
        bpf.load(bpf.low_word(0)),
        *bpf.when_any_bit(NEW_NAMESPACES, [give(errno_(errno.EPERM))]),
        give(bpf.ALLOW),
    ]


def _ioctl() -> list[Instruction]:
    code = [bpf.load(bpf.low_word(1))]
    for request in TERMINAL_INJECTION:
        code += bpf.when_equal(request, [give(errno_(errno.EPERM))])
    return [*code, give(bpf.ALLOW)]


def _socket() -> list[Instruction]:
    """TCP and UDP, in a network of its own.

    No Unix sockets: a path that may be read may lead to somebody's (a container engine's, say), and
    connecting is not writing. No netlink, packet, vsock or Bluetooth.
    """
    refused = errno_(errno.EAFNOSUPPORT)
    return [
        bpf.load(bpf.low_word(0)),
        *bpf.one_of((socket.AF_INET, 10), refused),
        bpf.load(bpf.low_word(1)),
        bpf.mask(TYPE_BITS),
        *bpf.one_of((socket.SOCK_STREAM, socket.SOCK_DGRAM), errno_(errno.EPERM)),
        bpf.load(bpf.low_word(2)),
        *bpf.one_of(PROTOCOLS, errno_(errno.EPROTONOSUPPORT)),
        give(bpf.ALLOW),
    ]


def _socketpair() -> list[Instruction]:
    """Both ends are the sandbox's own. No datagrams: those can be sent to any path."""
    return [
        bpf.load(bpf.low_word(0)),
        *bpf.one_of((socket.AF_UNIX,), errno_(errno.EAFNOSUPPORT)),
        bpf.load(bpf.low_word(1)),
        bpf.mask(TYPE_BITS),
        *bpf.one_of((socket.SOCK_STREAM, socket.SOCK_SEQPACKET), errno_(errno.EPERM)),
        give(bpf.ALLOW),
    ]


def _personality() -> list[Instruction]:
    return [
        bpf.load(bpf.low_word(0)),
        *bpf.one_of(PERSONALITIES, errno_(errno.EPERM)),
        give(bpf.ALLOW),
    ]


def _mode(call: syscalls.ModeArgument) -> list[Instruction]:
    """No file becomes set-user-ID or set-group-ID: outside, its bits would count.

    (Inside they never do.) A server that runs as root would otherwise hand out root through any
    folder that a sandbox may write to.
    """
    judged = [
        bpf.load(bpf.low_word(call.mode)),
        *bpf.when_any_bit(SET_ID_BITS, [give(errno_(errno.EPERM))]),
        give(bpf.ALLOW),
    ]
    if call.flags is None:
        return judged
    # Without these flags the mode is not an argument, and what is in its place means nothing.
    return [
        bpf.load(bpf.low_word(call.flags)),
        *bpf.when_any_bit(CREATES, judged),
        give(bpf.ALLOW),
    ]
