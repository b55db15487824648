"""What the keeper tells others: events, status, results. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from hostwright.keeper.machine import State


class Exit(BaseModel, frozen=True):
    """How a process ended: by a code or by a signal."""

    code: int | None = None
    signal: str | None = Field(default=None, description="Such as SIGKILL.")
    at: datetime

    def __str__(self) -> str:
        return f"killed by {self.signal}" if self.signal else f"exited with code {self.code}"


class StopResult(BaseModel, frozen=True):
    """What it took, and whether anything is left."""

    how: Literal["already_exited", "stdin_closed", "terminated", "killed", "not_ended"]
    exit: Exit | None
    descendants_ended: int = Field(description="Processes of it, beside itself, ended here.")
    left: tuple[int, ...] = Field(description="Pids that even SIGKILL did not end.")
    seconds: float


class Activity(BaseModel, frozen=True):
    """How busy a server is, as the gateway's link knows it. The keeper's own checks do not count.

    Without a link nothing is known, and a server of which nothing is known is not put to sleep.
    """

    in_flight: int = Field(default=0, description="Calls that were sent and not yet answered.")
    watched: bool = Field(
        default=False, description="Somebody waits to hear of changes: it does not sleep meanwhile."
    )
    idle_seconds: float = Field(default=0, description="Since a call was last sent or answered.")
    silent_seconds: float = Field(
        default=0,
        description="Since the oldest running call showed progress or was sent; 0: none runs.",
    )


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


class ServerEscalated(_Event, frozen=True):
    """Nothing more is tried: the owner has to look. Comes with every `server.broken`."""

    type: Literal["server.escalated"] = "server.escalated"
    reason: str
    last_stderr: tuple[str, ...]
    what_to_do: str


class ServerWaiting(_Event, frozen=True):
    """Its process was ended, because a server that it needs does not run."""

    type: Literal["server.waiting"] = "server.waiting"
    reason: str


class ServerHibernated(_Event, frozen=True):
    """It was idle; its process has ended, the next call wakes it."""

    type: Literal["server.hibernated"] = "server.hibernated"
    reason: str


class ServerWoken(_Event, frozen=True):
    """Somebody wanted to call it, and it is ready again."""

    type: Literal["server.woken"] = "server.woken"
    milliseconds: float = Field(description="From the wish to the first answer.")


class ServerSilent(_Event, frozen=True):
    """It answers its checks, but a call of it has shown no progress for long."""

    type: Literal["server.silent"] = "server.silent"
    reason: str
    silent_seconds: float


ServerEvent = (
    ServerStarted
    | ServerReady
    | ServerCrashed
    | ServerBroken
    | ServerEscalated
    | ServerStopped
    | ServerWaiting
    | ServerHibernated
    | ServerWoken
    | ServerSilent
)


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
    why: str | None = Field(
        default=None, description="Why it does not run, where that is no failure; or what is odd."
    )
    in_flight: int = Field(default=0, description="Calls that it is working on.")
    sessions: int | None = Field(
        default=None,
        description="Clients that have a session of their own now; their processes count in "
        "memory. None: all share one.",
    )
    silent_seconds: float | None = Field(
        default=None, description="Since its oldest running call showed progress or was sent."
    )
    limits: Mapping[str, str] = Field(
        default={},
        description="For each limit of its manifest what holds it: cgroup2, cgroup1 or rlimit (of "
        "each process); or that it is not enforced, and why.",
    )


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
