"""What runs here: everything that listens, joined to the process, unit and container behind it.

The join is by identity at every step: socket inode → open file of a process → its executable, its
cgroup (systemd unit, container) and its namespaces. Nothing is matched by parts of names. Where a
step is not permitted, the answer says so. Blocking; needs Linux.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_system.host import table
from hostwright_system.host.commandline import shown_command
from hostwright_system.host.known import UNKNOWN, Identity, identify, real_path
from hostwright_system.host.ports import reach
from hostwright_system.host.processes import user_name
from hostwright_system.host.procfs import PAGE_BYTES, CgroupPlace, Proc, Stat
from hostwright_system.host.sockets import (
    Owners,
    OwnerStatus,
    Socket,
    SocketTable,
    read_owners,
    read_tables,
    require_linux,
)

MAX_LISTENERS_SHOWN = 50
MAX_PIDS_SHOWN = 32


class Listener(BaseModel, frozen=True):
    """One address that accepts connections or datagrams."""

    protocol: Literal["tcp", "udp", "unix"]
    family: Literal["ipv4", "ipv6", "unix"]
    address: str | None = Field(description="Null for unix sockets.")
    port: int | None
    well_known_service: str | None = Field(
        description="What /etc/services calls the port; says nothing about what really listens."
    )
    reach: Literal["loopback", "all_addresses", "one_address", "local"] = Field(
        description="From where it can be reached, before any firewall; unix sockets are local."
    )
    path: str | None = Field(description="Of a unix socket; abstract ones begin with @.")


class Discovered(BaseModel, frozen=True, extra="forbid"):
    """One program that listens (its workers with it), or listeners whose holder is not known."""

    kind: str = Field(description="nginx, postgres, redis, node, python, …; else unknown.")
    runtime: str | None = Field(description="The interpreter, when the program runs in one.")
    program: str | None = Field(description="Script, module or jar that the interpreter runs.")
    pid: int | None = Field(description="The oldest process that holds the sockets.")
    pids: tuple[int, ...] = Field(description="All that hold them, at most 32.")
    start_time_ticks: int | None = Field(description="With the pid: identity of the process.")
    name: str | None = Field(description="The kernel's short name; a process may set its own.")
    user: str | None
    executable: str | None
    executable_replaced: bool = Field(
        description="The file was deleted or replaced since the start, as by an update."
    )
    command: str | None = Field(description="Secrets removed, cut at 1000.")
    memory_rss_bytes: int | None = Field(description="Of all pids; shared pages count twice.")
    systemd_unit: str | None
    systemd_user_unit: str | None
    container_runtime: str | None
    container_id: str | None
    network_namespace: int | None = Field(description="Null: the same as this server's.")
    pid_namespace: int | None = Field(description="Null: the same as this server's, or hidden.")
    owner_status: OwnerStatus = Field(
        description="known; no_permission: held by a process that may not be looked into; "
        "none: held by the kernel or by a process outside this view."
    )
    identification: str | None = Field(description="Why the kind is unknown, when it is.")
    listeners: tuple[Listener, ...] = Field(description="At most 50.")
    listener_count: int
    first_port: int | None = Field(description="The lowest TCP or UDP port.")


class Discovery(BaseModel, frozen=True):
    found: tuple[Discovered, ...]
    total: int
    truncated: bool
    next_cursor: str | None
    notes: tuple[str, ...]


TABLE: table.Table[Discovered] = table.Table(
    kind="discover",
    fields=(
        table.Field("kind", "choice"),
        table.Field("runtime", "choice"),
        table.Field("pid", "number"),
        table.Field("first_port", "number"),
        table.Field("user", "choice"),
        table.Field("systemd_unit", "text"),
        table.Field("container_id", "text"),
        table.Field("owner_status", "choice"),
        table.Field("memory_rss_bytes", "number"),
        table.Field("listener_count", "number"),
    ),
    identity=lambda row: (
        f"{row.network_namespace or 0} {row.pid or 0:010d} {row.start_time_ticks or 0} "
        f"{row.owner_status} {row.user}"
    ),
    default_sort="first_port",
)


def system_discover(
    *,
    filters: dict[str, table.FilterValue] | None = None,
    limit: int = 100,
    cursor: str | None = None,
    proc: Proc | None = None,
) -> Discovery:
    """Every program that listens on TCP, UDP or a unix socket, in every network namespace that may
    be read, by port. Blocking."""
    require_linux("Listeners")
    request = table.check_request(
        TABLE, sort=None, order=None, filters=filters, limit=limit, cursor=cursor
    )
    rows, notes = discover_rows(proc or Proc())
    page = table.take_page(TABLE, rows, request)
    return Discovery(
        found=page.rows,
        total=page.total,
        truncated=page.next_cursor is not None,
        next_cursor=page.next_cursor,
        notes=tuple(notes),
    )


def discover_rows(proc: Proc) -> tuple[list[Discovered], list[str]]:
    """The whole listing and what could not be read."""
    tables = read_tables(proc, ("tcp", "udp", "unix"), all_namespaces=True)
    owners = read_owners(proc)
    rows: list[Discovered] = []
    for one in tables:
        rows += _rows_of_namespace(proc, one, owners)
    return rows, owners.notes


def _rows_of_namespace(proc: Proc, one: SocketTable, owners: Owners) -> list[Discovered]:
    held: dict[int, list[Socket]] = defaultdict(list)
    holders: dict[int, set[int]] = defaultdict(set)
    stats: dict[int, Stat] = {}
    orphans: dict[tuple[OwnerStatus, int | None], list[Socket]] = defaultdict(list)
    for item in one.sockets:
        if not item.listening:
            continue
        pids = owners.pids.get(item.inode, ())
        for pid in pids:
            stat = stats.get(pid) or proc.stat(pid)
            if stat is not None:
                stats[pid] = stat
        alive = [stats[pid] for pid in pids if pid in stats]
        if not alive:
            orphans[owners.status(item.inode), item.uid].append(item)
            continue
        # A listener is inherited by workers; the oldest holder is the program that opened it.
        oldest = min(alive, key=lambda s: (s.start_ticks, s.pid))
        held[oldest.pid].append(item)
        holders[oldest.pid].update(s.pid for s in alive)
    rows = [
        _row(proc, stats[pid], [stats[p] for p in sorted(holders[pid])], sockets, one.namespace)
        for pid, sockets in held.items()
    ]
    return rows + [
        _orphan_row(status, uid, sockets, one.namespace)
        for (status, uid), sockets in orphans.items()
    ]


def _row(
    proc: Proc, main: Stat, group: Sequence[Stat], sockets: Sequence[Socket], namespace: int | None
) -> Discovered:
    executable = proc.executable(main.pid)
    arguments = proc.arguments(main.pid)
    uid = proc.effective_uid(main.pid)
    place: CgroupPlace = proc.place(main.pid)
    identity = identify(executable, arguments or [])
    own_pid_namespace = proc.namespace("self", "pid")
    pid_namespace = proc.namespace(main.pid, "pid")
    return Discovered(
        kind=identity.kind,
        runtime=identity.runtime,
        program=identity.program,
        pid=main.pid,
        pids=tuple(s.pid for s in group)[:MAX_PIDS_SHOWN],
        start_time_ticks=main.start_ticks,
        name=main.name,
        user=None if uid is None else user_name(uid),
        executable=None if executable is None else real_path(executable),
        executable_replaced=executable is not None and executable.endswith(" (deleted)"),
        command=None if arguments is None else shown_command(arguments),
        memory_rss_bytes=sum(max(0, s.rss_pages) for s in group) * PAGE_BYTES,
        systemd_unit=place.unit,
        systemd_user_unit=place.user_unit,
        container_runtime=place.container.runtime if place.container else None,
        container_id=place.container.id if place.container else None,
        network_namespace=namespace,
        pid_namespace=None if pid_namespace == own_pid_namespace else pid_namespace,
        owner_status="known",
        identification=_why_unknown(identity, executable),
        **_listeners(sockets),
    )


def _orphan_row(
    status: OwnerStatus, uid: int | None, sockets: Sequence[Socket], namespace: int | None
) -> Discovered:
    reason = {
        "no_permission": "The process that holds it may not be looked into by this user.",
        "none": "Held by the kernel or by a process outside this view.",
        "known": "The process ended while it was read.",
    }[status]
    return Discovered(
        kind=UNKNOWN,
        runtime=None,
        program=None,
        pid=None,
        pids=(),
        start_time_ticks=None,
        name=None,
        user=None if uid is None else user_name(uid),
        executable=None,
        executable_replaced=False,
        command=None,
        memory_rss_bytes=None,
        systemd_unit=None,
        systemd_user_unit=None,
        container_runtime=None,
        container_id=None,
        network_namespace=namespace,
        pid_namespace=None,
        owner_status=status,
        identification=reason,
        **_listeners(sockets),
    )


def _why_unknown(identity: Identity, executable: str | None) -> str | None:
    if identity.kind != UNKNOWN:
        return None
    if executable is None:
        return "Its executable may not be read by this user."
    return "The executable is in no table of known programs."


def _listeners(sockets: Sequence[Socket]) -> dict[str, Any]:
    shown = sorted(
        {_listener(s) for s in sockets},
        key=lambda x: (x.port is None, x.port or 0, x.protocol, x.address or "", x.path or ""),
    )
    ports = [x.port for x in shown if x.port is not None]
    return {
        "listeners": tuple(shown[:MAX_LISTENERS_SHOWN]),
        "listener_count": len(shown),
        "first_port": min(ports, default=None),
    }


def _listener(item: Socket) -> Listener:
    if item.protocol == "unix":
        return Listener(
            protocol="unix",
            family="unix",
            address=None,
            port=None,
            well_known_service=None,
            reach="local",
            path=item.path,
        )
    return Listener(
        protocol=item.protocol,
        family=item.family,
        address=item.local_address,
        port=item.local_port,
        well_known_service=_service_name(item.local_port, item.protocol),
        reach=reach(item.local_address),
        path=None,
    )


def _service_name(port: int, protocol: str) -> str | None:
    try:
        return socket.getservbyport(port, protocol)
    except OSError:
        return None
