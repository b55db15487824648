"""What the keeper tells others: events, status, results. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from hostwright.keeper.child import StopResult
from hostwright.keeper.machine import State


class Health(BaseModel, frozen=True):
    """A round trip that succeeded."""

    latency_ms: float
    tools: int


class Extras(BaseModel, frozen=True):
    """What one start gets beside its manifest."""

    env: Mapping[str, str] = {}
    pass_fds: tuple[int, ...] = ()


class _Event(BaseModel, frozen=True):
    name: str
    at: datetime


class ServerStarted(_Event, frozen=True):
    """A process runs; it has not answered yet. A remote server is being asked."""

    type: Literal["server.started"] = "server.started"
    pid: int | None = Field(description="None for a remote server.")


class ServerReady(_Event, frozen=True):
    """It answered its first round trip."""

    type: Literal["server.ready"] = "server.ready"
    pid: int | None
    start_seconds: float = Field(description="From start to answer.")
    tools: int


class ServerCrashed(_Event, frozen=True):
    """It ended or stopped answering, against the owner's will."""

    type: Literal["server.crashed"] = "server.crashed"
    reason: str
    last_stderr: tuple[str, ...]
    retry_in_seconds: float | None = Field(description="None when it is not tried again.")


class ServerBroken(_Event, frozen=True):
    """It failed too often; only the owner starts it again."""

    type: Literal["server.broken"] = "server.broken"
    reason: str
    failures: int
    last_stderr: tuple[str, ...]


class ServerStopped(_Event, frozen=True):
    """It was ended, or ended in a way that its restart policy accepts."""

    type: Literal["server.stopped"] = "server.stopped"
    reason: str
    left: tuple[int, ...] = Field(description="Pids that could not be ended.")


ServerEvent = ServerStarted | ServerReady | ServerCrashed | ServerBroken | ServerStopped


class ServerStatus(BaseModel, frozen=True):
    """One row of the status table."""

    name: str
    description: str
    state: State
    pid: int | None
    tools: int | None = Field(description="As of the last round trip that succeeded.")
    health: Literal["ok", "failing", "unknown"]
    health_age_seconds: float | None = Field(description="Since a round trip last succeeded.")
    latency_ms: float | None = Field(description="Of that round trip.")
    restarts: int = Field(description="Starts after the first one, wanted or not.")
    memory_bytes: int | None = Field(description="Of the process and all of its descendants.")
    memory_kind: Literal["pss", "rss"] | None = Field(
        description="pss: shared pages counted once; rss: counted in every process."
    )
    uptime_seconds: float | None
    retry_in_seconds: float | None = Field(description="While backing off.")
    last_error: str | None = Field(description="Why it last failed, or could not be started.")
    last_stderr: tuple[str, ...]


class ActionResult(BaseModel, frozen=True):
    """What came of start, stop or restart."""

    name: str
    action: Literal["start", "stop", "restart"]
    ok: bool = Field(description="Whether the server is now as the action wanted it.")
    changed: bool = Field(description="False: it was so before.")
    state: State
    pid: int | None
    message: str
    stop: StopResult | None = Field(description="How its process was ended, if one was.")


_HOW = {
    "already_exited": "had ended already",
    "stdin_closed": "ended when its stdin was closed",
    "terminated": "ended on SIGTERM",
    "killed": "was killed",
    "not_ended": "could not be ended",
}


def stop_message(name: str, stop: StopResult | None, *, changed: bool, state: State) -> str:
    """What came of a stop, in one sentence."""
    if not changed:
        return f"{name} was not running."
    if stop and stop.left:
        return f"{name} is stopped, but these processes could not be ended: {stop.left}."
    if state not in (State.STOPPED, State.DISABLED):
        return f"{name} was started again meanwhile and is {state}."
    if stop is None:
        return f"{name} is stopped; no process of it ran."
    more = f", and {stop.descendants_ended} more" if stop.descendants_ended else ""
    return f"{name} is stopped: its process {_HOW[stop.how]}{more}."


def start_message(name: str, error: str | None, *, ok: bool, changed: bool, state: State) -> str:
    """What came of a start or restart, in one sentence."""
    if ok:
        return f"{name} is ready." if changed else f"{name} was running already."
    return f"{name} is {state}: {error or 'it was stopped meanwhile'}"
