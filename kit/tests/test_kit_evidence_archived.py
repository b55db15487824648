"""Archives as evidence: forged ones are convicted, and no kill and no full disk loses an entry.

The forger makes ledger and archive anew so that they agree with themselves and with each other. The
kills are real ones, at the step that is named.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hostwright_kit.archives import FOLDER, rotate
from hostwright_kit.audit import EventFilter, all_rows
from hostwright_kit.checkpoints import Checkpoints, to_file
from hostwright_kit.exporting import Export
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.ledger_file import BLOCK_ENTRIES, GENESIS, chain
from hostwright_kit.merkle import Frontier, leaf_hash, root_of
from hostwright_kit.signed_note import Checkpoint, split_notes
from hostwright_kit.verifying import verify

from .kit_harness import edit_ledger
from .test_kit_evidence import Rows, _said, cut, deleted, edited, made_up, reordered

ENTRIES = 900
MOVED = 512


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger that is signed to its last entry."""
    found = tmp_path / "ledger.db"
    signer = host_signer(tmp_path)
    copies = [to_file(tmp_path / "elsewhere.txt")]
    checkpoints = Checkpoints(lambda: signer, copies, every_entries=ENTRIES)
    with closing(Ledger(found, checkpoints)) as ledger:
        made = (Entry(type="t", caller=f"c{n}", detail={"n": n}) for n in range(ENTRIES))
        for wait in [ledger.submit(one) for one in made]:
            wait.result(60)
    return found


@pytest.fixture
def kept(path: Path) -> list[Checkpoint]:
    verifier = host_signer(path.parent).verifier
    notes = split_notes(path.with_name("elsewhere.txt").read_text())
    return [verifier.open_checkpoint(note) for note in notes]


def bodies(path: Path) -> list[bytes]:
    return [row["body"] for row in all_rows(path, EventFilter())]


@pytest.mark.parametrize("forge", [edited, deleted, reordered, cut, made_up])
def test_an_archive_written_anew_with_its_ledger_is_convicted_by_a_checkpoint_kept_elsewhere(
    path: Path, kept: list[Checkpoint], forge: Callable[[Rows], Rows]
) -> None:
    assert rotate(path, keep_entries=ENTRIES - MOVED).last == MOVED
    assert verify(path, against=kept).ok
    _forge(path, forge)
    alone = verify(path)
    assert alone.ok, "the forger has done good work"
    found = verify(path, against=kept[:1])
    assert not found.ok
    assert "checkpoint" in str(found.problem)
    # Nor does it help to leave the archive away, unless all of it was left as it was.
    next(iter(path.with_name(FOLDER).iterdir())).unlink()
    assert not verify(path, against=kept[:1]).ok
    assert not verify(path, against=kept[:1], without_archives=True).ok


