"""The command line. `main` is the program `hostwright`; one module per group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line.

    `connect` stands between a client and its first answer, and a start in the background waits for
    another process, so they are seen to before anything heavy is imported.
    """
    if sys.argv[1:2] == ["connect"]:
        from hostwright.cli.connect import connect_main

        connect_main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["up"]:
        from hostwright.cli.detaching import HERE, begin_early

        words = sys.argv[1:]
        begin_early(words)
        if words in HERE:
            from hostwright.cli.here import up_here
            from hostwright.cli.leaving import leave

            as_json = "--json" in words
            leave(lambda: up_here(as_json=as_json), as_json=as_json)
            return
    from hostwright.cli.app import run

    run()
