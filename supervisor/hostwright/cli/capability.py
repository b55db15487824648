"""`hostwright capability list|revoke`: the owner and all tokens for sandboxes, of all callers.

Works without a daemon. The tokens are the guard server's; it is found by the entry-point group
`hostwright.capabilities`, whose object opens them: called with the state folder, it gives what
`Capabilities` says.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol

from cyclopts import App, Parameter

from hostwright.cli.output import cell, done, make_table, out, print_json
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.runtime import LEDGER_FILE

GROUP = "hostwright.capabilities"
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


class Capabilities(Protocol):
    """What the group's object gives: the tokens of one installation."""

    def list(self) -> Sequence[Any]:
        """All, newest first: id, caller, note, grant, uses_left, uses, expires, state."""
        ...

    def revoke(self, token_id: str) -> Any:
        """End one; raises `HostError` when there is none."""
        ...

    def close(self) -> None: ...


def register(app: App) -> None:
    """Add the commands."""
    capability = App(name="capability", help="Tokens that let agents run commands in sandboxes.")
    capability.command(list_, name="list")
    capability.command(revoke)
    app.command(capability)


def list_(*, all: Annotated[bool, Parameter(negative="", help="Ended ones, too.")] = False,  # noqa: A002
          json: Json = False) -> None:  # fmt: skip
    """Show what each token allows, whose it is, and what is left of it. Not the tokens."""
    with _opened() as (_, capabilities):
        found = [one for one in capabilities.list() if all or one.state == "usable"]
    if json:
        print_json(found)
        return
    if not found:
        out.print("No token can be used." if not all else "There are no tokens.")
        return
    table = make_table("id", "caller", "allows", "uses left", "until", "state")
    for one in found:
        uses = f"{one.uses_left} of {one.uses}"
        table.add_row(
            one.id, cell(one.caller), cell(_told(one.grant)), uses, one.expires, one.state
        )
    out.print(table)


def revoke(token_id: str, *, json: Json = False) -> None:
    """End a token. No run begins with it any more, and those that run with it end."""
    with _opened() as (paths, capabilities):
        ended = capabilities.revoke(token_id)
        ledger = Ledger(paths.state_dir / LEDGER_FILE)
        with closing(ledger):
            ledger.append(
                Entry(
                    type="owner.capability",
                    caller=ended.caller,
                    server="guard",
                    outcome="ok",
                    detail={"capability": token_id, "act": "revoke", "by": f"uid {os.getuid()}"},
                )
            )
    if json:
        print_json(ended)
    else:
        done(f"The token {token_id} is revoked.")


@contextmanager
def _opened() -> Generator[tuple[Paths, Capabilities]]:
    points = list(entry_points(group=GROUP))
    if not points:
        raise HostError(
            "The server that keeps capability tokens is not installed.",
            fix="Install hostwright-guard beside hostwright.",
            code="not_installed",
        )
    paths = resolve_paths().ensure()
    opener: Any = points[0].load()
    capabilities: Capabilities = opener(Path(paths.state_dir))
    with closing(capabilities):
        yield paths, capabilities


def _told(grant: Any) -> str:
    """A grant in a line: what it names, and nothing of what it does not."""
    named = ("read", "write", "domains", "vault", "programs")
    parts = [f"{name} {', '.join(getattr(grant, name))}" for name in named if getattr(grant, name)]
    parts += [f"inject {one.entry} at {one.domain}" for one in grant.inject]
    return "; ".join(parts) or "nothing but processor time"
