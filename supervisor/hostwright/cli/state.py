"""How the daemon and its servers are, as a table, and how clients are connected.

The daemon shows it too, so nothing here brings the command line along.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from hostwright.cli.output import cell, duration, make_table, size, visible
from hostwright.keeper.status import ServerStatus
from hostwright.status import DaemonStatus

COLOURS = {"ready": "green", "broken": "red", "failing": "red"} | dict.fromkeys(
    ("stopped", "disabled", "hibernated"), "dim"
)


def render(state: DaemonStatus) -> RenderableType:
    """The live table and what the owner should know beside it."""
    table = make_table("server", "state", "pid", "tools", "health", "restarts", "memory", "uptime")
    for server in state.servers:
        colour = COLOURS.get(server.state, "yellow")
        table.add_row(
            server.name,
            f"[{colour}]{server.state}[/]{_sessions(server)}",
            str(server.pid or "–"),
            str(server.tools if server.tools is not None else "–"),
            _health(server),
            str(server.restarts),
            size(server.memory_bytes),
            duration(server.uptime_seconds),
        )
    parts: list[RenderableType] = [*_stopped(state), table, *(_trouble(state))]
    token = "with a bearer token (hostwright token NAME)" if state.require_token else "no token"
    parts.append(Text(f"\ngateway {state.url}  {token}   policy {state.profile}", style="dim"))
    return Group(*parts)


def _stopped(state: DaemonStatus) -> list[Text]:
    if state.panic is None:
        return []
    words = (
        f"STOPPED  {state.panic.sentence()}\nNothing is done until you lift it: hostwright lift\n"
    )
    return [Text(visible(words, lines=True), style="bold red")]


def _sessions(server: ServerStatus) -> str:
    if not server.sessions:
        return ""
    return f", {server.sessions} session{'' if server.sessions == 1 else 's'}"


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
