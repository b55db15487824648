"""Old entries in files of their own, so that the ledger's file does not grow for ever.

Rotation moves the oldest entries, whole blocks of the Merkle tree that a signed checkpoint covers,
into `ledger-archive/ledger-FIRST-LAST.db` beside the ledger. The chain goes on: table `archives`
keeps the hash that the first entry still here follows, and the tree its block roots, so whoever
verifies walks from the first archive to the newest entry as if they were one file. An archive is
written, checked entry by entry, synced and named in the ledger before anything is taken out of it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, Field

from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_file import BLOCK_ENTRIES, GENESIS, MIGRATIONS, chain
from hostwright_kit.ledger_reading import open_readonly
from hostwright_kit.merkle import leaf_hash, root_of
from hostwright_kit.store import naming_the_cause, open_store, transaction

FOLDER = "ledger-archive"
# So long nobody else can write: some milliseconds.
DELETED_AT_ONCE = 2_000
# Whole blocks.
PAGE = 64 * BLOCK_ENTRIES


class Archive(NamedTuple):
    """One file of old entries."""

    first: int
    last: int
    path: Path
    head: bytes
    """The hash of its last entry."""

    def is_here(self) -> bool:
        """Whether it can be read; owners may move archives to a colder place."""
        return self.path.exists()


class Found(NamedTuple):
    """One entry as it lies in the file."""

    seq: int
    id: str
    body: bytes


class Rotated(BaseModel, frozen=True):
    """What a rotation moved."""

    entries: int = Field(description="How many entries were moved; 0 when there was no need.")
    first: int | None = None
    last: int | None = None
    file: str | None = None


class Sources:
    """The ledger and its archives as one, at one moment."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self.db = db
        self.archives = archives_of(path, db)
        self._open: dict[Path, sqlite3.Connection] = {}

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Generator[Self]:
        """Open to read; a rotation that runs meanwhile takes nothing from under the reader."""
        with naming_the_cause(path), closing(open_readonly(path)) as db:
            db.execute("BEGIN")
            sources = cls(path, db)
            try:
                yield sources
            finally:
                for one in sources._open.values():
                    one.close()

    def newest_first(self) -> Iterator[tuple[sqlite3.Connection, int] | Archive]:
        """The ledger's file, then its archives: each with the number above which it is to be read.

        An archive that is not here comes as its description.
        """
        # What was copied into an archive may not have been taken out of the file yet.
        yield self.db, self.archived()
        for archive in reversed(self.archives):
            yield (self.opened(archive), archive.first - 1) if archive.is_here() else archive

    def oldest_first(self, above: int) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Files that have entries above a number; a `HostError` when it comes to a missing one."""
        for archive in self.archives:
            if archive.last > above:
                yield self.opened(archive), max(above, archive.first - 1)
        yield self.db, max(above, self.archived())

    def archived(self) -> int:
        """How many entries are in archives; what is left of them in the file is not to be read."""
        return self.archives[-1].last if self.archives else 0

    def opened(self, archive: Archive) -> sqlite3.Connection:
        """An archive's file, or a `HostError` that says where it should be."""
        if not archive.is_here():
            raise missing(archive)
        found = self._open.get(archive.path)
        if found is None:
            found = self._open[archive.path] = open_readonly(archive.path)
        return found

    def newest(self) -> int:
        """The number of the newest entry."""
        return self.db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]

    def find(self, entry: str) -> Found | None:
        """An entry by its id, or by its number."""
        by_number = entry.isascii() and entry.isdigit() and len(entry) < 16
        query = f"SELECT seq, id, body FROM entries WHERE {'seq' if by_number else 'id'} = ?"  # noqa: S608
        value = int(entry) if by_number else entry
        gone: Archive | None = None
        for source in self.newest_first():
            if isinstance(source, Archive):
                gone = source
                continue
            row = source[0].execute(query, (value,)).fetchone()
            if row is not None:
                return Found(row["seq"], row["id"], row["body"])
        if gone is not None:
            raise missing(gone)
        return None

    def bodies(self, start: int, end: int) -> Iterator[bytes]:
        """The bodies of the entries `start` + 1 to `end`."""
        at = start
        while at < end:
            home = next((one for one in self.archives if one.first <= at + 1 <= one.last), None)
            db, stop = (self.db, end) if home is None else (self.opened(home), min(end, home.last))
            query = "SELECT body FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq"
            count = 0
            for (body,) in db.execute(query, (at, stop)):
                count += 1
                yield body
            if count != stop - at:
                raise HostError(
                    f"Entry {at + count + 1} is missing.",
                    fix="The ledger was changed: `hostwright audit verify` names the place.",
                    code="ledger_broken",
                )
            at = stop

    def block_roots(self, first: int, end: int) -> list[bytes]:
        """The roots of full blocks of entries."""
        query = "SELECT root FROM blocks WHERE number >= ? AND number < ? ORDER BY number"
        return [root for (root,) in self.db.execute(query, (first, end))]


