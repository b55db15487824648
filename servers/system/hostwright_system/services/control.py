"""Start, stop, restart, reload, enable and disable units, and say what really came of it.

Over org.freedesktop.systemd1(5), true asyncio. A job's result is the one that systemd announces in
`JobRemoved`; the unit is then looked at again, because a simple service counts as started the
moment its process exists. How one call goes:

1. load the unit; refuse what does not exist, cannot be done, or is protected;
2. queue the job (mode `replace`, as systemctl does), or change the unit files and reload systemd;
3. wait for the job, at most WAIT_SECONDS in all; past that the job goes on and the answer says so;
4. for a start, watch the unit for a moment more, and read its state;
5. a failure is raised with the job's result, the exit status and the last journal lines.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

from .bus import Bus, BusError, Scope, connect
from .journal import last_entries, log_line
from .journal_entry import JournalEntry
from .journalctl import Journal
from .names import is_template, type_of, unit_name
from .protected import danger
from .units import ExitInfo, last_exit, load, not_found

Action = Literal["start", "stop", "restart", "reload", "enable", "disable"]
ACTIONS: tuple[Action, ...] = ("start", "stop", "restart", "reload", "enable", "disable")
_METHODS = {
    "start": "StartUnit",
    "stop": "StopUnit",
    "restart": "RestartUnit",
    "reload": "ReloadUnit",
}
MAX_WAIT_S = 45.0
# How long a service whose start says nothing about its readiness is watched for a crash.
SETTLE_S = 0.4
FAILURE_LOG_LINES = 12


class UnitState(BaseModel, frozen=True):
    """The part of a unit's state that an action changes."""

    active_state: str
    sub_state: str
    result: str | None
    main_pid: int | None
    enabled_state: str | None


class SymlinkChange(BaseModel, frozen=True):
    """One change that enabling or disabling made on disk."""

    change: str = Field(description="symlink or unlink")
    path: str
    target: str | None


class ControlResult(BaseModel, frozen=True):
    """What an action on a unit came to."""

    unit: str
    action: Action
    finished: bool = Field(
        description="False when the job is still at work; service_status shows its end"
    )
    job_result: str | None = Field(
        description="systemd's own word: done or skipped; None while it is at work and for enable"
        " and disable. Any other result is raised as an error"
    )
    job_path: str | None = Field(description="D-Bus path of the job")
    before: UnitState
    after: UnitState
    changes: tuple[SymlinkChange, ...]
    daemon_reloaded: bool = Field(description="systemd read its unit files anew")
    duration_seconds: float
    notes: tuple[str, ...]


class ActionFailedError(HostError):
    """The job ended badly, or the unit did not stay up."""

    def __init__(
        self,
        message: str,
        *,
        fix: str,
        code: str,
        job_result: str,
        state: UnitState,
        last_exit: ExitInfo | None,
        journal: tuple[JournalEntry, ...],
    ) -> None:
        super().__init__(message, fix=fix, code=code)
        self.job_result = job_result
        self.state = state
        self.last_exit = last_exit
        self.journal = journal


@dataclass(frozen=True)
class _Call:
    """What one call is about."""

    name: str
    action: Action
    scope: Scope
    journal: Journal
    started: datetime
    clock_start: float
    deadline: float

    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def duration(self) -> float:
        return round(time.monotonic() - self.clock_start, 3)


async def service_control(
    unit: str,
    action: Action,
    *,
    wait_seconds: float = MAX_WAIT_S,
    allow_protected: bool = False,
    scope: Scope = "system",
    bus_address: str | None = None,
    journal: Journal,
) -> ControlResult:
    """Do ACTION to UNIT and return the state that it reached; raises when it failed.

    Waits at most WAIT_SECONDS; cancelling the call leaves systemd's job to go on.
    """
    name = unit_name(unit)
    if action not in ACTIONS:
        raise HostError(
            f"action={action!r} is unknown.",
            fix=f"Use one of {', '.join(ACTIONS)}.",
            code="bad_action",
        )
    if not 0 <= wait_seconds <= MAX_WAIT_S:
        raise HostError(
            f"wait_seconds={wait_seconds} is out of range.",
            fix=f"Use 0 to {MAX_WAIT_S:g}; a longer job goes on by itself.",
            code="bad_limit",
        )
    now = time.monotonic()
    call = _Call(name, action, scope, journal, datetime.now(UTC), now, now + wait_seconds)
    async with connect(scope, bus_address) as bus:
        if action in ("enable", "disable"):
            return await _change_files(bus, call, allow_protected=allow_protected)
        return await _run_job(bus, call, allow_protected=allow_protected)


def _guard(call: _Call, names: list[str], *, allow_protected: bool) -> None:
    if allow_protected:
        return
    why = danger([call.name, *names], call.action)
    if why is None and call.action in ("stop", "restart") and own_units().intersection(names):
        why = "this very server runs in it and would end before it could answer"
    if why:
        raise HostError(
            f"{call.name} is protected from {call.action}: {why}.",
            fix="If that is what the owner wants, repeat the call with allow_protected=true.",
            code="protected_unit",
        )


