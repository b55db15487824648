"""Proofs about the ledger that somebody else can check, with the public key and nothing of ours.

That an entry is in it: a proof of inclusion under a signed checkpoint, in the format of
c2sp.org/tlog-proof, with the entry itself as the extra data. That nothing of an older ledger was
changed or taken away: a proof of consistency between two checkpoints, in the same manner.
"""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

from pydantic import BaseModel, Field

from hostwright_kit.archives import Sources
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_file import BLOCK_ENTRIES, CHECKPOINT_TYPE
from hostwright_kit.merkle import (
    Frontier,
    consistency_proof,
    consistent,
    included,
    inclusion_proof,
    leaf_hash,
)
from hostwright_kit.signed_note import Checkpoint, NoteError, Verifier

INCLUSION = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "hostwright.dev/consistency-proof@v1"


class Inclusion(BaseModel, frozen=True):
    """That one entry is in the ledger."""

    id: str
    seq: int = Field(description="Its number, from 1.")
    entry: str = Field(description="The entry, byte for byte as it was hashed (JSON).")
    checkpoint_size: int = Field(description="Entries that the signed checkpoint covers.")
    proof: str = Field(description="c2sp.org/tlog-proof@v1, with the entry as its extra data.")


class Consistency(BaseModel, frozen=True):
    """That a newer ledger begins with the whole of an older one."""

    old_size: int
    new_size: int
    proof: str = Field(description="Both checkpoints and the hashes that lead from one to other.")


class Tree:
    """The Merkle tree of one ledger, read where it lies."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def subtree(self, start: int, end: int) -> bytes:
        """The root over the leaves from one index up to another; whole blocks are looked up."""
        # Of a tree that has a full block, the first leaf begins one.
        whole = (end - start) // BLOCK_ENTRIES if start % BLOCK_ENTRIES == 0 else 0
        first = start // BLOCK_ENTRIES
        # Full blocks are nodes of the tree, so their own tree is its upper part.
        upper, lower = Frontier(), Frontier()
        upper.extend(self._sources.block_roots(first, first + whole))
        lower.extend(map(leaf_hash, self._sources.bodies(start + whole * BLOCK_ENTRIES, end)))
        return Frontier(end - start, [*upper.roots, *lower.roots]).root()


def prove(path: Path, entry: str, verifier: Verifier) -> Inclusion:
    """Proof that an entry, named by id or number, is under the oldest checkpoint that covers it.

    Blocks. A `HostError` when there is no such entry, or none covers it yet.
    """
    with Sources.of(path) as sources:
        found = sources.find(entry)
        if found is None:
            raise HostError(
                f"There is no entry {entry!r}.",
                fix="Give the id or the number that event_log or `hostwright audit log` shows.",
                code="not_found",
            )
        seq, body = found.seq, found.body
        note = _covering(sources.db, seq)
        if note is None:
            raise HostError(
                f"No checkpoint covers entry {seq} yet.",
                fix="`hostwright audit checkpoint` signs one now; the next comes by itself within "
                "[ledger] checkpoint_seconds.",
                code="not_covered",
            )
        checkpoint = _opened(note, verifier)
        hashes = inclusion_proof(seq - 1, checkpoint.size, Tree(sources).subtree)
    if not included(leaf_hash(body), seq - 1, checkpoint.size, hashes, checkpoint.root):
        raise HostError(
            f"Entry {seq} does not fit the checkpoint over {checkpoint.size} entries.",
            fix="The ledger was changed: `hostwright audit verify` names the place.",
            code="ledger_broken",
        )
    lines = [INCLUSION, f"extra {_encode(body)}", f"index {seq - 1}", *map(_encode, hashes)]
    return Inclusion(
        id=found.id,
        seq=seq,
        entry=body.decode(),
        checkpoint_size=checkpoint.size,
        proof="".join(f"{line}\n" for line in lines) + "\n" + note,
    )


def prove_consistency(
    path: Path, old: str, verifier: Verifier, *, new: str | None = None
) -> Consistency:
    """Proof that the ledger at one checkpoint begins with the whole of it at an older one.

    Both are signed notes, kept elsewhere or from here; without `new` the ledger's newest. Blocks.
    """
    before = _opened(old, verifier)
    with Sources.of(path) as sources:
        note = new or checkpoint_over(sources.db)
        after = _opened(note, verifier)
        if not 0 < before.size <= after.size:
            raise HostError(
                f"The old checkpoint covers {before.size} entries, the new one {after.size}.",
                fix="Give an older checkpoint of this ledger; if this one is older, entries were "
                "cut off (`hostwright audit verify --against FILE`).",
                code="not_consistent",
            )
        if after.size > (present := sources.newest()):
            raise HostError(
                f"The new checkpoint covers {after.size} entries, {present} are here.",
                fix="Entries were cut off after it was signed: keep both as evidence, and see "
                "`hostwright audit verify --against FILE`.",
                code="not_consistent",
            )
        hashes = consistency_proof(before.size, after.size, Tree(sources).subtree)
    if not consistent(before.size, after.size, before.root, after.root, hashes):
        raise HostError(
            f"The ledger of {after.size} entries does not begin with the {before.size} entries of "
            "the old checkpoint.",
            fix="It was changed after that was signed: keep both as evidence, and see `hostwright "
            "audit verify --against FILE`.",
            code="not_consistent",
        )
    head = "".join(f"{line}\n" for line in [CONSISTENCY, *map(_encode, hashes)])
    return Consistency(
        old_size=before.size,
        new_size=after.size,
        proof=f"{head}\n{old.strip()}\n\n{note.strip()}\n",
    )


def checkpoint_over(db: sqlite3.Connection, size: int | None = None) -> str:
    """The signed checkpoint over so many entries, or the newest; a `HostError` without one."""
    query = "SELECT note FROM checkpoints WHERE ?1 IS NULL OR size = ?1 ORDER BY size DESC LIMIT 1"
    row = db.execute(query, (size,)).fetchone()
    if row is None:
        what = "no checkpoint yet" if size is None else f"no checkpoint over {size} entries"
        raise HostError(
            f"The ledger has {what}.",
            fix="`hostwright audit checkpoint` signs one now; `hostwright audit log --type "
            f"{CHECKPOINT_TYPE}` lists those there are.",
            code="not_covered",
        )
    return str(row[0])


def _covering(db: sqlite3.Connection, seq: int) -> str | None:
    query = "SELECT note FROM checkpoints WHERE size >= ? ORDER BY size LIMIT 1"
    row = db.execute(query, (seq,)).fetchone()
    return None if row is None else str(row[0])


def _opened(note: str, verifier: Verifier) -> Checkpoint:
    try:
        return verifier.open_checkpoint(note)
    except NoteError as error:
        raise HostError(
            f"The checkpoint is not genuine: {error}.",
            fix="Give one that this host's key has signed (`hostwright audit key`).",
            code="bad_checkpoints",
        ) from error


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
