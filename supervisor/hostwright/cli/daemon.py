"""Commands around the daemon: down, status, start, stop, restart, logs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated

from cyclopts import App, Parameter
from rich.live import Live

from hostwright.cli.control import Control
from hostwright.cli.output import (
    NoDaemonError,
    done,
    out,
    print_json,
    print_plain,
)
from hostwright.cli.state import render
from hostwright.keeper import logs as keeper_logs
from hostwright.keeper import processes
from hostwright.keeper.pidfile import daemon_pid
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]

START_SECONDS = 60.0
STOP_SECONDS = 45.0
REFRESH_SECONDS = 1.0


def register(app: App) -> None:
    """Add the commands."""
    for command in (down, status, start, stop, restart, reload, logs):
        app.command(command)


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
