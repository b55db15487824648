"""Sockets of the kernel's tables and who holds them.

`/proc/net/{tcp,tcp6,udp,udp6,unix}` (proc_pid_net(5)) tell each socket with its inode; the links in
`/proc/PID/fd` tell which processes hold that inode. A table belongs to one network namespace, so
those of other namespaces (containers) are read through one process of each. Blocking: the walk over
all open files costs about 10 ms for a hundred processes.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hostwright_kit.errors import HostError
from hostwright_system.host.procfs import Proc, read_file, text

MAX_TABLE_BYTES = 64 << 20
MAX_NAMESPACES = 64

Protocol = Literal["tcp", "udp", "unix"]
OwnerStatus = Literal["known", "no_permission", "none"]

# include/net/tcp_states.h
TCP_STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "close",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "new_syn_recv",
}
_SO_ACCEPTCON = 0x10000  # include/linux/net.h: the flag of a listening unix socket


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket. Unix sockets have a path (abstract ones begin with `@`), others addresses."""

    protocol: Protocol
    family: Literal["ipv4", "ipv6", "unix"]
    state: str
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    uid: int | None
    inode: int
    path: str = ""

    @property
    def listening(self) -> bool:
        """TCP and unix: accepts connections. UDP: bound and open to every sender."""
        if self.protocol == "udp":
            return self.state == "close" and self.remote_port == 0 and self.local_port != 0
        return self.state == "listen"


def parse_inet(data: bytes, protocol: Literal["tcp", "udp"]) -> Iterator[Socket]:
    """The lines of one inet table; lines that are none (the heading, a torn one) are passed over.
    Addresses stand as 32-bit words in the machine's own byte order."""
    for line in data.splitlines():
        fields = line.split()
        if len(fields) < 10 or not fields[0].endswith(b":"):
            continue
        try:
            local, remote = _endpoint(fields[1]), _endpoint(fields[2])
            state, uid, inode = int(fields[3], 16), int(fields[7]), int(fields[9])
        except ValueError:
            continue
        yield Socket(
            protocol=protocol,
            family="ipv4" if len(fields[1]) == 13 else "ipv6",
            state=TCP_STATES.get(state, f"state_{state}"),
            local_address=local[0],
            local_port=local[1],
            remote_address=remote[0],
            remote_port=remote[1],
            uid=uid,
            inode=inode,
        )


def _endpoint(field_value: bytes) -> tuple[str, int]:
    address, _, port = field_value.partition(b":")
    if len(address) not in (8, 32) or len(port) != 4:
        raise ValueError("not an endpoint")
    words = bytes.fromhex(address.decode("ascii"))
    if sys.byteorder == "little":
        words = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    return str(ipaddress.ip_address(words)), int(port, 16)


def parse_unix(data: bytes) -> Iterator[Socket]:
    """The lines of the unix table. A path may hold spaces; its line ends it."""
    for line in data.split(b"\n"):
        fields = line.split(maxsplit=6)
        if len(fields) < 7 or not fields[0].endswith(b":"):
            continue
        inode, _, path = fields[6].partition(b" ")
        try:
            flags, number = int(fields[3], 16), int(inode)
        except ValueError:
            continue
        yield Socket(
            protocol="unix",
            family="unix",
            state="listen" if flags & _SO_ACCEPTCON else "connected" if fields[5] == b"03" else "-",
            local_address="",
            local_port=0,
            remote_address="",
            remote_port=0,
            uid=None,
            inode=number,
            path=text(path),
        )


@dataclass(frozen=True)
class Owners:
    """Socket inode → the pids that hold it; and how many processes could not be looked into."""

    pids: Mapping[int, tuple[int, ...]]
    unreadable_processes: int

    @property
    def notes(self) -> list[str]:
        """What could not be looked into, and what would help."""
        if not self.unreadable_processes:
            return []
        remedy = (
            "this container or service lacks CAP_SYS_PTRACE"
            if os.geteuid() == 0
            else "run the server as root to see them"
        )
        return [
            f"Processes whose open files may not be read by this user: {self.unreadable_processes}."
            f" Their sockets have no pid here; {remedy}."
        ]

    def status(self, inode: int) -> OwnerStatus:
        if inode in self.pids:
            return "known"
        return "no_permission" if self.unreadable_processes and inode else "none"


@dataclass(frozen=True)
class SocketTable:
    """Sockets of one network namespace; `namespace` is None for the reader's own."""

    namespace: int | None
    sockets: tuple[Socket, ...] = field(default=())


def require_linux(what: str) -> None:
    if not sys.platform.startswith("linux"):
        raise HostError(
            f"{what} are read from /proc, which {sys.platform} does not have.",
            fix="Use `lsof -nP -i` through shell_exec on this system.",
            code="unsupported",
        )


def read_tables(
    proc: Proc, protocols: Iterable[Protocol], *, all_namespaces: bool = False
) -> list[SocketTable]:
    """The tables of the reader's own namespace and, where asked and permitted, of the others."""
    wanted = tuple(protocols)
    tables = [SocketTable(None, tuple(_read(f"{proc.root}/self/net", wanted)))]
    if all_namespaces:
        for namespace, pid in _other_namespaces(proc).items():
            try:
                sockets = tuple(_read(f"{proc.root}/{pid}/net", wanted))
            except OSError:  # its last process ended meanwhile
                continue
            tables.append(SocketTable(namespace, sockets))
    return tables


def _read(folder: str, protocols: tuple[Protocol, ...]) -> Iterator[Socket]:
    for protocol in protocols:
        if protocol == "unix":
            yield from parse_unix(read_file(f"{folder}/unix", limit=MAX_TABLE_BYTES))
            continue
        for name in (protocol, f"{protocol}6"):
            try:
                data = read_file(f"{folder}/{name}", limit=MAX_TABLE_BYTES)
            except FileNotFoundError:  # a kernel without IPv6
                continue
            yield from parse_inet(data, protocol)


def _other_namespaces(proc: Proc) -> dict[int, int]:
    own = proc.namespace("self", "net")
    found: dict[int, int] = {}
    for pid in proc.pids():
        namespace = proc.namespace(pid, "net")
        if namespace is not None and namespace != own and len(found) < MAX_NAMESPACES:
            found.setdefault(namespace, pid)
    return found


def read_owners(proc: Proc) -> Owners:
    """Who holds which socket, over every process whose open files may be read."""
    holders: dict[int, list[int]] = {}
    unreadable = 0
    for pid in proc.pids():
        try:
            inodes = set(_socket_inodes(f"{proc.root}/{pid}/fd"))
        except PermissionError:
            unreadable += 1
            continue
        except OSError:  # ended meanwhile
            continue
        for inode in inodes:
            holders.setdefault(inode, []).append(pid)
    return Owners({inode: tuple(pids) for inode, pids in holders.items()}, unreadable)


def _socket_inodes(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):  # noqa: PTH208 - by descriptor, which Path cannot
            try:
                link = os.readlink(name, dir_fd=fd)
            except FileNotFoundError:  # closed meanwhile
                continue
            if link.startswith("socket:["):
                yield int(link[8:-1])
    finally:
        os.close(fd)
