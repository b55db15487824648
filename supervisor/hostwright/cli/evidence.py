"""Commands that make evidence of the ledger: checkpoints, proofs, exports, archives.

Whoever doubts this host needs none of it: `script` writes a file that Python alone runs, and with
the public key it checks what the others wrote. They need no daemon, and disturb none.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hostwright.cli.output import done, json_visible, print_json, print_plain
from hostwright_kit import offline_audit
from hostwright_kit.archives import Sources, rotate
from hostwright_kit.atomic import write_private
from hostwright_kit.audit import EventFilter
from hostwright_kit.config import LedgerConfig, load_kit_config, read_settings
from hostwright_kit.errors import HostError
from hostwright_kit.exporting import Export, Form
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger_file import LedgerFile
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.proving import checkpoint_over, prove, prove_consistency
from hostwright_kit.runtime import LEDGER_FILE, checkpoints_of
from hostwright_kit.signed_note import NoteError, Verifier, split_notes

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Out = Annotated[
    Path | None, Parameter(name=("--out", "-o"), help="Write to this file instead of stdout.")
]
_SIZE = re.compile(r"[1-9][0-9]{0,17}\Z", re.ASCII)


def register(audit: App) -> None:
    """Add the commands."""
    audit.command(checkpoint)
    audit.command(prove_entry, name="prove")
    audit.command(consistency)
    audit.command(export)
    audit.command(rotate_ledger, name="rotate")
    audit.command(script)


def checkpoint(*, json: Json = False) -> None:
    """Sign the ledger as it is now, and print the checkpoint; keep it where this host cannot write.

    It goes to the journal and to [ledger] checkpoint_file as well. When nothing was written since
    the last one, that one is printed.
    """
    paths = _paths()
    note = _sign(paths)
    if json:
        found = _opened(note, _verifier(paths))
        print_json({"origin": found[0], "size": found[1], "root": found[2], "note": note})
    else:
        print_plain(note.rstrip("\n"))


def prove_entry(
    entry: Annotated[str, Parameter(help="The entry's id or its number.")],
    *,
    out: Out = None,
    json: Json = False,
) -> None:
    """Prove that an entry was in the ledger when a checkpoint was signed.

    The proof (c2sp.org/tlog-proof) holds the entry itself, and the signed checkpoint. Check it
    anywhere: `python3 -I FILE KEY proof PROOF`, with the FILE of `hostwright audit script`.
    """
    paths = _paths()
    found = prove(paths.state_dir / LEDGER_FILE, entry, _verifier(paths))
    _write_proof(found.proof, out)
    if json:
        print_json({**found.model_dump(mode="json"), "file": str(out) if out else None})
    elif out:
        done(f"Entry {found.seq} is in the ledger of {found.checkpoint_size} entries: {out}")
    else:
        print_plain(found.proof.rstrip("\n"))


def consistency(
    old: Annotated[str, Parameter(help="SIZE of a checkpoint here, FILE with one, or FILE@SIZE.")],
    new: Annotated[str | None, Parameter(help="The same; without it the newest here.")] = None,
    *,
    out: Out = None,
    json: Json = False,
) -> None:
    """Prove that nothing of an older checkpoint was changed or taken away up to a newer one."""
    paths = _paths()
    verifier, ledger = _verifier(paths), paths.state_dir / LEDGER_FILE
    before = _named(old, ledger, verifier)
    after = _named(new, ledger, verifier) if new is not None else None
    found = prove_consistency(ledger, before, verifier, new=after)
    _write_proof(found.proof, out)
    if json:
        print_json({**found.model_dump(mode="json"), "file": str(out) if out else None})
    elif out:
        done(f"{found.new_size} entries begin with the older {found.old_size}: {out}")
    else:
        print_plain(found.proof.rstrip("\n"))


def export(
    *,
    type: str | None = None,  # noqa: A002 - the field's name
    caller: str | None = None,
    server: str | None = None,
    tool: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    until: str | None = None,
    format: Annotated[  # noqa: A002 - the usual name
        Form, Parameter(help="jsonl: entries as they were hashed. csv: for spreadsheets.")
    ] = "jsonl",
    out: Out = None,
    json: Json = False,
) -> None:
    """Write the ledger out, archives included, oldest first.

    Without filters the JSON lines can be compared with a checkpoint: `python3 -I FILE KEY export
    LEDGER.jsonl CHECKPOINTS`, with the FILE of `hostwright audit script`. In CSV, text that a
    spreadsheet would take for a formula is preceded by an apostrophe.
    """
    wanted = EventFilter(
        type=type,
        caller=caller,
        server=server,
        tool=tool,
        outcome=outcome,
        since=since,
        until=until,
    )
    made = Export(_paths().state_dir / LEDGER_FILE, wanted, format)
    if out is not None:
        found = made.into(_target(out))
        if json:
            print_json(found)
        else:
            done(f"{found.entries} entries are in {out}.")
        return
    if json and format == "csv":
        raise HostError(
            "CSV is no JSON.", fix="Add --out FILE, or leave --json away.", code="usage"
        )
    _to_stdout(made.chunks(), escaped=sys.stdout.isatty() and format == "jsonl")


def rotate_ledger(
    *,
    keep: Annotated[
        int | None, Parameter(help="About so many entries stay; without it [ledger] keep_entries.")
    ] = None,
    json: Json = False,
) -> None:
    """Move old entries into an archive file beside the ledger; the chain goes on over it.

    The daemon does it by itself. What is moved is signed first, and checked entry by entry.
    """
    paths = _paths()
    wanted = _rules(paths).keep_entries if keep is None else keep
    if wanted < 1:
        raise HostError(
            "How many entries are to stay?"
            if keep is None
            else f"{keep} entries cannot stay: the newest one has to.",
            fix="Say it with --keep N, from 1.",
            code="usage",
        )
    _sign(paths)
    moved = rotate(paths.state_dir / LEDGER_FILE, keep_entries=wanted)
    if json:
        print_json(moved)
    elif moved.entries:
        done(f"Entries {moved.first} to {moved.last} are in {moved.file}.")
    else:
        done(f"Nothing was moved: there are not 256 entries beyond the newest {wanted}.")


def script(
    out: Annotated[Path | None, Parameter(help="Where to; without it stdout.")] = None,
    *,
    json: Json = False,
) -> None:
    """Write the file with which anybody checks proofs and exports: Python, and nothing else."""
    content = Path(offline_audit.__file__).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if out is None:
        if json:
            print_json({"sha256": digest, "script": content.decode()})
        else:
            _to_stdout(iter([content]))
        return
    _write(out, content, mode=0o755)
    if json:
        print_json({"file": str(out), "sha256": digest})
    else:
        done(f"python3 -I {out} KEY proof PROOF… · sha256 {digest}")


def _sign(paths: Paths) -> str:
    """Sign what no checkpoint covers; the newest note."""
    path = paths.state_dir / LEDGER_FILE
    if not path.exists():
        raise HostError(
            f"There is no ledger at {path} yet.", fix="Make a first call.", code="not_found"
        )
    with closing(LedgerFile(path)) as file:
        checkpoints_of(paths.state_dir, _rules(paths)).sign(file)
        note = file.newest_checkpoint()
    if note is None:
        raise HostError(
            "The ledger is empty: there is nothing to sign.",
            fix="Make a first call.",
            code="not_found",
        )
    return note


def _rules(paths: Paths) -> LedgerConfig:
    settings = read_settings(paths)
    config = load_kit_config(settings)
    settings.raise_problems()
    return config.ledger


def _named(text: str, ledger: Path, verifier: Verifier) -> str:
    """The checkpoint that SIZE, FILE or FILE@SIZE means."""
    if _SIZE.match(text):
        with Sources.of(ledger) as sources:
            return checkpoint_over(sources.db, int(text))
    name, _, size = text.rpartition("@")
    file, wanted = (Path(name), int(size)) if name and _SIZE.match(size) else (Path(text), None)
    try:
        notes = split_notes(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(
            f"The checkpoint in {file} cannot be read: {error}.",
            fix="Give a file that `hostwright audit checkpoint` has written, or the number of "
            "entries that a checkpoint here covers.",
            code="bad_checkpoints",
        ) from error
    found = [note for note in notes if wanted in (None, _opened(note, verifier)[1])]
    if len({_opened(note, verifier)[1] for note in found}) != 1:
        sizes = ", ".join(str(_opened(note, verifier)[1]) for note in notes[:20])
        raise HostError(
            f"Which checkpoint of {file}? It has {len(notes)}: over {sizes or 'nothing'}.",
            fix=f"Name one: {file}@SIZE.",
            code="bad_checkpoints",
        )
    return found[0]


def _opened(note: str, verifier: Verifier) -> tuple[str, int, str]:
    """Name, size and root in hex, if the note is genuine."""
    try:
        found = verifier.open_checkpoint(note)
    except NoteError as error:
        raise HostError(
            f"The checkpoint is not genuine: {error}.",
            fix="Give one that this host's key has signed (`hostwright audit key`).",
            code="bad_checkpoints",
        ) from error
    return found.origin, found.size, found.root.hex()


def _write_proof(proof: str, out: Path | None) -> None:
    if out is not None:
        _write(out, proof.encode(), mode=0o644)


def _write(out: Path, content: bytes, *, mode: int) -> None:
    target = _target(out)
    try:
        write_private(target, content, mode=mode)
    except OSError as error:
        raise HostError(
            f"{out} cannot be written: {error.strerror}.",
            fix="Free space there or name another place; what was there is unchanged.",
            code="not_written",
        ) from error


def _target(out: Path) -> Path:
    target = out.expanduser().absolute()
    if target.is_dir() or not target.parent.is_dir():
        raise HostError(
            f"{out} is no place for a file.",
            fix="Name a file in a folder that is there.",
            code="usage",
        )
    return target


def _to_stdout(chunks: Iterator[bytes], *, escaped: bool = False) -> None:
    """Bytes as they are; on a terminal with nothing in them that it would obey."""
    sys.stdout.flush()
    for chunk in chunks:
        if escaped:
            sys.stdout.write(json_visible(chunk.decode()))
        else:
            sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


def _verifier(paths: Paths) -> Verifier:
    return host_signer(paths.state_dir).verifier


def _paths() -> Paths:
    return resolve_paths().ensure()
