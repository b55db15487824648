"""The ledger's file: its tables, the bytes that are hashed, and appending in one transaction.

Table `entries`, one row per entry. `body` is the RFC 8785 encoding of the entry; the hash of entry
n is SHA-256(hash of entry n-1 as 32 bytes ‖ body n), that of "entry 0" is 32 zero bytes. The other
columns repeat fields of the body so that SQLite can filter; `audit.verify` checks that they agree.
Triggers refuse UPDATE and DELETE, so that a mistake in our own code cannot rewrite history; the
chain shows what somebody else changed.

The bodies are also the leaves of a Merkle tree (`merkle.py`), whose root a signed checkpoint
commits to. Table `tree` keeps its frontier, so that it grows without reading what is there; table
`blocks` the root of each full block of 256 entries, so that proofs need not read everything; table
`archives` where old entries have gone (`archives.py`).

Any number of processes append to the same file; each transaction finds what others wrote.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_now
from hostwright_kit.merkle import HASH_BYTES, Frontier, leaf_hash, root_of
from hostwright_kit.store import open_store, transaction

GENESIS = bytes(32)
BLOCK_ENTRIES = 256
CHECKPOINT_TYPE = "ledger.checkpoint"
"""Of the entry that tells of a checkpoint. By itself it is no reason for the next one."""

MIGRATIONS = (
    """
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        time TEXT NOT NULL,
        type TEXT NOT NULL,
        caller TEXT,
        server TEXT,
        tool TEXT,
        outcome TEXT,
        intent_id TEXT,
        body BLOB NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_type ON entries (type, seq);
    CREATE INDEX entries_tool ON entries (tool, seq);
    CREATE INDEX entries_caller ON entries (caller, seq);
    CREATE INDEX entries_intent ON entries (intent_id) WHERE intent_id IS NOT NULL;
    CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    """,
    """
    CREATE TABLE tree (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        size INTEGER NOT NULL,
        roots BLOB NOT NULL
    ) STRICT;
    INSERT INTO tree VALUES (1, 0, x'');
    CREATE TABLE blocks (number INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
    CREATE TABLE checkpoints (
        size INTEGER PRIMARY KEY,
        time TEXT NOT NULL,
        note TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE archives (
        first INTEGER PRIMARY KEY,
        last INTEGER NOT NULL,
        file TEXT NOT NULL,
        head BLOB NOT NULL,
        time TEXT NOT NULL
    ) STRICT;
    DROP TRIGGER entries_no_delete;
    CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
        WHEN old.seq > (SELECT coalesce(max(last), 0) FROM archives)
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
    """,
)
COLUMNS = ("caller", "server", "tool", "outcome", "intent_id")
_INSERT = (
    "INSERT INTO entries (id, time, type, caller, server, tool, outcome, intent_id, seq, body, "
    "hash) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is appended. Everything in it must already be fit to be read by others."""

    type: str
    caller: str | None = None
    server: str | None = None
    tool: str | None = None
    outcome: str | None = None
    intent_id: str | None = None
    detail: Mapping[str, Any] = {}


class Receipt(msgspec.Struct, frozen=True):
    """Proof that an entry is on disk."""

    seq: int
    id: str
    time: str
    hash: str


class CutError(Exception):
    """Entries that were there are gone. Appending would hide where."""

    def __init__(self, had: int, has: int) -> None:
        super().__init__(f"it had {had} entries and has {has}: somebody cut it")


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """An entry that is encoded but for its number, which the file gives it."""

    id: str
    columns: tuple[str | None, ...]
    """time, type, caller, server, tool, outcome, intent_id"""
    head: bytes
    tail: bytes

    @property
    def time(self) -> str:
        """When it was made."""
        return str(self.columns[0])

    def body(self, seq: int) -> bytes:
        """The bytes that are hashed. In canonical order `seq` stands between head and tail."""
        return b'%b"seq":%d%b' % (self.head, seq, self.tail)


def draft(entry: Entry) -> Draft:
    """Encode an entry. Raises `ValueError`, `TypeError` or `RecursionError` if it cannot be."""
    entry_id, moment = _new_id(), utc_now()
    columns = (
        *(moment, entry.type, entry.caller, entry.server, entry.tool),
        *(entry.outcome, entry.intent_id),
    )
    for text in columns:
        if text is not None and not text.isascii():
            text.encode()  # SQLite has no room for a lone surrogate
    head = {"caller": entry.caller, "detail": entry.detail, "id": entry_id}
    head |= {"intent_id": entry.intent_id, "outcome": entry.outcome}
    tail = {"server": entry.server, "time": moment, "tool": entry.tool, "type": entry.type}
    return Draft(entry_id, columns, _part(head)[:-1] + b",", b"," + _part(tail)[1:])


def _new_id() -> str:
    """Unique, and near those of the same moment: their index then grows at its end.

    With ids that are random alone, each entry of a batch writes another page of it.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def _part(fields: Mapping[str, Any]) -> bytes:
    return canonical({name: value for name, value in fields.items() if value is not None})


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of an entry, given that of the one before. Fixed lengths: nothing can shift."""
    return hashlib.sha256(previous + body).digest()


class LedgerFile:
    """Appends to one ledger. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_store(path, MIGRATIONS)
        self._version = -1
        self._last: tuple[int, bytes] = (0, GENESIS)
        self._tree = Frontier()

    def append(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Append all of them, durably, or none; raises `sqlite3.Error` then."""
        try:
            with transaction(self._db):
                self._catch_up()
                return self._append(drafts)
        except BaseException:
            # What we believe of the file is only true if the transaction came to be.
            self._version = -1
            raise

    def known(self, ids: Sequence[str]) -> dict[str, Receipt]:
        """Receipts of those entries that are in the file."""
        found: dict[str, Receipt] = {}
        for one in ids:
            row = self._db.execute(
                "SELECT seq, id, time, hash FROM entries WHERE id = ?", (one,)
            ).fetchone()
            if row is not None:
                found[one] = Receipt(
                    seq=row["seq"], id=row["id"], time=row["time"], hash=row["hash"].hex()
                )
        return found

    def tree(self) -> Frontier:
        """The tree over all that is in the file now."""
        with transaction(self._db):
            self._catch_up()
            return Frontier(self._tree.size, self._tree.roots)

    def add_checkpoint(self, size: int, time: str, note: str) -> None:
        """Keep a signed checkpoint."""
        self._db.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?)", (size, time, note))

    def last_checkpoint(self) -> int:
        """How many entries the newest checkpoint covers."""
        return self._db.execute("SELECT coalesce(max(size), 0) FROM checkpoints").fetchone()[0]

    def newest_checkpoint(self) -> str | None:
        """The newest signed note."""
        query = "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1"
        row = self._db.execute(query).fetchone()
        return None if row is None else str(row[0])

    def uncovered(self) -> bool:
        """Whether there are entries that no checkpoint covers, and not only news of one."""
        query = "SELECT 1 FROM entries WHERE seq > ? AND type != ? LIMIT 1"
        values = (self.last_checkpoint(), CHECKPOINT_TYPE)
        return self._db.execute(query, values).fetchone() is not None

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _append(self, drafts: Sequence[Draft]) -> list[Receipt]:
        seq, previous = self._last
        rows: list[tuple[Any, ...]] = []
        receipts: list[Receipt] = []
        leaves: list[bytes] = []
        for one in drafts:
            seq += 1
            body = one.body(seq)
            previous = chain(previous, body)
            rows.append((one.id, *one.columns, seq, body, previous))
            leaves.append(leaf_hash(body))
            receipts.append(Receipt(seq, one.id, one.time, previous.hex()))
        self._db.executemany(_INSERT, rows)
        self._grow(leaves)
        self._last = (seq, previous)
        return receipts

    def _catch_up(self) -> None:
        """Learn what other processes appended since we looked; costs next to nothing if none."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        row = self._db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        self._last = (row["seq"], row["hash"]) if row else (0, GENESIS)
        size, roots = self._db.execute("SELECT size, roots FROM tree").fetchone()
        self._tree = Frontier(
            size, [roots[at : at + HASH_BYTES] for at in range(0, len(roots), HASH_BYTES)]
        )
        if self._tree.size > self._last[0]:
            raise CutError(self._tree.size, self._last[0])
        self._version = version
        if self._tree.size < self._last[0]:
            # Written by a version that knew no tree.
            query = "SELECT body FROM entries WHERE seq > ? ORDER BY seq"
            self._grow([leaf_hash(body) for (body,) in self._db.execute(query, (size,))])

    def _grow(self, leaves: Sequence[bytes]) -> None:
        begun = self._tree.size % BLOCK_ENTRIES
        first = self._tree.size // BLOCK_ENTRIES
        self._tree.extend(leaves)
        if begun + len(leaves) >= BLOCK_ENTRIES:
            self._add_blocks(first, self._tree.size // BLOCK_ENTRIES)
        self._db.execute(
            "UPDATE tree SET size = ?, roots = ?", (self._tree.size, b"".join(self._tree.roots))
        )

    def _add_blocks(self, first: int, end: int) -> None:
        for number in range(first, end):
            self._db.execute(
                "INSERT OR REPLACE INTO blocks VALUES (?, ?)",
                (number, root_of(leaves_of(self._db, number * BLOCK_ENTRIES, BLOCK_ENTRIES))),
            )


def leaves_of(db: sqlite3.Connection, start: int, count: int) -> list[bytes]:
    """The leaf hashes of `count` entries from index `start` (from 0; entry n is leaf n-1)."""
    query = "SELECT body FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq"
    return [leaf_hash(body) for (body,) in db.execute(query, (start, start + count))]
