"""Tools that look at the machine: health, queries, discovery, network; and signals."""

from __future__ import annotations

import asyncio
import functools
from typing import Annotated, Any

from pydantic import Field

from hostwright_kit.progress import ticking
from hostwright_kit.server import HostServer
from hostwright_system.host.discover import Discovery
from hostwright_system.host.discover import system_discover as discover
from hostwright_system.host.environment import operating_system
from hostwright_system.host.health import HealthMonitor, SystemHealth
from hostwright_system.host.network import NetworkInfo
from hostwright_system.host.network import network_info as read_network
from hostwright_system.host.query import Kind, QueryPage
from hostwright_system.host.query import system_query as query
from hostwright_system.host.services import ServiceRow
from hostwright_system.host.signals import SignalName, SignalResult
from hostwright_system.host.signals import process_signal as send_signal
from hostwright_system.host.suite import SuiteProcesses
from hostwright_system.host.table import Order
from hostwright_system.services import UnitSummary, list_units
from hostwright_system.settings import SystemSettings

Value = (
    Annotated[str, Field(max_length=1_000)]
    | Annotated[int, Field(ge=-(1 << 62), le=1 << 62)]
    | Annotated[float, Field(ge=-1e18, le=1e18)]
    | bool
    | None
)
Wanted = Value | Annotated[list[Value], Field(max_length=100)]
Cursor = Annotated[
    str | None,
    Field(max_length=4_000, description="next_cursor of the page before, with the same question."),
]


def register(app: HostServer, settings: SystemSettings, *, suite: SuiteProcesses) -> None:
    """Add the tools, the two resources and what keeps their readings fresh."""
    monitor = HealthMonitor()
    app.background += [monitor.keep_fresh, functools.partial(_warm, monitor)]

    async def services() -> list[ServiceRow]:
        return await _all_services(settings.dbus_address)

    @app.read_tool(title="Machine health")
    def system_health() -> SystemHealth:
        """How this machine is now: CPU per core, memory, swap, pressure, disks, temperatures.

        Use it first when something is slow or failing. CPU shares are measured over the stated
        window, not since boot. PSI pressure (Linux, docs.kernel.org/accounting/psi.html) shows
        what waits for CPU, memory or disks; it is null with a reason where the kernel has none.
        """
        return monitor.read()

    @app.read_tool(title="Query the machine")
    async def system_query(
        kind: Annotated[Kind, Field(description="What to list.")] = "processes",
        sort: Annotated[
            str | None, Field(max_length=64, description="A field of the rows; default: per kind.")
        ] = None,
        order: Annotated[
            Order | None, Field(description="asc or desc; default: what the sort suggests.")
        ] = None,
        filter: Annotated[  # noqa: A002 - the name that agents expect
            dict[str, Wanted] | None,
            Field(
                max_length=10,
                description="Field → wanted value; all must hold. Names: glob with * ? [ ], else "
                "substring; numbers: exact, or a comparison such as '>=1000'; booleans: exact.",
            ),
        ] = None,
        limit: Annotated[int, Field(ge=1, le=500, description="Rows per page.")] = 50,
        cursor: Cursor = None,
    ) -> QueryPage:
        """List processes, services, ports, connections, disks, users, packages, generations or
        hardware, sorted, filtered and paged.

        Examples: kind=processes sort=cpu_percent order=desc limit=5; kind=ports
        filter={"local_port": 8080}; kind=packages filter={"name": "openssl*"}. An unknown field
        is an error that names the fields there are. Command lines are shown with secrets removed.
        """
        return await query(
            kind,
            sort=sort,
            order=order,
            filters=filter,
            limit=limit,
            cursor=cursor,
            list_services=services,
        )

    @app.read_tool(title="What runs here")
    def system_discover(
        filter: Annotated[  # noqa: A002 - the name that agents expect
            dict[str, Wanted] | None,
            Field(max_length=10, description="As in system_query; e.g. {'kind': 'postgres'}."),
        ] = None,
        limit: Annotated[int, Field(ge=1, le=500, description="Programs per page.")] = 100,
        cursor: Cursor = None,
    ) -> Discovery:
        """Every program that listens on TCP, UDP or a unix socket, with its process, systemd
        unit, container and kind (nginx, postgres, redis, node, python, …).

        The kind is told from the executable itself and, for interpreters, from the script; what
        is not certain is `unknown`. Sockets of other users' processes may stay without an owner
        unless this server runs as root; the row says so.
        """
        return discover(filters=filter, limit=limit, cursor=cursor)

    @app.read_tool(title="Network")
    def network_info() -> NetworkInfo:
        """Interfaces with addresses and counters, routes, default gateway, DNS resolvers, host
        names and proxies (without credentials).

        Read from this machine; only its own full name is asked of the resolver (1 s at most)."""
        return read_network()

    @app.write_tool(destructive=True, title="Signal a process")
    async def process_signal(
        pid: Annotated[int, Field(ge=2, le=1 << 22, description="Process id.")],
        signal: Annotated[
            SignalName, Field(description="TERM asks it to end, KILL ends it.")
        ] = "TERM",
        expected_name: Annotated[
            str | None,
            Field(max_length=256, description="Send only if the process has this name."),
        ] = None,
        expected_start_time_ticks: Annotated[
            int | None,
            Field(
                ge=0,
                le=1 << 62,
                description="Send only if it started then (from its row).",
            ),
        ] = None,
        wait_seconds: Annotated[
            float, Field(ge=0, le=20, description="How long to wait for its end.")
        ] = 2.0,
    ) -> SignalResult:
        """Send a signal to one process and report whether it ended.

        Give expected_name or expected_start_time_ticks from system_query, so that a pid that was
        reused meanwhile is not hit. Services are better stopped with service_control, which keeps
        their manager from starting them again. pid 1, kernel threads and this suite's own
        processes are refused.
        """
        async with ticking(wait_seconds, f"{signal} was sent"):
            return await send_signal(
                pid,
                signal,
                expected_start_time_ticks=expected_start_time_ticks,
                expected_name=expected_name,
                wait_seconds=wait_seconds,
                protected=suite.why,
            )

    @app.resource("system://health", mime_type="application/json", title="Machine health")
    def health_resource() -> str:
        """The same as the tool system_health, as JSON."""
        return monitor.read().model_dump_json()

    @app.resource("system://os", mime_type="application/json", title="Operating system")
    def os_resource() -> str:
        """Name, version, kernel and architecture of the operating system, as JSON."""
        return operating_system().model_dump_json()


async def _warm(monitor: HealthMonitor) -> None:
    """Ask once what never changes (which virtualization), so that no caller waits for it."""
    await asyncio.to_thread(monitor.read)


async def _all_services(bus_address: str | None) -> list[ServiceRow]:
    """Every unit of systemd, as rows; `system_query` pages over them."""
    rows: list[ServiceRow] = []
    cursor: str | None = None
    while True:
        page = await list_units(
            "*", unit_type=None, limit=500, cursor=cursor, bus_address=bus_address
        )
        rows += [_row(unit) for unit in page.units]
        cursor = page.next_cursor
        if cursor is None:
            return rows


def _row(unit: UnitSummary) -> ServiceRow:
    fields: dict[str, Any] = unit.model_dump()
    return ServiceRow.model_validate({name: fields.get(name) for name in ServiceRow.model_fields})
