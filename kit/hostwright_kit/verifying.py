"""The walk that verifies a ledger: chain, columns, tree and checkpoints, from the first entry on.

Checked for each entry: its number follows, its hash follows from its body and the hash before, its
body is canonical at the top and says what the columns say. Checked over all of them: the Merkle
tree that the file keeps, every checkpoint in the file, and those that were kept elsewhere.

A long ledger is walked in parts by several processes: a part trusts the stored hash that it begins
after, and the part before it checks that very hash. Archives (`archives.py`) are parts as well. One
that is not here is a fault, unless the caller knows of it: then the tree vouches for its entries.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from pydantic import BaseModel, Field

from hostwright_kit.archives import Archive, archives_of
from hostwright_kit.ledger_file import BLOCK_ENTRIES, GENESIS
from hostwright_kit.ledger_reading import open_readonly, reading
from hostwright_kit.merkle import HASH_BYTES, Frontier, root_of
from hostwright_kit.signed_note import Checkpoint, NoteError, Verifier, parse_checkpoint

PART_ENTRIES = 100_000
MAX_PROCESSES = 4
_QUERY = (
    "SELECT seq, id, time, type, caller, server, tool, outcome, intent_id, body, hash "
    "FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq"
)


class Verification(BaseModel, frozen=True):
    """What a walk over the whole ledger found."""

    ok: bool
    entries: int = Field(description="Good ones, from the first.")
    head: str = Field(description="Hash of the last good entry; keep it elsewhere to compare.")
    root: str | None = Field(default=None, description="Root of the Merkle tree over them, hex.")
    checkpoints: int = Field(default=0, description="How many were compared and fit.")
    not_here: int = Field(
        default=0, description="Entries in archives that are not here: only the tree was compared."
    )
    first_broken_seq: int | None = None
    problem: str | None = None


class _Body(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A body, in the order that RFC 8785 gives its keys."""

    detail: msgspec.Raw
    id: str
    seq: int
    time: str
    type: str
    caller: str | None = None
    intent_id: str | None = None
    outcome: str | None = None
    server: str | None = None
    tool: str | None = None


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass
class _Part:
    """What one stretch of the ledger holds, up to its first fault."""

    entries: int = 0
    head: bytes = GENESIS
    blocks: list[bytes] = field(default_factory=list[bytes])
    rest: list[bytes] = field(default_factory=list[bytes])
    cuts: dict[int, list[bytes]] = field(default_factory=dict[int, list[bytes]])
    """The leaves after the last full block, at each size that a checkpoint speaks of."""
    problem: str | None = None
    unread: int = 0


class _Stretch(NamedTuple):
    """Which entries of which file; after which hash, where that is not in the file itself."""

    path: Path
    start: int
    end: int
    after: bytes | None = None


def verify(
    path: Path,
    *,
    verifier: Verifier | None = None,
    against: Sequence[Checkpoint] = (),
    without_archives: bool = False,
) -> Verification:
    """Walk all of it. Blocks; seconds per million entries.

    `verifier` is the host's public key, for the checkpoints in the file; `against` are checkpoints
    that were kept elsewhere (and whose signature was checked already). `without_archives`: it is
    known that archives are not here.
    """
    with reading(path) as db:
        # All of one moment: what is written while the entries are walked is not missing.
        db.execute("BEGIN")
        archives = archives_of(path, db)
        last = db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]
        kept, problem = _kept_checkpoints(db, verifier)
        tree = _kept_tree(db)
        db.execute("COMMIT")
        sizes = sorted({one.size for one in (*kept, *against)})
        parts = _walk_all(path, db, archives, last, sizes, without_archives=without_archives)
        found = _joined(parts)
        if found.problem is not None and archives_of(path, db) != archives:
            # Entries were moved while we looked for them.
            return verify(
                path, verifier=verifier, against=against, without_archives=without_archives
            )
        if found.problem is None:
            found.problem = problem or _tree_fault(tree, found)
    roots = _roots(found, sizes)
    checked = 0
    if found.problem is None:
        checked, found.problem = _compare(found, roots, kept, against)
        broken = None
    else:
        broken = found.entries + 1
    return Verification(
        ok=found.problem is None,
        entries=found.entries,
        head=found.head.hex(),
        root=_frontier(found.blocks, found.rest).root().hex() if broken is None else None,
        checkpoints=checked,
        not_here=found.unread,
        first_broken_seq=broken,
        problem=found.problem,
    )


def _kept_checkpoints(
    db: sqlite3.Connection, verifier: Verifier | None
) -> tuple[list[Checkpoint], str | None]:
    found: list[Checkpoint] = []
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone():
        return found, None
    for size, note in db.execute("SELECT size, note FROM checkpoints ORDER BY size"):
        try:
            checkpoint = (
                verifier.open_checkpoint(note)
                if verifier
                else parse_checkpoint(str(note).partition("\n\n")[0] + "\n")
            )
        except NoteError as error:
            return found, f"the checkpoint over {size} entries is not genuine: {error}"
        found.append(checkpoint)
    return found, None


