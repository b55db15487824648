"""The system calls that Python has no function for: prctl, setns, Landlock, one route.

Standards: prctl(2), setns(2), namespaces(7) and ioctl_ns(2), landlock(7), rtnetlink(7). Linux only;
the numbers of the Landlock calls are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
NS_GET_USERNS = 0xB701

_OPENAT2 = 437
# openat2(2): not out of the folder, and no link on the way.
_RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x04, 0x10

_CREATE_RULESET = 444
_ADD_RULE = 445
_PATH_BENEATH = 1
_VERSION = 1

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
MAKE_CHAR = 1 << 6
MAKE_SOCK = 1 << 9
MAKE_BLOCK = 1 << 11
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15

READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = READ_FILE | READ_DIR | WRITE_FILE | IOCTL_DEV
# A device node or a socket has no use in a sandbox, and one in a folder outlives it.
WRITE = ((1 << 15) - 1) & ~(MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK)
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _call("prctl", _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def setns(descriptor: int, kind: int) -> None:
    _call("setns", _libc.setns(descriptor, kind))


def unshare(flags: int) -> None:
    _call("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    code = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
        os.fsencode(options),
    )  # fmt: skip
    _call("mount", code)


def join(pid: int) -> None:
    """Enter the mount and network namespaces of a process, as the owner of their user namespace."""
    network, mounts = (
        os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("net", "mnt")
    )
    setns(fcntl.ioctl(network, NS_GET_USERNS), CLONE_NEWUSER)
    setns(network, CLONE_NEWNET)
    setns(mounts, CLONE_NEWNS)


def open_beneath(root: int, path: str) -> int:
    """Open (O_PATH) what an absolute path names below an open folder; no link is followed.

    Through /proc/PID/root, a link to /etc would lead to the /etc of whoever looks.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    how = struct.pack("=3Q", flags, 0, _RESOLVE_NO_SYMLINKS | _RESOLVE_IN_ROOT)
    return _call("openat2", _libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how)))


def cover(path: str) -> None:
    """Put /dev/null over a file, where there is one."""
    bind = ctypes.c_ulong(4096)
    if _libc.mount(b"/dev/null", path.encode(), None, bind, None) < 0:
        number = ctypes.get_errno()
        if number != errno.ENOENT:
            raise OSError(number, f"cover {path}: {os.strerror(number)}")


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 when it has none."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, 0, _VERSION))


class Ruleset:
    """A Landlock rule set under construction: nothing is allowed but what is added."""

    def __init__(self) -> None:
        version = landlock_version()
        rights = 13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16
        self._handled = (1 << rights) - 1
        # Which fields `struct landlock_ruleset_attr` has depends on the version.
        fields = [self._handled]
        if version >= 4:
            # TCP is bounded by the network namespace, whose ports are all the sandbox's own.
            fields.append(0)
        if version >= 6:
            # Abstract Unix sockets and signals: not out of the sandbox.
            fields.append(3)
        attribute = struct.pack(f"={len(fields)}Q", *fields)
        self.descriptor = _call(
            "landlock_create_ruleset",
            _libc.syscall(_CREATE_RULESET, attribute, len(attribute), 0),
        )

    def allow(self, place: int, rights: int) -> None:
        """Allow `rights` at and beneath an open (O_PATH) file or folder."""
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights & self._handled, place)
        _call(
            "landlock_add_rule",
            _libc.syscall(_ADD_RULE, self.descriptor, _PATH_BENEATH, rule, 0),
        )


def take_all_addresses() -> None:
    """In the current network namespace: every address is local.

    `ip route add local default dev lo`, for both families. Whatever a program connects to, however
    it found the address, arrives at the listeners on this namespace's loopback device.
    """
    loopback = 1  # the first device of every network namespace
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        for family in (socket.AF_INET, socket.AF_INET6):
            # struct rtmsg: table local (255), protocol static (4), scope host (254), type local (2)
            route = struct.pack("=8BI", family, 0, 0, 0, 255, 4, 254, 2, 0)
            route += struct.pack("=HHI", 8, 4, loopback)  # RTA_OIF
            # RTM_NEWROUTE (24), NLM_F_REQUEST | ACK | CREATE (0x405)
            link.send(struct.pack("=IHHII", 16 + len(route), 24, 0x405, 1, 0) + route)
            (number,) = struct.unpack_from("=i", link.recv(4096), 16)
            # A kernel without IPv6 has nothing to take.
            if number and family == socket.AF_INET:
                raise OSError(-number, os.strerror(-number))