def _forge(path: Path, forge: Callable[[Rows], Rows]) -> None:
    before: Rows = [(row["caller"], row["body"]) for row in all_rows(path, EventFilter())]
    rows = [(json.loads(body).get("caller"), body) for _, body in forge(before)]
    moved = MOVED if len(rows) > MOVED else BLOCK_ENTRIES
    (archive,) = path.with_name(FOLDER).iterdir()
    archive.chmod(0o600)
    parts = ((archive, 0, rows[:moved]), (path, moved, rows[moved:]))
    leaves = [leaf_hash(body) for _, body in rows]
    tree, previous = Frontier(), GENESIS
    tree.extend(leaves)
    heads: list[bytes] = []
    for file, first, part in parts:
        edit_ledger(file, "DELETE FROM entries")
        with closing(sqlite3.connect(file)) as db, db:
            for seq, (caller, body) in enumerate(part, first + 1):
                previous = chain(previous, body)
                one, moment, kind = _said(body)
                db.execute(
                    "INSERT INTO entries (seq, id, time, type, caller, body, hash) "
                    "VALUES (?,?,?,?,?,?,?)",
                    (seq, one, moment, kind, caller, body, previous),
                )
        heads.append(previous)
    blocks = [
        (number, root_of(leaves[number * BLOCK_ENTRIES : (number + 1) * BLOCK_ENTRIES]))
        for number in range(len(leaves) // BLOCK_ENTRIES)
    ]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM checkpoints")
        db.execute("DELETE FROM blocks")
        db.executemany("INSERT INTO blocks VALUES (?, ?)", blocks)
        db.execute("UPDATE tree SET size = ?, roots = ?", (tree.size, b"".join(tree.roots)))
        db.execute("UPDATE archives SET last = ?, head = ?", (moved, heads[0]))


STOPPED = """
import sys, time
from pathlib import Path
from hostwright_kit import archives

def stop(*_):
    print("amid", flush=True)
    time.sleep(600)

path, name = Path(sys.argv[1]), sys.argv[2]
if name == "rows":
    archives.DELETED_AT_ONCE = 100
    plain, turns = archives.transaction, []
    def some(db):
        # The third names the archive in the ledger; those after it take out what was moved.
        turns.append(db)
        return stop() if len(turns) == int(sys.argv[3]) else plain(db)
    archives.transaction = some
else:
    setattr(archives, name, stop)
archives.rotate(path, keep_entries=int(sys.argv[4]))
"""


@pytest.mark.parametrize(
    ("name", "turn"),
    [("_checked", 0), ("_compare_blocks", 0), ("_sync", 0), ("rows", 3), ("rows", 6)],
)
def test_a_rotation_that_is_killed_at_any_step_loses_nothing(
    path: Path, kept: list[Checkpoint], name: str, turn: int
) -> None:
    before = bodies(path)
    words = (str(path), name, str(turn), str(ENTRIES - MOVED))
    _killed_amid(STOPPED, *words)
    assert verify(path, against=kept).ok
    assert bodies(path) == before
    with closing(Ledger(path)) as ledger:
        ledger.append(Entry(type="after"))
    rotate(path, keep_entries=ENTRIES - MOVED)
    found = verify(path, against=kept)
    assert (found.ok, found.entries) == (True, len(before) + 1), found
    assert bodies(path)[:-1] == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT min(seq) FROM entries").fetchone() == (MOVED + 1,)
    assert [one.name[0] for one in path.with_name(FOLDER).iterdir()] == ["l"], "nothing half-done"


EXPORTED = """
import sys, time
from pathlib import Path
from hostwright_kit import exporting
from hostwright_kit.audit import EventFilter

def stop(*_):
    print("amid", flush=True)
    time.sleep(600)

exporting.BUFFER_BYTES = 1_000
exporting.os.fsync = stop
exporting.Export(Path(sys.argv[1]), EventFilter(), "jsonl").into(Path(sys.argv[2]))
"""


def test_an_export_that_is_killed_leaves_what_was_there(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    _killed_amid(EXPORTED, str(path), str(target))
    assert target.read_text() == "before"
    done = Export(path, EventFilter(), "jsonl").into(target)
    assert target.read_bytes().splitlines() == bodies(path)
    assert done.entries == len(bodies(path))


FULL = """
import resource, sys
from hostwright_kit.rotating import main
# A limit on the size of files stands in for a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
sys.exit(main(*sys.argv[1:]))
"""


def test_a_rotation_that_finds_no_room_changes_nothing(path: Path, kept: list[Checkpoint]) -> None:
    before = bodies(path)
    words = (str(path), str(ENTRIES - MOVED))
    full = subprocess.run(
        [sys.executable, "-c", FULL, *words], capture_output=True, text=True, check=False
    )
    assert full.returncode == 1, full
    assert "Traceback" not in full.stderr
    assert not list(path.with_name(FOLDER).iterdir())
    assert verify(path, against=kept).ok
    assert bodies(path) == before
    assert rotate(path, keep_entries=ENTRIES - MOVED).entries == MOVED
    assert bodies(path) == before


def _killed_amid(script: str, *words: str) -> None:
    argv = [sys.executable, "-c", script, *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "amid\n"
        finally:
            process.send_signal(signal.SIGKILL)
