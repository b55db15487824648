"""What units there are and how one of them is: reads only, over org.freedesktop.systemd1(5)."""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

from .bus import Bus, BusError, Scope, connect
from .journal import last_entries
from .journal_entry import JournalEntry
from .journal_time import iso_time
from .journalctl import Journal
from .names import (
    UNIT_TYPES,
    close_names,
    is_template,
    template_of,
    type_of,
    unit_name,
    unit_pattern,
)

MAX_LIMIT = 1_000
MAX_JOURNAL_LINES = 200
MAX_TRIGGERS = 16
# Words that may well match nothing at the moment; others must be some unit's state now.
STATES = frozenset(
    (
        *("loaded", "not-found", "bad-setting", "error", "masked"),
        *("not-loaded", "active", "reloading", "inactive", "failed"),
        *("activating", "deactivating", "running", "exited", "dead"),
        *("waiting", "listening", "mounted", "plugged", "auto-restart"),
        *("start", "stop", "enabled", "enabled-runtime", "linked"),
        *("alias", "static", "disabled", "indirect", "generated"),
        *("transient", "bad"),
    )
)
UNSET = 2**64 - 1  # systemd's "not set" and "infinity" of 64-bit properties

# CLD_EXITED, CLD_KILLED, CLD_DUMPED of wait(2).
_EXITED, _KILLED, _DUMPED = 1, 2, 3
# The statuses that systemd itself uses when it cannot start the command, from systemd.exec(5).
_EXIT_MEANINGS = {
    200: "WorkingDirectory= could not be entered",
    203: "the program could not be executed: missing, not executable, or a bad interpreter",
    208: "standard input could not be set up",
    209: "standard output could not be set up",
    216: "the group does not exist or could not be taken",
    217: "the user does not exist or could not be taken",
    218: "capabilities could not be dropped",
    224: "the PAM session failed",
    226: "namespaces or mounts could not be set up; often a path in ReadWritePaths= is missing",
    228: "the system call filter could not be applied",
    238: "StateDirectory= could not be set up",
}
_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload")


class UnitSummary(BaseModel, frozen=True):
    """One unit in a list."""

    name: str
    description: str | None = Field(description="None when the unit is not in memory")
    load_state: str = Field(
        description="loaded, not-found, bad-setting, error, masked; or not-loaded when only its"
        " file is there"
    )
    active_state: str = Field(
        description="active, reloading, inactive, failed, activating or deactivating"
    )
    sub_state: str = Field(description="State in the terms of its type, as running or exited")
    enabled_state: str | None = Field(
        description="State of the unit file: enabled, disabled, static, masked, …; None when there"
        " is no file of this exact name"
    )


class UnitList(BaseModel, frozen=True):
    """A page of units, sorted by name."""

    units: tuple[UnitSummary, ...]
    total: int = Field(description="Units that match, on all pages")
    truncated: bool
    next_cursor: str | None = Field(description="Pass as cursor to get the next page")


class ExitInfo(BaseModel, frozen=True):
    """How a command of a service ended."""

    phase: str = Field(description="Which setting started it: ExecStart, ExecStartPre, …")
    exit_status: int | None = Field(description="Exit status; None when a signal ended it")
    signal: int | None = Field(description="Number of the signal that ended it")
    meaning: str | None = Field(description="What systemd means by a status of 200 and above")


class Trigger(BaseModel, frozen=True):
    """A timer, socket or path that starts the unit."""

    name: str
    active_state: str
    next_at: str | None = Field(description="When a timer elapses next by the calendar, UTC")
    last_at: str | None = Field(description="When a timer last elapsed, UTC")
    listens_on: tuple[str, ...] = Field(description="What a socket listens on")


class ServiceStatus(BaseModel, frozen=True):
    """A unit's state, as systemd holds it."""

    name: str
    aliases: tuple[str, ...]
    description: str
    unit_type: str
    load_state: str
    load_error: str | None = Field(description="Why the unit file could not be loaded")
    active_state: str
    sub_state: str
    result: str | None = Field(
        description="success, or why it failed: exit-code, signal, timeout, oom-kill, …"
    )
    enabled_state: str | None
    service_type: str | None = Field(description="Type= of a service: simple, notify, oneshot, …")
    main_pid: int | None
    last_exit: ExitInfo | None = Field(description="How its last command that ended badly ended")
    active_since: str | None = Field(description="When it became active, UTC")
    inactive_since: str | None = Field(description="When it last stopped being active, UTC")
    state_changed_at: str | None
    restarts_count: int | None = Field(description="Automatic restarts since the last start")
    memory_used_bytes: int | None = Field(description="None where memory is not accounted")
    tasks_count: int | None
    cpu_time_seconds: float | None
    status_text: str | None = Field(description="What the service itself reports, redacted")
    fragment_path: str | None = Field(description="The unit file")
    drop_in_paths: tuple[str, ...]
    needs_daemon_reload: bool = Field(description="The files changed since systemd read them")
    job: str | None = Field(description="Path of the job that is queued or at work for it")
    triggered_by: tuple[Trigger, ...]
    journal: tuple[JournalEntry, ...] = Field(description="Newest entries, oldest first")
    notes: tuple[str, ...]