def own_units() -> set[str]:
    """The units and slices that this process is in, by its path in cgroups(7).

    systemd is not asked: GetUnitByPID for "me" from another PID namespace (a container that was
    given the host's bus) ends process 1 of systemd 252, and the machine with it.
    """
    return units_in(Path("/proc/self/cgroup").read_text())


def units_in(text: str) -> set[str]:
    """The unit names in what /proc/PID/cgroup holds."""
    parts = (part for line in text.splitlines() for part in line.split(":", 2)[2].split("/"))
    return {part for part in parts if type_of(part) in ("service", "scope", "slice")}


def _state(properties: dict[str, Any]) -> UnitState:
    return UnitState(
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        result=properties.get("Result"),
        main_pid=properties.get("MainPID") or None,
        enabled_state=properties.get("UnitFileState") or None,
    )


# --- start, stop, restart, reload -----------------------------------------------------------------


def _require_possible(call: _Call, properties: dict[str, Any]) -> None:
    name, loaded = properties["Id"], properties["LoadState"]
    if call.action == "stop":
        return
    if loaded == "masked":
        raise HostError(
            f"{name} is masked: somebody forbade to start it.",
            fix=f"The owner can lift that with `systemctl unmask {name}`.",
            code="masked",
        )
    if loaded not in ("loaded", "not-found"):
        reason = properties.get("LoadError", ["", ""])[1] or loaded
        raise HostError(
            f"systemd could not load {name}: {reason}",
            fix=f"Correct {properties.get('FragmentPath') or 'the unit file'}"
            " (`systemd-analyze verify` names the line) and reload systemd.",
            code="bad_unit_file",
        )
    if call.action == "reload" and not properties.get("CanReload"):
        raise HostError(
            f"{name} has no way to reload (no ExecReload=).", fix="Restart it.", code="unsupported"
        )
    if call.action == "reload" and properties["ActiveState"] not in ("active", "reloading"):
        raise HostError(
            f"{name} is {properties['ActiveState']} and cannot reload.",
            fix="Start it.",
            code="not_active",
        )


async def _run_job(bus: Bus, call: _Call, *, allow_protected: bool) -> ControlResult:
    properties = await load(bus, call.name)
    _require_possible(call, properties)
    _guard(call, properties["Names"], allow_protected=allow_protected)
    before = _state(properties)
    (unit_path,) = await bus.call("LoadUnit", "s", call.name)
    if properties["LoadState"] == "loaded":
        # Held until we disconnect: systemd forgets an idle unit, and with it how the job went.
        await bus.call("RefUnit", "s", call.name)
    async with bus.jobs() as jobs:
        (job_path,) = await bus.call(_METHODS[call.action], "ss", call.name, "replace")
        job_result = await jobs.result(job_path, call.seconds_left())
    if job_result is None:
        after = await bus.properties(unit_path)
        note = f"The job is still at work after {call.duration():g} s; systemd goes on with it."
        return _result(call, before, after, job_path=job_path, notes=[note])
    after = await _settled(bus, call, unit_path, job_result)
    await _raise_failure(call, after, job_result)
    return _result(
        call,
        before,
        after,
        job_path=job_path,
        job_result=job_result,
        notes=await _job_notes(bus, call, after, job_result),
    )


def _failing(properties: dict[str, Any]) -> bool:
    """Whether a service that was just started is down again, or on its way to the next try."""
    return (
        properties["ActiveState"] == "failed"
        or properties["SubState"].startswith("auto-restart")
        or properties.get("NRestarts", 0) > 0
    )


async def _settled(bus: Bus, call: _Call, path: str, job_result: str) -> dict[str, Any]:
    properties = await bus.properties(path)
    unready = properties.get("Type") in ("simple", "exec", "idle")
    if call.action not in ("start", "restart") or job_result != "done" or not unready:
        return properties
    deadline = time.monotonic() + min(SETTLE_S, call.seconds_left())
    while not _failing(properties) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        properties = await bus.properties(path)
    return properties


async def _raise_failure(call: _Call, after: dict[str, Any], job_result: str) -> None:
    starting = call.action in ("start", "restart")
    if job_result in ("done", "skipped") and not (starting and _failing(after)):
        return
    state, end = _state(after), last_exit(after)
    facts = [f"job result {job_result}", f"state {state.active_state} ({state.sub_state})"]
    if state.result not in (None, "success"):
        facts.append(f"result {state.result}")
    if end is not None:
        facts.append(_exit_text(end))
    entries, log = await _log(call, state)
    fix = {
        "dependency": "A unit that it needs failed; look at the state of what it Requires=.",
        "timeout": "It took longer than its JobTimeoutSec=; look at what it waits for.",
        "canceled": "Another job replaced this one; look at the state before you repeat it.",
    }.get(job_result, "Correct the cause that its log names, then repeat the call.")
    raise ActionFailedError(
        f"{after['Id']} failed to {call.action}: {', '.join(facts)}.{log}",
        fix=fix,
        code=f"{call.action}_failed",
        job_result=job_result,
        state=state,
        last_exit=end,
        journal=entries,
    )


