"""Commands around the daemon: up, down, status, start, stop, restart, logs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from hostwright.cli import detaching
from hostwright.cli.control import Control
from hostwright.cli.output import (
    NoDaemonError,
    cell,
    done,
    duration,
    err,
    make_table,
    out,
    print_json,
    print_plain,
    size,
    visible,
)
from hostwright.keeper import logs as keeper_logs
from hostwright.keeper import processes
from hostwright.keeper.pidfile import daemon_pid
from hostwright.keeper.status import ServerEvent, ServerStatus
from hostwright.loop import run
from hostwright.status import DaemonStatus
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths
from hostwright_kit.runtime import open_runtime

if TYPE_CHECKING:
    from hostwright.daemon import Daemon
    from hostwright.notify import Notifier

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]

START_SECONDS = 60.0
STOP_SECONDS = 45.0
REFRESH_SECONDS = 1.0
COLOURS = {"ready": "green", "broken": "red", "failing": "red"} | dict.fromkeys(
    ("stopped", "disabled", "hibernated"), "dim"
)


def register(app: App) -> None:
    """Add the commands."""
    for command in (up, down, status, start, stop, restart, reload, logs):
        app.command(command)


def up(
    *,
    detach: Annotated[bool, Parameter(negative="", help="Run in the background.")] = False,
    json: Json = False,
) -> None:
    """Start the supervisor with every server, and show how they are."""
    # Before the port is found taken: by our own daemon, which is another matter.
    pid = None if detaching.begun() else daemon_pid(resolve_paths().ensure().runtime_dir)
    if pid is not None:
        raise HostError(
            f"A daemon runs already (pid {pid}).",
            fix="`hostwright status` shows it, `hostwright down` ends it.",
            code="already_running",
        )
    if detach:
        _up_detached(as_json=json)
        return
    run(_up_here(as_json=json))


def down(*, json: Json = False) -> None:
    """End the supervisor and every process of every server."""
    runtime_dir = resolve_paths().runtime_dir
    pid = daemon_pid(runtime_dir)
    if pid is None:
        raise NoDaemonError
    process = processes.identity(pid)
    Control().post("/control/shutdown")
    deadline = time.monotonic() + STOP_SECONDS
    # The lock is given up a moment before the process ends; "down" means that it is gone.
    while daemon_pid(runtime_dir) == pid or processes.runs(process):
        if time.monotonic() > deadline:
            raise HostError(
                f"The daemon (pid {pid}) did not end within {STOP_SECONDS:.0f} s.",
                fix=f"See {resolve_paths().state_dir / 'logs' / 'daemon.log'}; as a last resort "
                f"kill -9 {pid}: the next start cleans up what it leaves.",
                code="not_stopped",
            )
        time.sleep(0.05)
    print_json({"stopped": pid}) if json else done("The supervisor and its servers have ended.")


def status(
    *,
    watch: Annotated[bool, Parameter(negative="", help="Stay, and refresh every second.")] = False,
    json: Json = False,
) -> None:
    """How the supervisor and its servers are. Exit code 3 when no daemon runs."""
    control = Control()
    if json and watch:
        raise HostError(
            "A status that goes on is no JSON document.",
            fix="Leave out --watch or --json.",
            code="usage",
        )
    if json:
        print_json(control.get("/control/status"))
    elif watch:
        with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                live.update(render(control.status()), refresh=True)
                time.sleep(REFRESH_SECONDS)
    else:
        out.print(render(control.status()))


def start(name: str, *, json: Json = False) -> None:
    """Start one server (also a broken one) and wait for its first answer."""
    _act(name, "start", as_json=json)


def stop(name: str, *, json: Json = False) -> None:
    """End one server and all of its processes; it stays stopped."""
    _act(name, "stop", as_json=json)


def restart(name: str, *, json: Json = False) -> None:
    """End one server and start it anew."""
    _act(name, "restart", as_json=json)


def reload(*, json: Json = False) -> None:
    """Read the manifests again; only servers whose process must change are restarted.

    The supervisor does so by itself when a manifest changes. Exit code 1 when a manifest is wrong.
    """
    result = Control().post("/control/reload")
    if json:
        print_json(result)
        # One document: the problems stand in it.
        sys.exit(1 if result["problems"] else 0)
    for what, names in [*result["servers"].items(), ("kept as they were", result["kept"])]:
        if names and what != "unchanged":
            done(f"{what}: {', '.join(names)}")
    if result["problems"]:
        raise HostError(
            "\n".join(str(problem) for problem in result["problems"]),
            fix="Correct the files; the servers of a broken one run on as they were.",
            code="manifest_problem",
        )
    if not any(names for what, names in result["servers"].items() if what != "unchanged"):
        done("Nothing has changed.")


def logs(
    name: str,
    *,
    lines: Annotated[int, Parameter(alias="-n", help="From the end (1 to 10000).")] = 100,
    follow: Annotated[bool, Parameter(alias="-f", negative="", help="Go on as it grows.")] = False,
    json: Json = False,
) -> None:
    """What a server wrote to stderr."""
    file = resolve_paths().state_dir / "logs" / f"{name}.jsonl"
    if "/" in name or not file.exists():
        raise HostError(
            f"There is no log of {name!r}.",
            fix="`hostwright status` names the servers; one that never ran has no log.",
            code="not_found",
        )
    records = keeper_logs.records(file, min(max(lines, 1), 10_000))
    found = [keeper_logs.show(record) for record in records]
    if json and follow:
        raise HostError(
            "A log that goes on is no JSON document.", fix="Leave out -f or --json.", code="usage"
        )
    if json:
        print_json({"server": name, "lines": found, "records": records})
        return
    for line in found:
        print_plain(line)
    if follow:
        asyncio.run(_follow(keeper_logs.follow(file)))


def render(state: DaemonStatus) -> RenderableType:
    """The live table and what the owner should know beside it."""
    table = make_table("server", "state", "pid", "tools", "health", "restarts", "memory", "uptime")
    for server in state.servers:
        colour = COLOURS.get(server.state, "yellow")
        table.add_row(
            server.name,
            f"[{colour}]{server.state}[/]",
            str(server.pid or "–"),
            str(server.tools if server.tools is not None else "–"),
            _health(server),
            str(server.restarts),
            size(server.memory_bytes),
            duration(server.uptime_seconds),
        )
    parts: list[RenderableType] = [table, *(_trouble(state))]
    token = "with a bearer token (hostwright token NAME)" if state.require_token else "no token"
    parts.append(Text(f"\ngateway {state.url}  {token}   policy {state.profile}", style="dim"))
    return Group(*parts)


def connect_lines(url: str) -> str:
    """How each client is connected."""
    program = Path(sys.executable).with_name("hostwright")
    return (
        "Connect a client:\n"
        f"  Claude Code     claude mcp add -s user hostwright -- {program} connect\n"
        f"  opencode        {program} install opencode\n"
        f"  OpenClaw        {program} install openclaw\n"
        f"  Claude Desktop  {program} install claude-desktop\n"
        f"  over HTTP       {url}  (Authorization: Bearer …, made by {program} token NAME)"
    )


def _health(server: ServerStatus) -> str:
    age = duration(server.health_age_seconds)
    if server.health == "ok":
        return f"[green]ok[/] {age} ago, {server.latency_ms or 0:.0f} ms"
    seen = "never" if server.health_age_seconds is None else f"last {age} ago"
    return f"[yellow]{server.health}[/] {seen}"


def _trouble(state: DaemonStatus) -> list[Text]:
    found: list[Text] = []
    for server in state.servers:
        if server.why:
            found.append(cell(f"{server.name}: {server.why}", style="dim"))
        found += [
            cell(f"{server.name}: its limit of {limit} is {how}", style="yellow")
            for limit, how in server.limits.items()
            if how.startswith("not")
        ]
        if server.last_error and server.state not in ("ready", "hibernated"):
            found.append(cell(f"{server.name}: {server.last_error}", style="red"))
            found += [cell(f"  │ {line}", style="dim") for line in server.last_stderr[-5:]]
    found += [cell(problem, style="red") for problem in state.problems]
    if state.ledger_problem:
        found.append(cell(f"ledger: {state.ledger_problem}", style="red"))
    if state.pending_approvals:
        waiting = f"{state.pending_approvals} call(s) wait for approval: hostwright pending"
        found.append(Text(waiting, style="yellow"))
    if not state.terminal_approval:
        hint = "No PIN is set: nothing can be granted from the terminal (hostwright init)."
        found.append(Text(hint, style="yellow"))
    return found


async def _up_here(*, as_json: bool) -> None:
    """The daemon in this process, with the live table over it."""
    from hostwright.daemon import Daemon  # the gateway takes a second to import
    from hostwright.notify import Notifier

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    runtime = open_runtime("hostwright", writes_for_all=True)
    try:
        interactive = out.is_terminal and not as_json
        daemon = Daemon(runtime, on_event=_nothing if interactive else _print_event)
        loop = asyncio.get_running_loop()
        notifier = Notifier()

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
        if all(one.state not in ("stopped", "starting") for one in state.servers):
            return state
        time.sleep(0.05)
    if state is not None:
        return state
    raise HostError(
        f"The supervisor did not answer within {START_SECONDS:.0f} s.",
        fix=f"Its log is {log}.",
        code="not_started",
    )


def _act(name: str, action: str, *, as_json: bool) -> None:
    result = Control().post(f"/control/servers/{name}/{action}")
    if as_json:
        print_json(result)
    if not result["ok"]:
        raise HostError(
            str(result["message"]), fix=f"See `hostwright logs {name}`.", code=f"{action}_failed"
        )
    if not as_json:
        done(str(result["message"]))


async def _follow(lines: AsyncIterator[str]) -> None:
    async for line in lines:
        print_plain(line)


def _nothing(_: ServerEvent) -> None:
    return None


def _print_event(event: ServerEvent) -> None:
    reason: Any = getattr(event, "reason", None)
    line = f"{event.at:%Y-%m-%dT%H:%M:%S} {event.type} {event.name} {reason or ''}".rstrip()
    err.print(escape(visible(line)), soft_wrap=True)
