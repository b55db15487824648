"""`new`: the first ten minutes of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hostwright.cli.output import done, out, print_json, print_plain

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def register(app: App) -> None:
    """Add the command."""
    app.command(new)


def new(name: str, *, json: Json = False) -> None:
    """Start a server in this checkout: its package, tests, README and manifest; all checks pass."""
    from hostwright.scaffolding import scaffold

    made = scaffold(name, Path.cwd())
    if json:
        print_json(made)
        return
    done(f"The server {made.name} is in {made.folder}.")
    for path in made.files:
        print_plain(f"  {path}")
    for path in made.changed:
        print_plain(f"  {path} (changed)")
    out.print("\nmake up runs it; make test checks it; make docs writes its tool table.")
