"""One question for every kind of fact: which rows, sorted and filtered how, a page at a time.

The meaning of filters, order and cursor is in `table`; each kind declares its fields beside its
rows. `system_query` is asyncio all the way: what blocks runs in a thread, services are asked of the
coroutine that is passed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.host import (
    accounts,
    disks,
    generations,
    hardware,
    packages,
    ports,
    processes,
    services,
    table,
)
from hostwright_system.host.accounts import UserRow
from hostwright_system.host.disks import DiskRow
from hostwright_system.host.generations import GenerationRow
from hostwright_system.host.hardware import HardwareRow
from hostwright_system.host.packages import PackageRow
from hostwright_system.host.ports import ConnectionRow, PortRow
from hostwright_system.host.processes import ProcessLister, ProcessRow
from hostwright_system.host.services import ListServices, ServiceRow
from hostwright_system.host.table import FilterValue, Order

DEFAULT_LIMIT = 50

Kind: TypeAlias = Literal[
    "processes",
    "services",
    "ports",
    "connections",
    "disks",
    "users",
    "packages",
    "generations",
    "hardware",
]

Rows: TypeAlias = (
    tuple[ProcessRow, ...]
    | tuple[ServiceRow, ...]
    | tuple[PortRow, ...]
    | tuple[ConnectionRow, ...]
    | tuple[DiskRow, ...]
    | tuple[UserRow, ...]
    | tuple[PackageRow, ...]
    | tuple[GenerationRow, ...]
    | tuple[HardwareRow, ...]
)


class QueryPage(BaseModel, frozen=True):
    """One page of rows, all of the kind that was asked for."""

    kind: Kind
    sort: str
    order: Order
    rows: Rows
    total: int = Field(description="Rows that match, on all pages together.")
    truncated: bool = Field(description="Whether more rows follow.")
    next_cursor: str | None = Field(description="Give it with the same question for the next page.")
    notes: tuple[str, ...] = Field(description="How it was read and what could not be.")


Collected: TypeAlias = tuple[list[Any], list[str]]


@dataclass(frozen=True)
class _Source:
    """Where a kind's rows come from. `collect` is given the fields that sort and filter use;
    `complete` fills in what is costly, for the rows of the page alone."""

    table: table.Table[Any]
    collect: Callable[[Collection[str]], Collected]
    complete: Callable[[list[Any]], list[Any]] = list


def _services_are_injected(_: Collection[str]) -> Collected:
    raise HostError(
        "Services are managed by systemd, which does not answer on this system.",
        fix="Use shell_exec with this system's own service manager.",
        code="unsupported",
    )


_lister = ProcessLister()

SOURCES: Mapping[str, _Source] = {
    "processes": _Source(processes.TABLE, _lister.rows, _lister.complete),
    "services": _Source(services.TABLE, _services_are_injected),
    "ports": _Source(ports.PORTS, lambda _: ports.port_rows()),
    "connections": _Source(ports.CONNECTIONS, lambda _: ports.connection_rows()),
    "disks": _Source(disks.TABLE, lambda _: disks.disk_rows()),
    "users": _Source(accounts.TABLE, lambda _: accounts.user_rows()),
    "packages": _Source(packages.TABLE, lambda _: packages.package_rows()),
    "generations": _Source(generations.TABLE, lambda _: generations.generation_rows()),
    "hardware": _Source(hardware.TABLE, lambda _: hardware.hardware_rows()),
}


async def system_query(
    kind: Kind,
    *,
    sort: str | None = None,
    order: Order | None = None,
    filters: Mapping[str, FilterValue] | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    list_services: ListServices | None = None,
) -> QueryPage:
    """A page of facts of one kind. The question is checked in full before anything is read.

    `list_services` lists systemd's units; without it the kind `services` is unsupported.
    """
    source = SOURCES.get(kind)
    if source is None:
        raise HostError(
            f"There is no kind {str(kind)[:80]!r}.",
            fix=f"Use one of: {', '.join(SOURCES)}.",
            code="invalid_kind",
        )
    request = table.check_request(
        source.table, sort=sort, order=order, filters=filters, limit=limit, cursor=cursor
    )
    if kind == "services" and list_services is not None:
        listed = list(await list_services())
        return _page(kind, source, request, (listed, []))
    return await asyncio.to_thread(_answer, kind, source, request)


def _answer(kind: Kind, source: _Source, request: table.Request) -> QueryPage:
    return _page(kind, source, request, source.collect(request.used_fields))


def _page(kind: Kind, source: _Source, request: table.Request, collected: Collected) -> QueryPage:
    rows, notes = collected
    page = table.take_page(source.table, rows, request)
    return QueryPage(
        kind=kind,
        sort=request.sort.name,
        order=request.order,
        rows=tuple(source.complete(list(page.rows))),
        total=page.total,
        truncated=page.next_cursor is not None,
        next_cursor=page.next_cursor,
        notes=tuple(notes),
    )


def queryable_fields() -> dict[str, dict[str, str]]:
    """Kind → field → how it is matched (and whether it sorts), for descriptions and help."""
    return {
        kind: {
            f.name: f.match if f.sortable else f"{f.match}, not sortable" for f in s.table.fields
        }
        for kind, s in SOURCES.items()
    }
