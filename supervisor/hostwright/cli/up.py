"""`hostwright up`: the daemon in this process, in the background, or in place of one that runs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hostwright.cli import detaching
from hostwright.cli.control import Control
from hostwright.cli.daemon import Json
from hostwright.cli.here import refuse_second, up_here
from hostwright.cli.output import NoDaemonError, done, out, print_json
from hostwright.cli.state import connect_lines, render
from hostwright.keeper import processes
from hostwright.keeper.pidfile import daemon_pid
from hostwright.status import DaemonStatus, Replacement
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

START_SECONDS = 60.0


def register(app: App) -> None:
    """Add the command."""
    app.command(up)


def up(
    *,
    detach: Annotated[bool, Parameter(negative="", help="Run in the background.")] = False,
    reexec: Annotated[
        bool,
        Parameter(
            negative="",
            help="Replace the one that runs by what is installed and configured now: same process, "
            "same sockets, and clients stay connected.",
        ),
    ] = False,
    grace: Annotated[
        float | None,
        Parameter(help="With --reexec: seconds for calls that run (0 to 600; 10 if not given)."),
    ] = None,
    json: Json = False,
) -> None:
    """Start the supervisor with every server, and show how they are."""
    if reexec:
        if detach:
            raise HostError(
                "--reexec keeps the process as it is.", fix="Leave out --detach.", code="usage"
            )
        _replace(grace, as_json=json)
        return
    if not detach:
        up_here(as_json=json)
        return
    if not detaching.begun():
        refuse_second()
    _up_detached(as_json=json)


def _up_detached(*, as_json: bool) -> None:
    started = detaching.begin()
    state = _await_ready(started.process, started.log, started.offset)
    if as_json:
        print_json(state)
    else:
        out.print(render(state))
        out.print(connect_lines(state.url), soft_wrap=True)


def _await_ready(child: subprocess.Popen[bytes], log: Path, offset: int) -> DaemonStatus:
    """Wait until every server has answered or failed once."""
    control = Control()
    deadline = time.monotonic() + START_SECONDS
    state: DaemonStatus | None = None
    while time.monotonic() < deadline:
        if child.poll() is not None:
            text = log.read_bytes()[offset:].decode(errors="replace").strip()
            raise HostError(
                f"The supervisor did not start:\n{text[-4000:]}",
                fix=f"Correct what it says above; its log is {log}.",
                code="not_started",
            )
        try:
            state = control.status()
        except NoDaemonError:
            time.sleep(0.05)
            continue
        if not _starting(state):
            return state
        time.sleep(0.05)
    if state is not None:
        return state
    raise HostError(
        f"The supervisor did not answer within {START_SECONDS:.0f} s.",
        fix=f"Its log is {log}.",
        code="not_started",
    )


def _replace(grace: float | None, *, as_json: bool) -> None:
    """Have the daemon that runs replace itself, and wait until its successor is there."""
    runtime_dir = resolve_paths().runtime_dir
    pid = daemon_pid(runtime_dir)
    if pid is None:
        raise NoDaemonError
    process = processes.identity(pid)
    log = resolve_paths().state_dir / "logs" / "daemon.log"
    offset = log.stat().st_size if log.exists() else 0
    query = "" if grace is None else f"?grace_seconds={grace:g}"
    wanted = Replacement.model_validate(Control().post(f"/control/reexec{query}"))
    deadline = time.monotonic() + START_SECONDS + (grace or 0)
    while (state := _successor(wanted)) is None or _starting(state):
        late = time.monotonic() > deadline
        if late and state is not None:
            break  # it is there; its status tells which servers are not
        if late or not processes.runs(process):
            said = log.read_bytes()[offset:].decode(errors="replace") if log.exists() else ""
            what = "does not answer" if processes.runs(process) else "has ended"
            raise HostError(
                f"The daemon (pid {pid}) made way for version {wanted.version}, which {what}."
                + (f" Its log says:\n{said.strip()[-4000:]}" if said.strip() else ""),
                fix="Correct what its log says, then start it (`hostwright up --detach`). In the "
                f"background it writes to {log}, under systemd to the journal.",
                code="not_replaced",
            )
        time.sleep(0.05)
    if as_json:
        print_json(state)
    else:
        done(f"Replaced: pid {state.pid}, version {state.version}.")
        out.print(render(state))


def _successor(wanted: Replacement) -> DaemonStatus | None:
    """How the new daemon is, once it is there."""
    try:
        state = Control().status()
    except HostError as error:
        if error.code in ("no_daemon", "daemon_silent"):
            return None
        raise
    return state if state.replaced >= wanted.replaced else None


def _starting(state: DaemonStatus) -> bool:
    """Whether a server has neither answered nor failed."""
    return any(one.state in ("stopped", "starting") for one in state.servers)