def archives_of(path: Path, db: sqlite3.Connection) -> list[Archive]:
    """The archives of a ledger, oldest first."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'archives'").fetchone():
        return []
    folder = path.with_name(FOLDER)
    rows = db.execute("SELECT first, last, file, head FROM archives ORDER BY first")
    # A name and no path: a ledger cannot send its reader elsewhere.
    return [
        Archive(first, last, folder / Path(file).name, head) for first, last, file, head in rows
    ]


def missing(archive: Archive) -> HostError:
    """Why entries cannot be read."""
    return HostError(
        f"Entries {archive.first} to {archive.last} are in an archive that is not here: "
        f"{archive.path}.",
        fix="Bring the file back to that place.",
        code="archive_missing",
    )


def due(path: Path, keep_entries: int) -> bool:
    """Whether it is worth while to rotate: not every block makes an archive of its own."""
    with Sources.of(path) as sources:
        here = sources.newest() - sources.archived()
    return here > keep_entries + max(keep_entries // 4, BLOCK_ENTRIES)


def rotate(path: Path, *, keep_entries: int) -> Rotated:
    """Move the oldest entries into an archive, so that about `keep_entries` stay. Blocks.

    A checkpoint must cover what is moved. Nothing is moved when less than a block would be, or
    when the entries do not fit each other: evidence of that stays where it is.
    """
    folder = path.with_name(FOLDER)
    with naming_the_cause(path), closing(open_store(path, MIGRATIONS)) as db, _alone(folder):
        before = archives_of(path, db)
        start, head = (before[-1].last, before[-1].head) if before else (0, GENESIS)
        # Of an earlier rotation that was interrupted.
        _forget(db, start)
        newest = db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]
        signed = db.execute("SELECT coalesce(max(size), 0) FROM checkpoints").fetchone()[0]
        # One entry at least must stay: the next one follows it.
        last = min(newest - max(keep_entries, 1), signed) // BLOCK_ENTRIES * BLOCK_ENTRIES
        if last <= start:
            return Rotated(entries=0)
        target = folder / f"ledger-{start + 1:012d}-{last:012d}.db"
        end = _write_archive(db, target, start, last, head)
        with transaction(db):
            row = (start + 1, last, target.name, end, utc_now())
            db.execute("INSERT INTO archives VALUES (?, ?, ?, ?, ?)", row)
        _forget(db, last)
        return Rotated(entries=last - start, first=start + 1, last=last, file=str(target))


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One rotation at a time; what an interrupted one has left half-written is gone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                "The ledger is being rotated already.", fix="Nothing is left to do.", code="busy"
            ) from None
        for left in folder.glob(".ledger-*.tmp*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _write_archive(
    db: sqlite3.Connection, target: Path, start: int, last: int, head: bytes
) -> bytes:
    """Copy entries into a file of their own, checking each; returns the hash of the last."""
    temporary = target.with_name(f".{target.name}.tmp")
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    roots: list[bytes] = []
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as into:
            # Not WAL: an archive is one file, on a disk that may be read-only.
            into.execute("PRAGMA journal_mode=DELETE")
            into.execute("PRAGMA synchronous=FULL")
            into.executescript(MIGRATIONS[0])
            for at in range(start, last, PAGE):
                query = "SELECT * FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq"
                rows = db.execute(query, (at, min(at + PAGE, last))).fetchall()
                head = _checked(rows, at, head, roots)
                marks = ", ".join("?" * len(rows[0]))
                with transaction(into):
                    into.executemany(f"INSERT INTO entries VALUES ({marks})", map(tuple, rows))  # noqa: S608
        _compare_blocks(db, start // BLOCK_ENTRIES, roots)
        temporary.chmod(stat.S_IRUSR)
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return head


def _checked(rows: Sequence[sqlite3.Row], at: int, head: bytes, roots: list[bytes]) -> bytes:
    leaves: list[bytes] = []
    for number, row in enumerate(rows, at + 1):
        if row["seq"] != number:
            raise _broken(number, "it is missing")
        head = chain(head, row["body"])
        if head != row["hash"]:
            raise _broken(number, "its hash does not follow")
        leaves.append(leaf_hash(row["body"]))
        if len(leaves) == BLOCK_ENTRIES:
            roots.append(root_of(leaves))
            leaves.clear()
    return head


def _compare_blocks(db: sqlite3.Connection, first: int, roots: Sequence[bytes]) -> None:
    query = "SELECT root FROM blocks WHERE number >= ? AND number < ? ORDER BY number"
    kept = [root for (root,) in db.execute(query, (first, first + len(roots)))]
    if kept != roots:
        at = next((n for n, pair in enumerate(zip(kept, roots)) if pair[0] != pair[1]), len(kept))  # noqa: B905
        raise _broken((first + at) * BLOCK_ENTRIES + 1, "the tree does not fit from here on")


def _broken(seq: int, why: str) -> HostError:
    return HostError(
        f"The ledger is not rotated, because it is broken at entry {seq}: {why}.",
        fix="Keep the file as evidence; `hostwright audit verify` tells more.",
        code="ledger_broken",
    )


def _forget(db: sqlite3.Connection, last: int) -> None:
    """Take out what is in an archive; little at a time, because others write meanwhile."""
    while True:
        with transaction(db):
            query = (
                "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries WHERE seq <= ? LIMIT ?)"
            )
            if db.execute(query, (last, DELETED_AT_ONCE)).rowcount < DELETED_AT_ONCE:
                return


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