def _walk_all(
    path: Path,
    db: sqlite3.Connection,
    archives: Sequence[Archive],
    last: int,
    sizes: Sequence[int],
    *,
    without_archives: bool,
) -> list[_Part]:
    """Archive after archive, then what is in the ledger's own file."""
    parts: list[_Part] = []
    start, head = 0, GENESIS
    for archive in archives:
        fault = None if archive.first == start + 1 else f"entry {start + 1} is missing"
        if fault is None and not archive.is_here() and not without_archives:
            fault = f"it is in an archive that is not here ({archive.path})"
        if fault is not None:
            return [*parts, _Part(problem=fault)]
        if archive.is_here():
            whole = _Stretch(archive.path, archive.first - 1, archive.last, head)
            parts += _walk(whole, sizes)
            if parts[-1].problem is None and parts[-1].head != archive.head:
                parts[-1].problem = "the entry after it does not follow from it"
        else:
            parts.append(_unread(db, archive))
        start, head = archive.last, archive.head
        if parts[-1].problem is not None:
            return parts
    # Without archives, what somebody put before the first entry is found as well.
    return parts + _walk(_Stretch(path, start, max(last, start), head), sizes)


def _unread(db: sqlite3.Connection, archive: Archive) -> _Part:
    """What the ledger itself keeps of entries that are not here. Archives hold whole blocks."""
    first, end = (archive.first - 1) // BLOCK_ENTRIES, archive.last // BLOCK_ENTRIES
    query = "SELECT root FROM blocks WHERE number >= ? AND number < ? ORDER BY number"
    blocks = [root for (root,) in db.execute(query, (first, end))]
    entries = archive.last - archive.first + 1
    part = _Part(entries=entries, head=archive.head, blocks=blocks, unread=entries)
    if len(blocks) != end - first:
        part.problem = f"the tree lacks blocks of the entries {archive.first} to {archive.last}"
    return part


def processes_at_most() -> int:
    """How many processes walk a long ledger here: one for each core that we may use, up to four."""
    # Not every system knows of cores that a process may not use.
    mine = getattr(os, "sched_getaffinity", None)
    return min(MAX_PROCESSES, len(mine(0)) if mine is not None else os.cpu_count() or 1)


def _walk(whole: _Stretch, sizes: Sequence[int]) -> list[_Part]:
    step = PART_ENTRIES // BLOCK_ENTRIES * BLOCK_ENTRIES
    path, first, last, head = whole
    stretches = [
        _Stretch(path, start, min(start + step, last), head if start == first else None)
        for start in range(first, max(last, first + 1), step)
    ]
    processes = min(processes_at_most(), len(stretches))
    if processes < 2:
        return [_walk_alone(one, sizes) for one in stretches]
    # Spawned, because this may run in a thread of a server, which must not fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        work = [pool.submit(_walk_alone, one, sizes) for one in stretches]
        return [one.result() for one in work]


def _walk_alone(stretch: _Stretch, sizes: Sequence[int]) -> _Part:
    part = _Part()
    start, end = stretch.start, stretch.end
    wanted = {size for size in sizes if start < size <= end}
    try:
        with closing(open_readonly(stretch.path)) as db:
            row = db.execute("SELECT hash FROM entries WHERE seq = ?", (start,)).fetchone()
            # Of what is before a stretch that is not the first, the one before it is the judge.
            part.head = stretch.after if stretch.after is not None else row[0] if row else GENESIS
            cursor = db.cursor()
            cursor.row_factory = None
            first = start or -(2**62)
            _check_rows(cursor.execute(_QUERY, (first, end)), part, start, wanted)
    except sqlite3.DatabaseError as error:
        part.problem = f"the database cannot be read from here on: {error}"
    if part.problem is None and part.entries < end - start:
        part.problem = f"entry {start + part.entries + 1} is missing"
    return part


def _check_rows(
    rows: Iterator[tuple[object, ...]], part: _Part, start: int, cuts: set[int]
) -> None:
    previous, expected = part.head, start
    leaves = part.rest
    sha256 = hashlib.sha256
    for row in rows:
        expected += 1
        body, link = row[9], row[10]
        # Whoever can edit the file can also change its schema, and with it the types.
        if type(body) is not bytes or type(link) is not bytes:
            part.problem = "its body or its hash is not a blob"
        elif row[0] != expected:
            part.problem = f"entry {expected} is missing; the next one present is {row[0]}"
        elif sha256(previous + body).digest() != link:
            part.problem = "its hash does not follow from its body and the entry before it"
        else:
            part.problem = _body_fault(row, body)
        if part.problem is not None or type(body) is not bytes or type(link) is not bytes:
            return
        previous = link
        leaves.append(sha256(b"\x00" + body).digest())
        part.entries, part.head = part.entries + 1, previous
        if len(leaves) == BLOCK_ENTRIES:
            part.blocks.append(root_of(leaves))
            leaves.clear()
        if expected in cuts:
            part.cuts[expected] = list(leaves)


