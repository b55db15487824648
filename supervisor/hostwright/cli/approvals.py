"""`pending`, `approve`, `deny`: the owner's decisions about waiting calls. No daemon is needed."""

from __future__ import annotations

import json as json_module
from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from hostwright.cli.output import cell, done, make_table, out, print_json
from hostwright.cli.pin import ask_pin
from hostwright.deciding import decide, open_approvals
from hostwright_kit.approvals import Approval
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
AlwaysFor = Annotated[
    str | None, Parameter(help="90s, 15min, 2h, 7d or 1w: also for calls like it.")
]


def register(app: App) -> None:
    """Add the commands."""
    app.command(pending)
    app.command(approve)
    app.command(deny)


def pending(approval_id: str | None = None, *, json: Json = False) -> None:
    """Show what waits for approval; with an ID, one request with all of its arguments."""
    with open_approvals() as approvals:
        found = [approvals.get(approval_id)] if approval_id else approvals.pending()
    if json:
        print_json(found)
    elif approval_id:
        _print_approval(found[0])
    elif not found:
        out.print("Nothing waits for approval.")
    else:
        table = make_table("id", "caller", "call", "arguments", "until")
        for item in found:
            short = item.arguments if len(item.arguments) <= 120 else f"{item.arguments[:120]}…"
            call = f"{item.server}.{item.tool}"
            table.add_row(item.id, cell(item.caller), cell(call), cell(short), item.expires)
        out.print(table)


def approve(approval_id: str, *, always_for: AlwaysFor = None, json: Json = False) -> None:
    """Let one waiting call happen, once. Asks for the PIN on the terminal.

    With --always-for, calls like it are not asked about for so long: a rule with that end is
    written into policy.toml, where it can be read, changed and deleted.
    """
    _decide(approval_id, grant=True, always_for=always_for, as_json=json)


def deny(approval_id: str, *, always_for: AlwaysFor = None, json: Json = False) -> None:
    """Refuse one waiting call. Asks for the PIN on the terminal.

    With --always-for, calls like it are denied for so long, by a rule in policy.toml.
    """
    _decide(approval_id, grant=False, always_for=always_for, as_json=json)


def _decide(approval_id: str, *, grant: bool, always_for: str | None, as_json: bool) -> None:
    from hostwright.standing import Standing, write_standing_rule

    seconds = _duration(always_for)
    written: list[Standing] = []

    def standing(found: Approval) -> None:
        if seconds is not None:
            effect = "always" if grant else "deny"
            written.append(
                write_standing_rule(
                    resolve_paths().ensure(), approvals.ledger, found, effect, seconds
                )
            )

    with open_approvals() as approvals:
        approval = approvals.get(approval_id)
        if not as_json:
            _print_approval(approval)
        pin = ask_pin("PIN: ")
        decided = decide(approvals, approval.id, pin, grant=grant, standing=standing)
    if as_json:
        rule = written[0].model_dump(mode="json") if written else None
        print_json({**decided.model_dump(), "rule": rule})
    else:
        for rule in written:
            done(
                f"A rule for calls like it, until {rule.until:%Y-%m-%d %H:%M} UTC: "
                f"{rule.file}:{rule.line}"
            )
        done(
            f"Granted until {decided.expires}: the same call, repeated, runs once."
            if grant
            else "Denied."
        )


def _duration(text: str | None) -> int | None:
    from hostwright_kit.policy_times import seconds_of

    try:
        return None if text is None else seconds_of(text)
    except ValueError as error:
        raise HostError(f"{error}.", fix="See `hostwright approve --help`.", code="usage") from None


def _print_approval(item: Approval) -> None:
    what = f"  {item.server}.{item.tool}  asked by {item.caller} ({item.reason})"
    out.print(Text(item.id, style="bold") + cell(what))
    out.print(cell(item.arguments))
    if item.why:
        out.print(cell(f"It says: {item.why}"))
    if item.folder:
        out.print(cell(f"In {item.folder}"))
    for path, state in json_module.loads(item.overwrites).items():
        out.print(cell(f"Overwrites {path} ({state})"))
    out.print(f"{item.state}, made {item.created}, until {item.expires}")
