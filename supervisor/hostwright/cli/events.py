"""`events`: what happens in the daemon, as lines for people or as JSON lines for programs."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from hostwright.cli.output import err, out, visible
from hostwright.events.client import Connected, Happened, Lost, Wanted, listen
from hostwright.events.telling import sentence
from hostwright.status import GATEWAY_SOCKET
from hostwright_kit.paths import resolve_paths

Words = Annotated[tuple[str, ...], Parameter(negative="")]
STYLES = {
    "server.crashed": "red",
    "server.broken": "bold red",
    "server.escalated": "bold red",
    "server.ready": "green",
    "request.failed": "red",
    "approval.pending": "yellow",
    "events.gap": "yellow",
}


def events(
    *,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False,
    filter: Annotated[Words, Parameter(help="server.*,approval.pending …")] = (),  # noqa: A002
    server: Words = (),
    tool: Words = (),
    caller: Words = (),
    since: Annotated[str | None, Parameter(help="A cursor: what came after that event.")] = None,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object a line.")] = False,
) -> None:
    """Show what happened lately, or with -f what happens from now on, over daemon restarts too."""
    wanted = Wanted(filter, server, tool, caller)
    cursor = since or ("now" if follow else "recent")
    if follow:
        asyncio.run(_follow(wanted, cursor, as_json=json))
        return
    found = asyncio.run(_until_now(wanted, cursor))
    # Those from the ledger come first; for reading, time is the better order. After a cursor the
    # order stays, because the last line's cursor must be the one to go on from.
    for one in found if since else sorted(found, key=lambda one: one.at):
        _print(one, as_json=json)


async def _until_now(wanted: Wanted, cursor: str) -> Sequence[Happened]:
    messages = listen(_socket(), wanted, cursor=cursor, follow=False)
    return [message async for message in messages if isinstance(message, Happened)]


async def _follow(wanted: Wanted, cursor: str, *, as_json: bool) -> None:
    lost = False
    async with aclosing(listen(_socket(), wanted, cursor=cursor)) as messages:
        async for message in messages:
            match message:
                case Happened():
                    _print(message, as_json=as_json)
                case Lost(why):
                    lost = True
                    err.print(Text(f"The daemon is away ({visible(why)}); waiting.", "yellow"))
                case Connected() if lost:
                    lost = False
                    err.print(Text("The daemon is back.", "yellow"))
                case Connected():
                    pass


def _print(one: Happened, *, as_json: bool) -> None:
    if as_json:
        # ASCII: nothing in it can drive a terminal.
        sys.stdout.write(json_module.dumps(one.document) + "\n")
    else:
        line = Text(f"{one.at}  ", style="dim")
        line.append(f"{one.kind:<18}", style=STYLES.get(one.kind, ""))
        line.append(f" {visible(sentence(one.kind, one.fields))}")
        out.print(line, soft_wrap=True)
    sys.stdout.flush()


def _socket() -> Path:
    return resolve_paths().runtime_dir / GATEWAY_SOCKET
