"""Is there a systemd here, and how is it? Reads only; asyncio."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

from .bus import MANAGER_PATH, Bus, Scope, booted, connect

MAX_FAILED_NAMES = 50


class SystemdStatus(BaseModel, frozen=True):
    """Whether services can be managed here, and when not, why."""

    available: bool = Field(description="True when the service tools work in this scope")
    scope: Scope
    booted: bool = Field(description="systemd is this machine's service manager (PID 1)")
    bus_address: str | None = Field(description="D-Bus address that answered")
    version: str | None = Field(description="systemd's version string")
    state: str | None = Field(
        description="initializing, starting, running, degraded (units failed), maintenance or"
        " stopping"
    )
    virtualization: str | None = Field(description="Container or VM kind that systemd detected")
    units_count: int | None = Field(description="Units in memory")
    jobs_queued_count: int | None
    units_failed_count: int | None
    units_failed: tuple[str, ...] = Field(
        description=f"Names of failed units, at most {MAX_FAILED_NAMES}"
    )
    reason: str | None = Field(description="Why it is not available")
    fix: str | None = Field(description="What makes it available")


async def systemd_status(
    *, scope: Scope = "system", bus_address: str | None = None
) -> SystemdStatus:
    """Ask the service manager how it is; never raises for a systemd that is not there."""
    try:
        async with connect(scope, bus_address) as bus:
            return await _ask(bus)
    except HostError as error:
        if error.code != "no_systemd":
            raise
        return SystemdStatus(
            available=False,
            scope=scope,
            booted=booted(),
            bus_address=None,
            version=None,
            state=None,
            virtualization=None,
            units_count=None,
            jobs_queued_count=None,
            units_failed_count=None,
            units_failed=(),
            reason=error.message,
            fix=error.fix,
        )


async def _ask(bus: Bus) -> SystemdStatus:
    manager: dict[str, Any] = await bus.properties(MANAGER_PATH)
    (failed,) = await bus.call("ListUnitsFiltered", "as", ["failed"])
    return SystemdStatus(
        available=True,
        scope=bus.scope,
        booted=booted(),
        bus_address=bus.address,
        version=manager.get("Version"),
        state=manager.get("SystemState"),
        virtualization=manager.get("Virtualization") or None,
        units_count=manager.get("NNames"),
        jobs_queued_count=manager.get("NJobs"),
        units_failed_count=manager.get("NFailedUnits"),
        units_failed=tuple(sorted(unit[0] for unit in failed)[:MAX_FAILED_NAMES]),
        reason=None,
        fix=None,
    )
