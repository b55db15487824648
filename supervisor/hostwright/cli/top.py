"""`top`: everything live on one screen, or one snapshot as JSON."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter

from hostwright.cli.output import NoDaemonError, print_json
from hostwright.events.client import Happened
from hostwright.keeper.pidfile import daemon_pid
from hostwright.top.daemon import Daemon
from hostwright.top.model import Model, Snapshot
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths


def top(
    *, json: Annotated[bool, Parameter(negative="", help="Print one snapshot.")] = False
) -> None:
    """Servers, calls in flight, waiting approvals (approve with the PIN), logs: live."""
    paths = resolve_paths().ensure()
    if json:
        print_json(asyncio.run(_snapshot(paths)))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError(
            "top needs a terminal.",
            fix="Use `hostwright top --json` for one snapshot, or `hostwright events -f`.",
            code="no_terminal",
        )
    if daemon_pid(paths.runtime_dir) is None:
        raise NoDaemonError
    # Its debugging aids write every key into a file or to a port, and a PIN is typed here.
    for name in [name for name in os.environ if name.startswith("TEXTUAL")]:
        del os.environ[name]
    from hostwright.top.app import Top

    Top(Daemon(paths)).run()


async def _snapshot(paths: Paths) -> Snapshot:
    model, daemon = Model(), Daemon(paths)
    async with aclosing(daemon.events(follow=False)) as messages:
        async for message in messages:
            if isinstance(message, Happened):
                model.happened(message)
    model.daemon = await daemon.status()
    model.approvals = await daemon.pending()
    return model.snapshot(time.time())
