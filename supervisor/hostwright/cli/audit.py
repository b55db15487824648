"""Commands that read the ledger and say whether it is what was signed. They need no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hostwright.cli import evidence
from hostwright.cli.output import cell, done, make_table, out, print_json, print_plain
from hostwright_kit import audit as ledger_audit
from hostwright_kit.access_reading import list_all
from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.signed_note import Checkpoint, Verifier
from hostwright_kit.verifying import verify as verify_ledger
from hostwright_kit.walking import opened_checkpoints

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def register(app: App) -> None:
    """Add the commands."""
    audit = App(name="audit", help="Read, verify, prove, export and rotate the ledger.")
    audit.command(log)
    audit.command(verify)
    audit.command(key)
    evidence.register(audit)
    app.command(audit)


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
        since=since,
        until=until,
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
    if page.missing:
        print_plain(page.missing)


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
    without_archives: Annotated[
        bool,
        Parameter(negative="", help="Archives are kept elsewhere: their entries are not read."),
    ] = False,
    json: Json = False,
) -> None:
    """Walk the whole ledger and name the first entry that does not fit, if any.

    Chain, Merkle tree and signed checkpoints are compared. A ledger that somebody wrote anew fits
    itself; only a checkpoint that was kept elsewhere convicts it.
    """
    verifier = host_signer(_paths().state_dir).verifier
    kept = _checkpoints_in(against, verifier) if against else []
    result = verify_ledger(
        _paths().state_dir / LEDGER_FILE,
        verifier=verifier,
        against=kept,
        without_archives=without_archives,
    )
    if json:
        print_json(result)
    elif result.ok:
        done(f"{result.entries} entries, unbroken. Head: {result.head}")
        out.print(f"{result.checkpoints} signed checkpoints fit, {len(kept)} of them yours.")
        if result.not_here:
            out.print(f"{result.not_here} entries are in archives that were not read.")
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


def _checkpoints_in(path: Path, verifier: Verifier) -> list[Checkpoint]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(
            f"The checkpoints in {path} cannot be read: {error}.",
            fix="Give a file that [ledger] checkpoint_file has filled, or a copy of it.",
            code="bad_checkpoints",
        ) from error
    return opened_checkpoints(text, verifier, str(path))


def _paths() -> Paths:
    return resolve_paths().ensure()
