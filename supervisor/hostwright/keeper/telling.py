"""One server's events, its row of the status table, and what whoever waits in vain is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from hostwright.keeper.machine import Output, State
from hostwright.keeper.status import (
    ServerBroken,
    ServerCrashed,
    ServerEscalated,
    ServerEvent,
    ServerHibernated,
    ServerReady,
    ServerSilent,
    ServerStatus,
    ServerStopped,
    ServerWaiting,
    ServerWoken,
)
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.keeper.around import Surroundings
    from hostwright.keeper.server import Server

FAILING = (State.UNHEALTHY, State.FAILING, State.BACKING_OFF, State.BROKEN)


class Stamp(TypedDict):
    """What every event has."""

    name: str
    at: datetime


class Teller:
    """Reads the server's state; changes none of it but the memory of what was told."""

    def __init__(self, server: Server, around: Surroundings) -> None:
        self._server = server
        self._around = around
        self._silence_told = False

    def stamp(self) -> Stamp:
        """Whose event, and when."""
        return {"name": self._server.manifest.name, "at": datetime.now(UTC)}

    def tell(self, output: Output) -> None:
        """Turn one of the table's `TELL_…` outputs into events and a line of the log."""
        for event in self._events(output):
            self._around.tell(event)

    def _events(self, output: Output) -> list[ServerEvent]:
        server, reason, stamp = self._server, self._server.reason, self.stamp()
        log = server.log
        last = log.last
        match output:
            case Output.TELL_READY:
                return self._ready(stamp)
            case Output.TELL_CRASHED:
                retry = 0.0 if server.state is State.STARTING else server.retry_in()
                after = "" if retry is None else f"; next start in {retry:.2f} s"
                log.note(f"{reason}{after}")
                return [
                    ServerCrashed(reason=reason, last_stderr=last, retry_in_seconds=retry, **stamp)
                ]
            case Output.TELL_BROKEN:
                failures = server.backoff.failures
                window = server.manifest.restart.breaker_window_seconds
                log.note(f"broken: {failures} failures within {window:g} s")
                name = server.manifest.name
                what = (
                    f"Read `hostwright logs {name}`, correct the cause, then "
                    f"`hostwright restart {name}`."
                )
                return [
                    ServerBroken(reason=reason, failures=failures, last_stderr=last, **stamp),
                    ServerEscalated(reason=reason, last_stderr=last, what_to_do=what, **stamp),
                ]
            case Output.TELL_HIBERNATED:
                log.note(f"hibernated ({reason})")
                return [ServerHibernated(reason=reason, **stamp)]
            case Output.TELL_WAITING:
                log.note(f"waits: {reason}")
                return [ServerWaiting(reason=reason, **stamp)]
            case _:
                left = server.last_stop.left if server.last_stop else ()
                if left:
                    server.last_error = f"These processes could not be ended: {left}."
                log.note(f"stopped ({reason})")
                return [ServerStopped(reason=reason, left=left, **stamp)]

    def _ready(self, stamp: Stamp) -> list[ServerEvent]:
        server = self._server
        took = (server.ready_at or 0) - (server.began or 0)
        tools = server.checks.health.tools if server.checks.health else 0
        server.log.note(f"ready after {took:.2f} s, {tools} tools")
        pid = server.child.pid if server.child else None
        found: list[ServerEvent] = [ServerReady(pid=pid, start_seconds=took, tools=tools, **stamp)]
        if server.woken_at is not None:
            waited = (time.monotonic() - server.woken_at) * 1000
            server.woken_at = None
            found.append(ServerWoken(milliseconds=round(waited, 1), **stamp))
        return found

    def look_for_silence(self) -> None:
        """Once per spell: a call shows nothing for long, though the server answers its checks."""
        server = self._server
        after = server.manifest.wedge_after_seconds
        seen = self._around.activity(server.manifest.name)
        silent = bool(after and seen.in_flight and seen.silent_seconds >= after)
        if silent and not self._silence_told:
            reason = f"a call has shown no progress for {seen.silent_seconds:.0f} s"
            server.log.note(reason)
            event = ServerSilent(
                reason=reason, silent_seconds=round(seen.silent_seconds, 1), **self.stamp()
            )
            self._around.tell(event)
        self._silence_told = silent

    def status(self) -> ServerStatus:
        """What is known now; nothing is measured here."""
        server, now = self._server, time.monotonic()
        child, memory = server.child, server.memory if server.target else None
        answer, answered_at = server.checks.health, server.checks.answered_at
        if server.state is State.READY:
            health = "ok"
        else:
            health = "failing" if server.state in FAILING else "unknown"
        seen = self._around.activity(server.manifest.name)
        return ServerStatus(
            name=server.manifest.name,
            description=server.manifest.description,
            state=server.state,
            pid=child.pid if child else None,
            tools=answer.tools if answer else None,
            health=health,
            health_age_seconds=None if answered_at is None else now - answered_at,
            latency_ms=answer.latency_ms if answer else None,
            restarts=max(0, server.starts - 1),
            memory_bytes=memory[0] if memory else None,
            memory_kind=memory[1] if memory else None,
            uptime_seconds=now - server.began if server.began and server.target else None,
            retry_in_seconds=server.retry_in(),
            last_error=server.last_error,
            last_stderr=server.log.last,
            why=server.why or server.checks.refused or self._silence(),
            in_flight=seen.in_flight,
            silent_seconds=round(seen.silent_seconds, 3) if seen.in_flight else None,
            limits=dict(server.group.enforced) if server.group and server.target else {},
        )

    def _silence(self) -> str | None:
        if not self._silence_told:
            return None
        after = self._server.manifest.wedge_after_seconds
        return f"it answers its checks, but a call has shown no progress for over {after:g} s"

    def not_ready(self, seconds: float) -> HostError:
        """It may still come."""
        server, name = self._server, self._server.manifest.name
        why = f": {found}" if (found := server.why or server.last_error) else ""
        return HostError(
            f"The server {name} was not ready within {seconds:g} s ({server.state}){why}.",
            fix=f"Try again, or see `hostwright logs {name}`.",
            code="server_not_ready",
        )

    def unavailable(self) -> HostError:
        """It will not come by itself."""
        server, name = self._server, self._server.manifest.name
        broken = server.last_error if server.state is State.BROKEN else None
        why = f" ({found})" if (found := server.why or broken) else ""
        fix = f"Start it with `hostwright start {name}`"
        fix += f"; `hostwright logs {name}` shows why it failed." if broken else "."
        return HostError(
            f"The server {name} is {server.state}{why}.", fix=fix, code="server_unavailable"
        )
