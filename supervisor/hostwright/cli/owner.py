"""Commands of the owner: the PIN and tokens. They work without a daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter
from pydantic import ValidationError

from hostwright.cli.control import tokens_changed
from hostwright.cli.output import cell, done, make_table, out, print_json
from hostwright.cli.pin import ask_pin
from hostwright_kit.errors import HostError
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import resolve_paths
from hostwright_kit.runtime import TOKENS_FILE
from hostwright_kit.token_rules import TokenRules
from hostwright_kit.tokens import Tokens

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Globs: TypeAlias = "list[str] | None"


def register(app: App) -> None:
    """Add the commands."""
    app.command(init)
    app.command(token)


def init(*, json: Json = False) -> None:
    """Set (or change) the PIN without which nothing can be granted from the terminal."""
    paths = resolve_paths().ensure()
    pin = OperatorPin(paths.state_dir)
    current = ask_pin("Current PIN: ") if pin.is_set() else None
    if current is not None:
        pin.verify(current)
    new = ask_pin("New PIN (4 characters or more): ")
    if new != ask_pin("The same again: "):
        raise HostError("The two PINs differ.", fix="Run `hostwright init` again.", code="mismatch")
    pin.set(new, current=current)
    if json:
        print_json({"state_dir": str(paths.state_dir), "pin_set": True})
    else:
        done("The PIN is set. Grants: hostwright pending, hostwright approve ID.")


def token(
    name: str | None = None,
    *,
    list: Annotated[bool, Parameter(negative="", help="Show the names.")] = False,  # noqa: A002
    revoke: Annotated[bool, Parameter(negative="", help="Make NAME's token worthless.")] = False,
    replace: Annotated[bool, Parameter(negative="", help="Make a new one for NAME.")] = False,
    change: Annotated[
        bool, Parameter(negative="", help="Only change what NAME's token may see.")
    ] = False,
    servers: Annotated[Globs, Parameter(negative="", help="Only these servers (globs).")] = None,
    not_servers: Annotated[Globs, Parameter(negative="", help="Not these servers.")] = None,
    tools: Annotated[Globs, Parameter(negative="", help="Only these tools (globs).")] = None,
    not_tools: Annotated[Globs, Parameter(negative="", help="Not these tools.")] = None,
    rename: Annotated[Globs, Parameter(negative="", help="OLD=NEW: another tool name.")] = None,
    search: Annotated[
        bool, Parameter(negative="", help="List three search tools in place of all tools.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a bearer token for a client of the gateway; it is shown once.

    What it may see can be narrowed: hidden tools cannot be called either. Globs are compared with
    the name that clients see and with SERVER__TOOL; each option may be given several times.
    """
    rules = _rules(servers, not_servers, tools, not_tools, rename, search=search)
    tokens = Tokens(resolve_paths().ensure().state_dir / TOKENS_FILE)
    with closing(tokens):
        if list or name is None:
            known = tokens.list()
            if json:
                print_json(known)
                return
            table = make_table("name", "made", "sees")
            for item in known:
                table.add_row(item.name, item.created, cell(_told(item.rules)))
            out.print(table if known else "There are no tokens. Make one: hostwright token NAME")
        elif revoke:
            tokens.revoke(name)
            print_json({"revoked": name}) if json else done(f"The token {name} is revoked.")
        elif change:
            tokens.change(name, rules)
            if json:
                print_json({"name": name, "rules": rules})
            else:
                done(f"The token {name} sees: {_told(rules)}.")
        else:
            secret = tokens.create(name, replace=replace, rules=rules)
            if json:
                print_json({"name": name, "token": secret, "rules": rules})
            else:
                # Plain, so that it can be piped into a client's configuration.
                sys.stdout.write(secret + "\n")
    if revoke or change or replace:
        tokens_changed()


def _rules(
    servers: Globs,
    not_servers: Globs,
    tools: Globs,
    not_tools: Globs,
    rename: Globs,
    *,
    search: bool,
) -> TokenRules:
    pairs = [one.partition("=") for one in rename or ()]
    for old, separator, new in pairs:
        if not (old and separator and new):
            raise HostError(
                f"{old + separator + new!r} is not OLD=NEW.",
                fix="For example --rename github__create_issue=new_issue.",
                code="bad_rename",
            )
    if len({old for old, _, _ in pairs}) != len(pairs):
        raise HostError("One tool is renamed twice.", fix="Give each OLD once.", code="bad_rename")
    try:
        return TokenRules(
            servers=tuple(servers or ("*",)),
            not_servers=tuple(not_servers or ()),
            tools=tuple(tools or ("*",)),
            not_tools=tuple(not_tools or ()),
            rename={old: new for old, _, new in pairs},
            mode="search" if search else "full",
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise HostError(
            f"{first['msg'].removeprefix('Value error, ')}.",
            fix="See `hostwright token --help`.",
            code="bad_rules",
        ) from error


def _told(rules: TokenRules) -> str:
    """The rules in one line."""
    words = [
        *(f"{key} {' '.join(globs)}" for key, globs in _globs(rules) if globs),
        *(f"{old} as {new}" for old, new in rules.rename.items()),
        *(["by search"] if rules.mode == "search" else []),
    ]
    return "; ".join(words) or "everything"


def _globs(rules: TokenRules) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "servers", rules.servers if rules.servers != ("*",) else ()
    yield "not servers", rules.not_servers
    yield "tools", rules.tools if rules.tools != ("*",) else ()
    yield "not tools", rules.not_tools