async def list_units(
    pattern: str = "*",
    *,
    state: str | None = None,
    unit_type: str | None = "service",
    limit: int = 100,
    cursor: str | None = None,
    scope: Scope = "system",
    bus_address: str | None = None,
) -> UnitList:
    """Units in memory and unit files on disk whose name matches PATTERN (a glob).

    STATE is any word of the load, active, sub or enabled state. UNIT_TYPE None means all types.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise HostError(
            f"limit={limit} is out of range.", fix=f"Use 1 to {MAX_LIMIT}.", code="bad_limit"
        )
    if unit_type is not None and unit_type not in UNIT_TYPES:
        raise HostError(
            f"unit_type={unit_type!r} is not a type of unit.",
            fix=f"Use one of {', '.join(UNIT_TYPES)}.",
            code="bad_unit_type",
        )
    # A type in the pattern is the one that is meant; `nginx` alone means nginx of the type listed.
    globbed = any(character in pattern for character in "*?[")
    unit_type = type_of(pattern) or unit_type
    if not globbed and unit_type and type_of(pattern) is None:
        pattern = f"{pattern}.{unit_type}"
    pattern = unit_pattern(pattern)
    after = _decode_cursor(cursor) if cursor else ""
    async with connect(scope, bus_address) as bus:
        files = f"*.{unit_type}" if pattern == "*" and unit_type else pattern
        units = await _all_units(bus, files)
    if state is not None and state.lower() not in STATES.union(*map(_states, units)):
        raise HostError(
            f"state={state!r} is no state of a unit.",
            fix="Use a load, active, sub or enabled state, as active, failed, running or enabled.",
            code="bad_state",
        )
    matching = [
        unit
        for unit in sorted(units, key=lambda unit: unit.name)
        if fnmatch.fnmatchcase(unit.name, pattern)
        and (unit_type is None or unit.name.endswith(f".{unit_type}"))
        and (state is None or state.lower() in _states(unit))
    ]
    rest = [unit for unit in matching if unit.name > after]
    page = tuple(rest[:limit])
    more = len(rest) > limit
    return UnitList(
        units=page,
        total=len(matching),
        truncated=more,
        next_cursor=base64.urlsafe_b64encode(page[-1].name.encode()).decode() if more else None,
    )


def _states(unit: UnitSummary) -> set[str]:
    words = {unit.load_state, unit.active_state, unit.sub_state}
    return words | {unit.enabled_state} if unit.enabled_state else words


def _decode_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise HostError(
            f"cursor={cursor[:100]!r} is not a position in a list of units.",
            fix="Pass next_cursor exactly as an earlier result gave it.",
            code="bad_cursor",
        ) from None


async def _all_units(bus: Bus, file_pattern: str) -> list[UnitSummary]:
    """All units in memory, and the unit files that match.

    systemd looks for the symlinks of each file that it lists, which takes it about 1 ms per file.
    """
    (loaded,) = await bus.call("ListUnits")
    (files,) = await bus.call("ListUnitFilesByPatterns", "asas", [], [file_pattern])
    enabled: dict[str, str] = {path.rpartition("/")[2]: state for path, state in files}
    units = [
        UnitSummary(
            name=name,
            description=description,
            load_state=load,
            active_state=active,
            sub_state=sub,
            enabled_state=enabled.pop(name, None),
        )
        for name, description, load, active, sub, *_ in loaded
    ]
    units += [
        UnitSummary(
            name=name,
            description=None,
            load_state="masked" if state.startswith("masked") else "not-loaded",
            active_state="inactive",
            sub_state="dead",
            enabled_state=state,
        )
        for name, state in enabled.items()
    ]
    return units


# --- one unit -------------------------------------------------------------------------------------


async def not_found(bus: Bus, name: str) -> HostError:
    """The error for a unit that does not exist, with the names that may have been meant."""
    units = await _all_units(bus, f"*.{name.rpartition('.')[2]}")
    known = [unit.name for unit in units if unit.load_state != "not-found"]
    close = close_names(name, known)
    fix = f"Did you mean {', '.join(close)}?" if close else "List the units to see what there is."
    return HostError(f"There is no unit {name}.", fix=fix, code="not_found")


async def load(bus: Bus, name: str) -> dict[str, Any]:
    """All properties of the unit NAME; raises when it does not exist at all."""
    if is_template(name):
        units = await _all_units(bus, name)
        running = ", ".join(
            unit.name for unit in units if template_of(unit.name) == name != unit.name
        )
        raise HostError(
            f"{name} is a template; only its instances have a state.",
            fix=f"Name an instance: {running or name.replace('@.', '@NAME.')}.",
            code="template",
        )
    (path,) = await bus.call("LoadUnit", "s", name)
    properties = await bus.properties(path)
    if properties["LoadState"] == "not-found" and properties["ActiveState"] in {
        "inactive",
        "failed",
    }:
        raise await not_found(bus, name)
    return properties


async def service_status(
    unit: str,
    *,
    journal_lines: int = 0,
    scope: Scope = "system",
    bus_address: str | None = None,
    journal: Journal,
) -> ServiceStatus:
    """How UNIT is, with its last JOURNAL_LINES entries when asked for."""
    name = unit_name(unit)
    if not 0 <= journal_lines <= MAX_JOURNAL_LINES:
        raise HostError(
            f"journal_lines={journal_lines} is out of range.",
            fix=f"Use 0 to {MAX_JOURNAL_LINES}; journal_logs pages through more.",
            code="bad_limit",
        )
    async with connect(scope, bus_address) as bus:
        properties = await load(bus, name)
        triggers = await _triggers(bus, properties.get("TriggeredBy", []))
    entries: tuple[JournalEntry, ...] = ()
    notes: list[str] = []
    if journal_lines:
        try:
            entries = await last_entries(
                properties["Id"], count=journal_lines, journal=journal, scope=scope
            )
        except HostError as error:  # the state is still worth having
            notes.append(f"Its journal could not be read: {error}")
    return status_of(properties, triggers, entries, notes, journal)


async def _triggers(bus: Bus, names: Sequence[str]) -> tuple[Trigger, ...]:
    triggers: list[Trigger] = []
    for name in sorted(names)[:MAX_TRIGGERS]:
        try:
            (path,) = await bus.call("GetUnit", "s", name)
        except BusError as error:
            if error.code != "not_found":
                raise
            continue  # unloaded since it was named
        properties = await bus.properties(path)
        triggers.append(
            Trigger(
                name=name,
                active_state=properties["ActiveState"],
                next_at=_time(properties.get("NextElapseUSecRealtime")),
                last_at=_time(properties.get("LastTriggerUSec")),
                listens_on=tuple(
                    f"{kind} {address}" for kind, address in properties.get("Listen", [])
                ),
            )
        )
    return tuple(triggers)


def status_of(
    properties: dict[str, Any],
    triggers: tuple[Trigger, ...],
    entries: tuple[JournalEntry, ...],
    notes: Sequence[str],
    journal: Journal,
) -> ServiceStatus:
    """systemd's properties as our model."""
    name: str = properties["Id"]
    job_id, job_path = properties.get("Job", (0, "/"))
    load_error = properties.get("LoadError", ["", ""])[1]
    cpu = _count(properties.get("CPUUsageNSec"))
    return ServiceStatus(
        name=name,
        aliases=tuple(sorted(set(properties.get("Names", [])) - {name})),
        description=properties.get("Description", ""),
        unit_type=name.rpartition(".")[2],
        load_state=properties["LoadState"],
        load_error=load_error or None,
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        result=properties.get("Result"),
        enabled_state=properties.get("UnitFileState") or None,
        service_type=properties.get("Type") if name.endswith(".service") else None,
        main_pid=properties.get("MainPID") or None,
        last_exit=last_exit(properties),
        active_since=_time(properties.get("ActiveEnterTimestamp")),
        inactive_since=_time(properties.get("InactiveEnterTimestamp")),
        state_changed_at=_time(properties.get("StateChangeTimestamp")),
        restarts_count=properties.get("NRestarts"),
        memory_used_bytes=_count(properties.get("MemoryCurrent")),
        tasks_count=_count(properties.get("TasksCurrent")),
        cpu_time_seconds=None if cpu is None else cpu / 1e9,
        status_text=journal.redact(properties.get("StatusText", ""))[:1_000] or None,
        fragment_path=properties.get("FragmentPath") or None,
        drop_in_paths=tuple(properties.get("DropInPaths", [])),
        needs_daemon_reload=bool(properties.get("NeedDaemonReload")),
        job=job_path if job_id else None,
        triggered_by=triggers,
        journal=entries,
        notes=tuple(notes),
    )


def last_exit(properties: dict[str, Any]) -> ExitInfo | None:
    """How the command that failed ended; the main process's own end when none failed."""
    for phase in _COMMANDS:
        for command in properties.get(phase, []):
            *_, code, status = command
            if code in (_KILLED, _DUMPED) or (code == _EXITED and status != 0):
                return _exit_info(phase, code, status)
    if properties.get("ExecMainExitTimestamp"):
        return _exit_info("ExecStart", properties["ExecMainCode"], properties["ExecMainStatus"])
    return None


def _exit_info(phase: str, code: int, status: int) -> ExitInfo:
    exited = code == _EXITED
    return ExitInfo(
        phase=phase,
        exit_status=status if exited else None,
        signal=None if exited else status,
        meaning=_EXIT_MEANINGS.get(status) if exited else None,
    )


def _time(microseconds: int | None) -> str | None:
    return iso_time(microseconds) if microseconds and microseconds != UNSET else None


def _count(value: int | None) -> int | None:
    return None if value is None or value == UNSET else value
