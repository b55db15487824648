"""The command line put together."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from hostwright import __version__
from hostwright.cli import (
    approvals,
    audit,
    capability,
    check,
    clients,
    daemon,
    export,
    owner,
    policy,
    rescue,
    safety,
    scaffold,
    secret,
    up,
)
from hostwright.cli.leaving import leave
from hostwright_kit.errors import HostError


def make_app() -> App:
    """All commands."""
    app = App(
        name="hostwright",
        version=__version__,
        help="MCP servers for agents, under their owner's control.",
        help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon runs, "
        "4 the call waits for approval.",
    )
    groups = (
        *(up, daemon, safety, rescue, approvals, owner, audit, policy, secret, capability),
        *(clients, export, check, scaffold),
    )
    for group in groups:
        group.register(app)
    # By name, because an MCP client or a screen takes long to import and the others need none.
    for name, words in (
        ("calls:tools", "List the tools of all servers, or of one."),
        ("calls:call", "Call one tool of one server, with progress."),
        ("events:events", "Show what happened lately; with -f what happens from now on."),
        ("top:top", "Servers, calls in flight, what waits for approval, logs: live."),
    ):
        app.command(f"hostwright.cli.{name}", name=name.partition(":")[2], help=words)
    return app


def run() -> None:
    """The program `hostwright`."""

    def work() -> None:
        try:
            make_app()(exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise HostError(str(error), fix="See `hostwright --help`.", code="usage") from None

    leave(work, as_json="--json" in sys.argv)
