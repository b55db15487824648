"""`hostwright up`: the daemon in this process, in the background, or in place of one that runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter
from rich.live import Live
from rich.markup import escape

from hostwright.cli import detaching
from hostwright.cli.control import Control
from hostwright.cli.daemon import REFRESH_SECONDS, Json, connect_lines, render
from hostwright.cli.output import NoDaemonError, done, err, out, print_json, visible
from hostwright.keeper import processes
from hostwright.keeper.pidfile import daemon_pid
from hostwright.keeper.status import ServerEvent
from hostwright.loop import run
from hostwright.status import ESTATE_VARIABLE, DaemonStatus, Replacement
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths
from hostwright_kit.runtime import open_runtime

if TYPE_CHECKING:
    from hostwright.daemon import Daemon
    from hostwright.notify import Notifier
    from hostwright.succession import Estate

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
    environ = dict(os.environ)
    estate = _inherited()
    # Before the port is found taken: by our own daemon, which is another matter.
    begun = estate is not None or detaching.begun()
    pid = None if begun else daemon_pid(resolve_paths().ensure().runtime_dir)
    if pid is not None:
        raise HostError(
            f"A daemon runs already (pid {pid}).",
            fix="`hostwright status` shows it, `hostwright down` ends it.",
            code="already_running",
        )
    if detach:
        _up_detached(as_json=json)
        return
    left = run(_up_here(estate, environ, as_json=json))
    if left is not None:
        from hostwright.succession import succeed

        succeed(left, environ)


def _inherited() -> Estate | None:
    """What an earlier program of this process has left to this one."""
    if ESTATE_VARIABLE not in os.environ:
        return None
    from hostwright.succession import inherited

    return inherited()


async def _up_here(
    estate: Estate | None, environ: Mapping[str, str], *, as_json: bool
) -> Estate | None:
    """The daemon in this process, with the live table over it; what it leaves to a successor."""
    from hostwright.daemon import Daemon  # the gateway takes a second to import
    from hostwright.notify import Notifier

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    runtime = open_runtime("hostwright", writes_for_all=True)
    try:
        interactive = out.is_terminal and not as_json
        notifier = Notifier()
        daemon = Daemon(
            runtime,
            on_event=_nothing if interactive else _print_event,
            on_replacing=notifier.reloading,
            estate=estate,
            environ=environ,
        )
        loop = asyncio.get_running_loop()

        def stop() -> None:
            notifier.stopping()
            daemon.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # Where there is a terminal it means that the terminal has gone; a service has none.
        loop.add_signal_handler(signal.SIGHUP, stop if _has_terminal() else daemon.reload)
        telling = asyncio.create_task(_tell(notifier, daemon))
        serving = asyncio.create_task(daemon.run())
        how = _show_json(daemon) if as_json else _show(daemon, live=interactive)
        showing = asyncio.create_task(how)
        try:
            await serving
        except BaseExceptionGroup as group:
            # Task groups wrap what went wrong; it is one thing all the same.
            raise _first_error(group) from group
        finally:
            showing.cancel()
            telling.cancel()
            await asyncio.wait([showing, telling])
    finally:
        await runtime.close()
    return daemon.estate


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    expected = group.subgroup(HostError)
    while expected is not None:
        first = expected.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        expected = cast("BaseExceptionGroup[BaseException]", first)
    return group


async def _tell(notifier: Notifier, daemon: Daemon) -> None:
    """Whoever started us (systemd) hears when the listeners are open, and that we live."""
    await daemon.ready.wait()
    notifier.ready(f"serving {daemon.url}")
    await notifier.keep_alive()


async def _show(daemon: Daemon, *, live: bool) -> None:
    await daemon.ready.wait()
    if live:
        out.print(connect_lines(daemon.url), soft_wrap=True)
        out.print("\nCtrl-C ends the supervisor and its servers.\n")
        with Live(console=out, auto_refresh=False) as view:
            while True:
                view.update(render(await daemon.status()), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
    # Not a terminal: one line per event, as a log wants it; the table once all have settled.
    await daemon.settled.wait()
    out.print(render(await daemon.status()))
    out.print(connect_lines(daemon.url), soft_wrap=True)


async def _show_json(daemon: Daemon) -> None:
    await daemon.settled.wait()
    print_json(await daemon.status())
    sys.stdout.flush()


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


def _nothing(_: ServerEvent) -> None:
    return None


def _print_event(event: ServerEvent) -> None:
    reason: Any = getattr(event, "reason", None)
    line = f"{event.at:%Y-%m-%dT%H:%M:%S} {event.type} {event.name} {reason or ''}".rstrip()
    err.print(escape(visible(line)), soft_wrap=True)
