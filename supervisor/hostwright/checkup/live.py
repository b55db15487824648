"""The running side: the gateway's port, the daemon, its servers, and what a dead one left behind.

Asks the daemon through the status that the caller fetched; binds the gateway's port for an instant
when no daemon runs. Starts, ends and removes nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from hostwright import __version__
from hostwright.checkup.configuration import gateway_settings
from hostwright.checkup.findings import Finding, State
from hostwright.keeper import processes, records
from hostwright.keeper.machine import State as ServerState
from hostwright.keeper.pidfile import PID_FILE
from hostwright.keeper.status import ServerStatus
from hostwright.status import CONNECT_SOCKET, GATEWAY_SOCKET, DaemonStatus
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths
from hostwright_kit.sockets import bind_tcp

_STATES: dict[ServerState, State] = {
    ServerState.READY: "ok",
    ServerState.DISABLED: "ok",
    ServerState.HIBERNATING: "ok",
    ServerState.HIBERNATED: "ok",
    ServerState.WAITING: "degraded",
    ServerState.HOLDING: "degraded",
    ServerState.STOPPED: "degraded",
    ServerState.STARTING: "degraded",
    ServerState.STOPPING: "degraded",
    ServerState.RESTARTING: "degraded",
}


class Running(NamedTuple):
    """What is known of the daemon: its pid while it holds the lock; its answer, or its silence."""

    pid: int | None
    status: DaemonStatus | None
    error: HostError | None


def check_gateway(paths: Paths, running: Running) -> Iterator[Finding]:
    """Whether the gateway's address is free, or held by our own daemon."""
    settings = gateway_settings(paths)
    if settings is None:
        return
    where = f"{settings.host}:{settings.port}"
    if running.status is not None:
        port = urlsplit(running.status.url).port
        same = settings.port in (0, port)
        yield Finding(
            area="gateway",
            what=where,
            state="ok" if same else "degraded",
            message=f"Our own daemon (pid {running.status.pid}) listens at {running.status.url}.",
            fix="" if same else "The configuration names another port: restart the daemon.",
        )
        return
    if running.pid is not None:
        return  # it is silent; `check_daemon` says so
    yield _address(where, settings.host, settings.port)


def _address(where: str, host: str, port: int) -> Finding:
    """Whether one can listen there now."""
    try:
        bind_tcp(host, port).close()
    except HostError as error:
        return Finding(
            area="gateway", what=where, state="problem", message=error.message, fix=error.fix
        )
    return Finding(area="gateway", what=where, state="ok", message="Free.")


def check_daemon(paths: Paths, running: Running) -> Iterator[Finding]:
    """Whether it runs, answers, is of this version; else what the last one left."""
    if running.status is None and running.pid is not None:
        message = running.error.message if running.error else "It does not answer."
        yield Finding(
            area="daemon",
            what=f"pid {running.pid}",
            state="problem",
            message=message,
            fix="Wait if it has just been started; else end it (hostwright down, as a last resort "
            f"kill -9 {running.pid}) and start it again.",
        )
        return
    if running.status is None:
        yield Finding(
            area="daemon",
            what="daemon",
            state="degraded",
            message="No daemon runs.",
            fix="hostwright up --detach",
        )
        yield from _left_behind(paths.runtime_dir)
        return
    status = running.status
    same = status.version == __version__
    yield Finding(
        area="daemon",
        what=f"pid {status.pid}",
        state="ok" if same else "degraded",
        message=f"Runs for {status.uptime_seconds:.0f} s, version {status.version}, policy "
        f"{status.profile}.",
        fix=""
        if same
        else f"This is version {__version__}: restart it (hostwright down, hostwright up).",
    )
    if status.ledger_problem:
        yield Finding(
            area="daemon",
            what="ledger",
            state="problem",
            message=f"It cannot record: {status.ledger_problem}",
            fix="Free disk space or mend the state folder; acts are refused until then.",
        )
    for server in status.servers:
        yield _server(server)


def _server(server: ServerStatus) -> Finding:
    state = _STATES.get(server.state, "problem")
    if state == "ok" and server.state is ServerState.READY and server.health != "ok":
        state = "degraded"
    message = f"{server.state}"
    if server.health_age_seconds is not None:
        message += f", last answered {server.health_age_seconds:.0f} s ago"
    if server.latency_ms is not None:
        message += f" in {server.latency_ms:.0f} ms"
    if server.restarts:
        message += f", {server.restarts} restart(s)"
    if state != "ok" and server.last_error:
        message += f": {server.last_error}"
    fix = ""
    if state == "problem":
        fix = f"See hostwright logs {server.name}; then hostwright restart {server.name}."
    elif server.state is ServerState.STOPPED:
        fix = f"hostwright start {server.name}"
    return Finding(area="servers", what=server.name, state=state, message=f"{message}.", fix=fix)


def _left_behind(runtime_dir: Path) -> Iterator[Finding]:
    """Traces of a daemon that did not end in order. The next start clears them all."""
    pid_file = runtime_dir / PID_FILE
    if pid_file.exists() and (text := pid_file.read_bytes().strip()):
        yield Finding(
            area="daemon",
            what=PID_FILE,
            state="degraded",
            message=f"It names pid {text.decode(errors='replace')[:20]}, which is no daemon of "
            "ours any more.",
            fix="Nothing: the next start replaces it.",
            path=pid_file,
        )
    for name in (GATEWAY_SOCKET, CONNECT_SOCKET):
        path = runtime_dir / name
        if not path.exists():
            continue
        left = stat.S_ISSOCK(path.stat().st_mode)
        yield Finding(
            area="daemon",
            what=name,
            state="degraded" if left else "problem",
            message="A dead daemon left this socket."
            if left
            else "This is not a socket, so the daemon cannot listen here.",
            fix="Nothing: the next start replaces it."
            if left
            else f"Move it away (mv {path} {path}.moved).",
            path=path,
        )
    yield from _orphans(runtime_dir / records.FILE_NAME)


def _orphans(file: Path) -> Iterator[Finding]:
    try:
        content = records._Content.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return
    except ValidationError:
        yield Finding(
            area="daemon",
            what=file.name,
            state="degraded",
            message="The record of started processes is damaged.",
            fix="Nothing: the next start moves it aside. Processes that it named are not looked "
            "for.",
            path=file,
        )
        return
    if content.boot != processes.boot_id():
        return
    for child in content.children.values():
        named = [*child.seen, *((child.leader,) if child.leader else ())]
        alive = sorted(one.pid for one in named if processes.runs(one))
        if alive:
            yield Finding(
                area="daemon",
                what=child.name,
                state="degraded",
                message=f"Processes of it were left running: {', '.join(map(str, alive))}.",
                fix="hostwright up ends them before it starts new ones.",
            )
