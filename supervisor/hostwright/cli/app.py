"""The command line put together, and how errors leave it."""

from __future__ import annotations

import sys

from cyclopts import App

from hostwright import __version__
from hostwright.cli import calls, daemon, owner
from hostwright.cli.output import print_error
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
    for group in (daemon, calls, owner):
        group.register(app)
    return app


def run() -> None:
    """The program `hostwright`."""
    as_json = "--json" in sys.argv
    try:
        make_app()(exit_on_error=False)
    except HostError as error:
        raise SystemExit(print_error(error, as_json=as_json)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
