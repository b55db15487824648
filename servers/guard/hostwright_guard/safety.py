"""What the safety tools do, without MCP: look, stop everything, restart one server.

With a daemon, it is asked over its socket, because it holds the other servers. Without one this
process stops what it can by itself: the record in the state folder holds for every server of this
installation, whoever started it, and its jobs end within a second or two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pydantic import BaseModel, Field

from hostwright_kit.audit import EventFilter, list_receipts
from hostwright_kit.caller import Caller
from hostwright_kit.control_socket import ask_daemon
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.panic import Panic, declare

STATUS_SECONDS = 10.0
MAX_UNDOABLE = 10


class ServerLine(BaseModel, frozen=True):
    """One server, as far as safety is concerned."""

    name: str
    state: str
    pid: int | None = None
    in_flight: int | None = Field(default=None, description="Calls that run in it.")
    why: str | None = Field(default=None, description="Why it does not run, or what is wrong.")


class Undoable(BaseModel, frozen=True):
    """An act that told how it is undone."""

    time: str
    caller: str | None
    call: str
    undo: dict[str, Any] = Field(description="The tool and arguments that undo it.")


class SafetyStatus(BaseModel, frozen=True):
    """How things stand."""

    panic: Panic | None = Field(description="Who stopped everything, if somebody did.")
    lifted_by: str | None = Field(
        default=None, description="The owner's command that lifts the stop; no tool does."
    )
    daemon: str = Field(description="running; none; or why it does not answer.")
    servers: list[ServerLine] = []
    jobs_running: int = Field(description="Jobs of all servers that run or wait.")
    pending_approvals: int
    ledger_problem: str | None = Field(description="Why nothing can be recorded, if so.")
    problems: list[str] = Field(default=[], description="What the daemon finds wrong.")
    undoable: list[Undoable] = Field(
        default=[], description="Your latest acts that can be undone, newest first."
    )


class Stopped(BaseModel, frozen=True):
    """What came of stopping everything."""

    panic: Panic
    new: bool = Field(description="False: everything was stopped already, by the one told here.")
    stopped: list[str] = Field(description="Servers that were ended.")
    left: list[str] = Field(default=[], description="Servers of which processes still run.")
    jobs_ended: int = Field(default=0, description="Jobs of this server that were ended.")
    problems: list[str] = []
    lifted_by: str = Field(default="hostwright lift", description="Only the owner, with the PIN.")


class Restarted(BaseModel, frozen=True):
    """What came of a restart."""

    name: str
    state: str
    pid: int | None
    message: str


def look_at_daemon(runtime_dir: Path) -> tuple[str, dict[str, Any]]:
    """How the daemon is, and what it says; blocking, bounded."""
    try:
        found = ask_daemon(runtime_dir, "GET", "/control/status", timeout_seconds=STATUS_SECONDS)
    except HostError as error:
        return ("none" if error.code == "no_daemon" else error.message), {}
    return "running", found


def server_lines(status: dict[str, Any]) -> list[ServerLine]:
    """The daemon's servers."""
    rows = cast("list[dict[str, Any]]", status.get("servers", []))
    return [
        ServerLine(
            name=row["name"],
            state=row["state"],
            pid=row["pid"],
            in_flight=row.get("in_flight"),
            why=row.get("why") or (row.get("last_error") if row["state"] != "ready" else None),
        )
        for row in rows
    ]


def undoable(ledger: Path, caller: str) -> list[Undoable]:
    """The latest acts of this caller that told how they are undone. Blocking."""
    page = list_receipts(ledger, EventFilter(caller=caller, outcome="ok"), limit=100)
    return [
        Undoable(time=one.time, caller=one.caller, call=f"{one.server}.{one.tool}", undo=one.undo)
        for one in page.receipts
        if one.undo
    ][:MAX_UNDOABLE]


def stop_everything(
    state_dir: Path, runtime_dir: Path, ledger: Ledger, caller: Caller, server: str, reason: str
) -> Stopped:
    """Durable first, then through the daemon, if there is one. Blocking."""
    declared = declare(state_dir, by=caller.name, via="tool", reason=reason)
    body = {"by": caller.name, "via": "tool", "reason": reason, "server": server}
    problems = [declared.undurable] if declared.undurable else []
    try:
        done = ask_daemon(runtime_dir, "POST", "/control/panic", body)
    except HostError as error:
        if error.code != "no_daemon":
            problems.append(error.message)
        problems += _recorded(ledger, declared.panic) if declared.new else []
        return Stopped(panic=declared.panic, new=declared.new, stopped=[], problems=problems)
    return Stopped.model_validate({**done, "new": declared.new, "problems": done["problems"]})


def restart(runtime_dir: Path, name: str) -> Restarted:
    """Through the daemon; on record already, by the guard of this call. Blocking."""
    path = f"/control/servers/{quote(name, safe='')}/restart?recorded=true"
    done = ask_daemon(runtime_dir, "POST", path)
    if not done["ok"]:
        raise HostError(
            str(done["message"]),
            fix=f"mcp_server_logs name={name} shows what it said; the owner has "
            "`hostwright rescue`.",
            code="restart_failed",
        )
    return Restarted(name=name, state=done["state"], pid=done["pid"], message=str(done["message"]))


def _recorded(ledger: Ledger, panic: Panic) -> list[str]:
    detail = {"panic": panic.id, "via": panic.via, "reason": panic.reason}
    try:
        ledger.append(Entry(type="safety.panic", caller=panic.by, detail=detail))
    except HostError as error:
        return [f"It is not on record: {error.message}"]
    return []
