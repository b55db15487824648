"""Tools over systemd: services and the journal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from hostwright_kit.check import Finding
from hostwright_kit.guard import call_scope
from hostwright_kit.progress import ticking
from hostwright_kit.redact import redact_text
from hostwright_kit.server import HostServer
from hostwright_system import services
from hostwright_system.services import (
    Action,
    ControlResult,
    Direction,
    Journal,
    JournalPage,
    Scope,
    ServiceStatus,
)
from hostwright_system.settings import SystemSettings

Unit = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="Unit name; `.service` is added when it has no suffix.",
    ),
]
In = Annotated[Scope, Field(description="The system's manager, or that of this server's user.")]
Moment = Annotated[
    str | None,
    Field(max_length=64, description="ISO 8601 (with zone, else UTC), or '-1h', '2 days ago'."),
]
UNDONE_BY: dict[str, Action] = {
    "start": "stop",
    "stop": "start",
    "enable": "disable",
    "disable": "enable",
}


class ServiceReport(BaseModel, frozen=True):
    """Either one unit, or the state of systemd itself when no unit was named."""

    service: ServiceStatus | None = None
    systemd: services.SystemdStatus | None = None


def register(app: HostServer, settings: SystemSettings) -> None:
    """Add the tools and what `--check` asks about systemd."""
    journal = Journal(directory=settings.journal_directory, redact=redact_text)
    bus_address = settings.dbus_address

    @app.read_tool(title="Service status")
    async def service_status(
        unit: Unit | None = None,
        journal_lines: Annotated[
            int, Field(ge=0, le=100, description="Newest log entries to add.")
        ] = 0,
        scope: In = "system",
    ) -> ServiceReport:
        """How one systemd unit is: state, result, main process, resources, restarts, triggers.

        Without a unit: whether there is a systemd here at all, its state and its failed units;
        where there is none this says why and what to do. A unit that does not exist is an error
        that names close ones. List units with system_query kind=services.
        """
        if unit is None:
            return ServiceReport(
                systemd=await services.systemd_status(scope=scope, bus_address=bus_address)
            )
        return ServiceReport(
            service=await services.service_status(
                unit,
                journal_lines=journal_lines,
                scope=scope,
                bus_address=bus_address,
                journal=journal,
            )
        )

    @app.write_tool(destructive=True, title="Control a service")
    async def service_control(
        unit: Unit,
        action: Annotated[Action, Field(description="What to do with it.")],
        wait_seconds: Annotated[
            float, Field(ge=0, le=45, description="How long to wait for systemd's job.")
        ] = 30.0,
        allow_protected: Annotated[
            bool, Field(description="Also for units that the machine cannot do without.")
        ] = False,
        scope: In = "system",
    ) -> ControlResult:
        """Start, stop, restart, reload, enable or disable a systemd unit, and report the state
        that it really reached.

        The result of the job is the one that systemd gives (D-Bus signal JobRemoved); a failure
        is an error with the exit status and the last log lines. Stopping what carries the session
        (D-Bus, journald, sshd, the network) needs allow_protected. A job that outlasts
        wait_seconds goes on and is reported as running.
        """
        async with ticking(wait_seconds, f"{action} {unit}"):
            result = await services.service_control(
                unit,
                action,
                wait_seconds=wait_seconds,
                allow_protected=allow_protected,
                scope=scope,
                bus_address=bus_address,
                journal=journal,
            )
        if undo := UNDONE_BY.get(action):
            call_scope().undone_by("service_control", unit=unit, action=undo, scope=scope)
        return result

    @app.read_tool(title="Logs")
    async def journal_logs(
        unit: Annotated[str | None, Field(max_length=256, description="Name or glob.")] = None,
        priority: Annotated[
            Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"] | None,
            Field(description="This one and everything more important."),
        ] = None,
        since: Moment = None,
        until: Moment = None,
        grep: Annotated[
            str | None,
            Field(max_length=500, description="PCRE2 over messages; all lower case: any case."),
        ] = None,
        boot: Annotated[
            str | None, Field(max_length=40, description="0: this boot, -1: the one before, or id.")
        ] = None,
        limit: Annotated[int, Field(ge=1, le=500, description="Entries per page.")] = 100,
        cursor: Annotated[
            str | None, Field(max_length=400, description="next_cursor of the page before.")
        ] = None,
        direction: Annotated[
            Direction, Field(description="backward: newest first; forward: oldest first.")
        ] = "backward",
        scope: In = "system",
    ) -> JournalPage:
        """Entries of systemd's journal that match every filter given, a page at a time.

        Use it after service_status shows a failure. Secrets in messages are masked. Where there
        is no journal this is an error (no_systemd) that says why.
        """
        return await services.journal_logs(
            unit,
            priority=priority,
            since=since,
            until=until,
            grep=grep,
            boot=boot,
            limit=limit,
            cursor=cursor,
            direction=direction,
            scope=scope,
            journal=journal,
        )

    async def check() -> list[Finding]:
        status = await services.systemd_status(bus_address=bus_address)
        if status.available:
            return [Finding(what="systemd", state="ok", detail=f"{status.version}, {status.state}")]
        return [
            Finding(
                what="systemd",
                state="degraded",
                detail=status.reason or "not available",
                fix=status.fix or "",
            )
        ]

    app.checks.append(check)