def _exit_text(end: ExitInfo) -> str:
    how = f"exit status {end.exit_status}" if end.signal is None else f"signal {end.signal}"
    return f"{end.phase} ended with {how}" + (f" ({end.meaning})" if end.meaning else "")


async def _log(call: _Call, state: UnitState) -> tuple[tuple[JournalEntry, ...], str]:
    """The lines since the call began, as entries and as text for the message."""
    entries: tuple[JournalEntry, ...] = ()
    try:
        # journald takes in what a process wrote a little later than systemd reaps it; systemd's
        # own last word about a failure is the sign that the rest is there.
        for _ in range(5):
            entries = await last_entries(
                call.name,
                count=FAILURE_LOG_LINES,
                journal=call.journal,
                scope=call.scope,
                since=call.started,
            )
            if any("Failed with result" in entry.message for entry in entries):
                break
            if state.result in (None, "success"):
                break
            await asyncio.sleep(0.1)
    except HostError as error:
        return (), f" Its journal could not be read: {error.message}"
    if not entries:
        return (), " Its journal holds nothing since the call."
    return entries, " Last log lines:\n" + "\n".join(map(log_line, entries)) + "\n"


async def _job_notes(bus: Bus, call: _Call, after: dict[str, Any], job_result: str) -> list[str]:
    active = after["ActiveState"]
    notes: list[str] = []
    if job_result == "skipped":
        notes.append("systemd skipped the job: there was nothing to do in this state.")
    if call.action == "stop":
        if active not in ("inactive", "failed"):
            notes.append(f"It is {active} again; something started it anew.")
        if after.get("Result") not in (None, "success"):
            notes.append(f"It did not end in good order: result {after['Result']}.")
        for name in after.get("TriggeredBy", []):
            path = (await bus.call("LoadUnit", "s", name))[0]
            if (await bus.properties(path))["ActiveState"] == "active":
                notes.append(f"{name} is still active and can start it again.")
    elif active == "inactive" and after.get("ConditionResult") is False:
        unmet = [
            f"{kind}={'!' if negate else ''}{value}"
            for kind, _, negate, value, state in after.get("Conditions", [])
            if state < 0
        ]
        notes.append(f"systemd did not start it: condition not met: {', '.join(unmet)}.")
    if after.get("NeedDaemonReload"):
        notes.append("Its files changed on disk since systemd read them; daemon-reload is due.")
    return notes


def _result(
    call: _Call,
    before: UnitState,
    after: dict[str, Any] | UnitState,
    *,
    job_path: str | None = None,
    job_result: str | None = None,
    changes: tuple[SymlinkChange, ...] = (),
    notes: list[str],
) -> ControlResult:
    files = call.action in ("enable", "disable")
    return ControlResult(
        unit=call.name,
        action=call.action,
        finished=files or job_result is not None,
        job_result=job_result,
        job_path=job_path,
        before=before,
        after=after if isinstance(after, UnitState) else _state(after),
        changes=changes,
        daemon_reloaded=files,
        duration_seconds=call.duration(),
        notes=tuple(notes),
    )


# --- enable, disable ------------------------------------------------------------------------------


async def _change_files(bus: Bus, call: _Call, *, allow_protected: bool) -> ControlResult:
    before = await _file_state(bus, call.name)
    names = [call.name] if is_template(call.name) else (await load(bus, call.name))["Names"]
    _guard(call, names, allow_protected=allow_protected)
    notes: list[str] = []
    if call.action == "enable":
        installable, raw = await bus.call("EnableUnitFiles", "asbb", [call.name], False, False)
        if not installable:
            raise HostError(
                f"{call.name} cannot be enabled: its file has no [Install] section.",
                fix="It is started by another unit or by hand; add WantedBy= to [Install] to start"
                " it at boot.",
                code="not_installable",
            )
    else:
        (raw,) = await bus.call("DisableUnitFiles", "asb", [call.name], False)
    if not raw:
        notes.append(f"Nothing changed on disk; it was {before.enabled_state} already.")
    await bus.call("Reload", timeout_s=max(1.0, call.seconds_left()))
    changes = tuple(
        SymlinkChange(change=kind, path=path, target=target or None) for kind, path, target in raw
    )
    after = await _file_state(bus, call.name)
    if call.action == "enable" and after.active_state not in ("active", "activating"):
        notes.append("It is enabled for the next boot and not started now.")
    if call.action == "disable" and after.active_state in ("active", "activating"):
        notes.append("It is disabled for the next boot and still running now.")
    return _result(call, before, after, changes=changes, notes=notes)


async def _file_state(bus: Bus, name: str) -> UnitState:
    """The state of the unit file, and of the unit where it is not a template."""
    try:
        (enabled,) = await bus.call("GetUnitFileState", "s", name)
    except BusError as error:
        if error.code != "not_found":
            raise
        raise await not_found(bus, name) from error
    if is_template(name):
        return UnitState(
            active_state="inactive",
            sub_state="dead",
            result=None,
            main_pid=None,
            enabled_state=enabled,
        )
    return _state(await load(bus, name)).model_copy(update={"enabled_state": enabled})