def _body_fault(row: tuple[object, ...], body: bytes) -> str | None:
    try:
        said = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "its body is not an entry in JSON"
    # Kept short: this is done for every entry of a walk.
    columns = (
        *(said.seq, said.id, said.time, said.type, said.caller, said.server, said.tool),
        *(said.outcome, said.intent_id),
    )
    if columns != row[:9]:
        return _wrong_column(row, columns)
    return None if _encode(said) == body else "its body is not in canonical JSON"


def _wrong_column(row: tuple[object, ...], said: tuple[object, ...]) -> str:
    names = ("seq", "id", "time", "type", "caller", "server", "tool", "outcome", "intent_id")
    wrong = next(at for at in range(len(names)) if said[at] != row[at])
    return f"the column {names[wrong]} says {row[wrong]!r}, the signed body {said[wrong]!r}"


def _joined(parts: Sequence[_Part]) -> _Part:
    whole = _Part()
    for part in parts:
        whole.entries += part.entries
        whole.head = part.head
        whole.blocks += part.blocks
        whole.rest = part.rest
        whole.cuts |= part.cuts
        whole.unread += part.unread
        if part.problem is not None:
            whole.problem = part.problem
            break
    return whole


def _frontier(blocks: Sequence[bytes], rest: Sequence[bytes]) -> Frontier:
    """Full blocks are nodes of the tree, so their own tree is its upper part."""
    upper, lower = Frontier(), Frontier()
    upper.extend(blocks)
    lower.extend(rest)
    return Frontier(len(blocks) * BLOCK_ENTRIES + len(rest), [*upper.roots, *lower.roots])


def _roots(found: _Part, sizes: Sequence[int]) -> dict[int, bytes]:
    """The root at each size, as far as the good entries reach."""
    roots: dict[int, bytes] = {}
    upper, blocks = Frontier(), 0
    for size in sizes:
        if size not in found.cuts:
            continue
        while blocks < size // BLOCK_ENTRIES:
            upper.add(found.blocks[blocks])
            blocks += 1
        lower = Frontier()
        lower.extend(found.cuts[size])
        roots[size] = Frontier(size, [*upper.roots, *lower.roots]).root()
    return roots


def _kept_tree(db: sqlite3.Connection) -> tuple[int, bytes] | None:
    """Size and roots of the file's own tree; None in a file that has none."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tree'").fetchone():
        return None
    size, roots = db.execute("SELECT size, roots FROM tree").fetchone() or (-1, b"")
    return size, roots


def _tree_fault(tree: tuple[int, bytes] | None, found: _Part) -> str | None:
    """What the file's own tree says against its entries."""
    if tree is None:
        return None
    size, roots = tree
    if size == 0 and not found.blocks:
        return None  # nothing was appended since the tree came into use
    if size > found.entries:
        return f"{size - found.entries} entries are missing at the end"
    if size != found.entries:
        return None if size == 0 else f"the tree covers {size} of {found.entries} entries"
    expected = _frontier(found.blocks, found.rest).roots
    stored = [roots[at : at + HASH_BYTES] for at in range(0, len(roots), HASH_BYTES)]
    return None if stored == expected else "the tree does not fit the entries"


def _compare(
    found: _Part,
    roots: dict[int, bytes],
    kept: Sequence[Checkpoint],
    against: Sequence[Checkpoint],
) -> tuple[int, str | None]:
    good = 0
    for checkpoint in sorted((*kept, *against), key=lambda one: one.size):
        size = checkpoint.size
        if size > found.entries:
            return good, (
                f"a checkpoint covers {size} entries, {found.entries} are here: "
                f"{size - found.entries} were cut off"
            )
        if found.unread and size not in roots:
            # It ends amid entries that are not here; a later one vouches for them.
            continue
        if size and roots[size] != checkpoint.root:
            return good, (
                f"the checkpoint over {size} entries does not fit: one of entries "
                f"{_last_good(roots, (*kept, *against), size) + 1} to {size} was changed after it "
                "was signed"
            )
        good += 1
    return good, None


def _last_good(roots: dict[int, bytes], checkpoints: Sequence[Checkpoint], below: int) -> int:
    fitting = [c.size for c in checkpoints if c.size < below and roots.get(c.size) == c.root]
    return max(fitting, default=0)
