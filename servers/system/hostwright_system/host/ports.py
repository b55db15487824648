"""Listening ports and open connections as rows, joined to the process that holds the socket.

Blocking. A row without a process says why: `no_permission` (some processes' open files may not be
read) or `none` (the kernel itself, a connection already closed, or a process outside this view).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_system.host import table
from hostwright_system.host.processes import user_name
from hostwright_system.host.procfs import Proc
from hostwright_system.host.sockets import (
    Owners,
    OwnerStatus,
    Socket,
    read_owners,
    read_tables,
    require_linux,
)

MAX_PIDS_SHOWN = 16


class _SocketRow(BaseModel, frozen=True, extra="forbid"):
    protocol: Literal["tcp", "udp"]
    family: Literal["ipv4", "ipv6"]
    local_address: str
    local_port: int
    pid: int | None = Field(description="The lowest pid that holds the socket.")
    process_name: str | None
    pids: tuple[int, ...] = Field(description="All that hold it (workers share), at most 16.")
    user: str | None = Field(description="Who opened the socket; null once it is closed.")
    inode: int
    owner_status: OwnerStatus = Field(
        description="known; no_permission: held by a process that may not be looked into; none."
    )


class PortRow(_SocketRow, frozen=True):
    """A listening TCP socket or a UDP socket that takes from everyone."""

    reach: Literal["loopback", "all_addresses", "one_address"] = Field(
        description="From where the address can be reached, before any firewall."
    )


class ConnectionRow(_SocketRow, frozen=True):
    """A TCP socket that does not listen, or a UDP socket bound to one peer."""

    state: str
    remote_address: str
    remote_port: int


_COMMON = (
    table.Field("protocol", "choice"),
    table.Field("family", "choice"),
    table.Field("local_address", "text"),
    table.Field("local_port", "number"),
    table.Field("pid", "number"),
    table.Field("process_name", "text"),
    table.Field("user", "choice"),
    table.Field("owner_status", "choice"),
)

PORTS: table.Table[PortRow] = table.Table(
    kind="ports",
    fields=(*_COMMON, table.Field("reach", "choice")),
    identity=lambda row: f"{row.protocol} {row.local_address} {row.local_port} {row.inode}",
    default_sort="local_port",
)

CONNECTIONS: table.Table[ConnectionRow] = table.Table(
    kind="connections",
    fields=(
        *_COMMON,
        table.Field("state", "choice"),
        table.Field("remote_address", "text"),
        table.Field("remote_port", "number"),
    ),
    identity=lambda row: (
        f"{row.protocol} {row.local_address} {row.local_port} {row.remote_address} "
        f"{row.remote_port} {row.inode}"
    ),
    default_sort="remote_address",
)


def port_rows(proc: Proc | None = None) -> tuple[list[PortRow], list[str]]:
    """Everything that listens in this network namespace, and notes."""
    proc = proc or Proc()
    sockets, owners = _sockets(proc, "ports")
    listening = [s for s in sockets if s.listening]
    names = _names(proc, listening, owners)
    rows = [PortRow(**_common(s, owners, names), reach=reach(s.local_address)) for s in listening]
    return rows, owners.notes


def connection_rows(proc: Proc | None = None) -> tuple[list[ConnectionRow], list[str]]:
    """Every connection of this network namespace, and notes."""
    proc = proc or Proc()
    sockets, owners = _sockets(proc, "connections")
    connected = [s for s in sockets if not s.listening and s.remote_port]
    names = _names(proc, connected, owners)
    rows = [
        ConnectionRow(
            **_common(s, owners, names),
            # The kernel shows a connected UDP socket as "established" too.
            state=s.state,
            remote_address=s.remote_address,
            remote_port=s.remote_port,
        )
        for s in connected
    ]
    return rows, owners.notes


def reach(address: str) -> Literal["loopback", "all_addresses", "one_address"]:
    """How far a bound address can be reached."""
    if address in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound
        return "all_addresses"
    if address.startswith(("127.", "::ffff:127.")) or address == "::1":
        return "loopback"
    return "one_address"


def _sockets(proc: Proc, what: str) -> tuple[tuple[Socket, ...], Owners]:
    require_linux(what.capitalize())
    (own,) = read_tables(proc, ("tcp", "udp"))
    return own.sockets, read_owners(proc)


def _names(proc: Proc, sockets: Iterable[Socket], owners: Owners) -> dict[int, str]:
    pids = {owners.pids[s.inode][0] for s in sockets if s.inode in owners.pids}
    return {pid: stat.name for pid in pids if (stat := proc.stat(pid)) is not None}


def _common(socket: Socket, owners: Owners, names: dict[int, str]) -> dict[str, Any]:
    pids = owners.pids.get(socket.inode, ())
    return {
        "protocol": socket.protocol,
        "family": socket.family,
        "local_address": socket.local_address,
        "local_port": socket.local_port,
        "pid": pids[0] if pids else None,
        "process_name": names.get(pids[0]) if pids else None,
        "pids": pids[:MAX_PIDS_SHOWN],
        # A closed connection that is waited out has no socket any more; the kernel shows uid 0.
        "user": user_name(socket.uid) if socket.uid is not None and socket.inode else None,
        "inode": socket.inode,
        "owner_status": owners.status(socket.inode),
    }
