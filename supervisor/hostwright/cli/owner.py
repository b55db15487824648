"""Commands of the owner: the PIN, the ledger, tokens. They work without a daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter
from pydantic import ValidationError

from hostwright.cli.control import tokens_changed
from hostwright.cli.output import cell, done, make_table, out, print_json, print_plain
from hostwright.cli.pin import ask_pin
from hostwright_kit import audit as ledger_audit
from hostwright_kit.access_reading import list_all
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.runtime import LEDGER_FILE, TOKENS_FILE
from hostwright_kit.signed_note import Checkpoint, NoteError, Verifier, split_notes
from hostwright_kit.token_rules import TokenRules
from hostwright_kit.tokens import Tokens
from hostwright_kit.verifying import verify as verify_ledger

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Globs: TypeAlias = "list[str] | None"


def register(app: App) -> None:
    """Add the commands."""
    app.command(init)
    app.command(token)
    audit = App(name="audit", help="Read and verify the ledger.")
    audit.command(log)
    audit.command(verify)
    audit.command(key)
    app.command(audit)


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


def log(
    *,
    type: str | None = None,  # noqa: A002 - the field's name
    caller: str | None = None,
    server: str | None = None,
    tool: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    until: str | None = None,
    no_reads: Annotated[bool, Parameter(negative="", help="Leave out the access log.")] = False,
    limit: Annotated[int, Parameter(help="Entries, newest first (1 to 500).")] = 50,
    cursor: str | None = None,
    json: Json = False,
) -> None:
    """Show the ledger, newest first, and the reads of the access log among it."""
    wanted = ledger_audit.EventFilter(
        type=type,
        caller=caller,
        server=server,
        tool=tool,
        outcome=outcome,
        since=_moment(since),
        until=_moment(until),
    )
    bounded = min(max(limit, 1), ledger_audit.MAX_PAGE)
    file = _paths().state_dir / LEDGER_FILE
    page = list_all(file, wanted, reads=not no_reads, limit=bounded, cursor=cursor)
    if json:
        print_json(page)
        return
    table = make_table("seq", "time", "type", "caller", "call", "outcome")
    for event in page.events:
        call = f"{event.server}.{event.tool}" if event.tool else event.server or ""
        words = (event.type, event.caller or "", call, event.outcome or "")
        table.add_row(str(event.seq or "–"), event.time, *map(cell, words))
    out.print(table)
    if page.next_cursor:
        out.print(f"Older entries: --cursor {page.next_cursor}")


def key(*, json: Json = False) -> None:
    """Show the public key that checks this host's signed checkpoints."""
    verifier = host_signer(_paths().state_dir).verifier
    if json:
        print_json({"name": verifier.name, "verifier_key": verifier.line()})
    else:
        print_plain(verifier.line())


def verify(
    *,
    against: Annotated[
        Path | None,
        Parameter(help="A file of checkpoints that was kept elsewhere, signed by this host."),
    ] = None,
    json: Json = False,
) -> None:
    """Walk the whole ledger and name the first entry that does not fit, if any.

    Chain, Merkle tree and signed checkpoints are compared. A ledger that somebody wrote anew fits
    itself; only a checkpoint that was kept elsewhere convicts it.
    """
    verifier = host_signer(_paths().state_dir).verifier
    kept = _checkpoints_in(against, verifier) if against else []
    result = verify_ledger(_paths().state_dir / LEDGER_FILE, verifier=verifier, against=kept)
    if json:
        print_json(result)
    elif result.ok:
        done(f"{result.entries} entries, unbroken. Head: {result.head}")
        out.print(f"{result.checkpoints} signed checkpoints fit, {len(kept)} of them yours.")
        if not kept:
            print_plain(
                "Whoever can write the file can write all of it anew: compare with a checkpoint\n"
                "that is out of reach (--against FILE; [ledger] checkpoint_file makes one)."
            )
    if not result.ok:
        if json:
            raise SystemExit(1)
        where = f" at entry {result.first_broken_seq}" if result.first_broken_seq else ""
        raise HostError(
            f"The ledger is broken{where}: {result.problem}.",
            fix=f"The {result.entries} entries before it are sound. Keep the file as evidence and "
            "find out who could write to it.",
            code="ledger_broken",
        )


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


def _checkpoints_in(path: Path, verifier: Verifier) -> list[Checkpoint]:
    try:
        notes = split_notes(path.read_text(encoding="utf-8"))
        kept = [verifier.open_checkpoint(note) for note in notes]
    except (OSError, UnicodeDecodeError, NoteError) as error:
        raise HostError(
            f"The checkpoints in {path} cannot be used: {error}.",
            fix="Give a file of checkpoints that this host signed (`hostwright audit key` shows "
            "its key).",
            code="bad_checkpoints",
        ) from error
    if not kept:
        raise HostError(
            f"There is no checkpoint in {path}.",
            fix="Give a file that [ledger] checkpoint_file has filled, or a copy of it.",
            code="bad_checkpoints",
        )
    return kept


def _paths() -> Paths:
    return resolve_paths().ensure()


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise HostError(
            f"{text!r} is not a time.",
            fix="Write it as ISO 8601: 2026-11-20T09:30.",
            code="bad_time",
        ) from None
    return format_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
