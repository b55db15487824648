"""The command line. `main` is the program `hostwright`; one module per group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line.

    `connect` stands between a client and its first answer, so it is taken before anything heavy
    is imported.
    """
    if sys.argv[1:2] == ["connect"]:
        from hostwright.cli.connect import connect_main

        connect_main(sys.argv[2:])
        return
    from hostwright.cli.app import run

    run()
