"""Old entries in archives of their own: the chain, the tree and the proofs go on over them."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hostwright_kit.archives import FOLDER, rotate
from hostwright_kit.checkpoints import Checkpoints, to_file
from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.merkle import consistent, included, leaf_hash
from hostwright_kit.proving import prove, prove_consistency
from hostwright_kit.signed_note import Signer, split_notes
from hostwright_kit.verifying import verify

ENTRIES = 1_500
KEPT = 600
MOVED = 768  # whole blocks of 256


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return host_signer(tmp_path)


def append(path: Path, signer: Signer, count: int) -> None:
    copies = [to_file(path.with_name("elsewhere.txt"))]
    checkpoints = Checkpoints(lambda: signer, copies, every_entries=500)
    with closing(Ledger(path, checkpoints)) as ledger:
        waits = [ledger.submit(Entry(type="t", detail={"n": n})) for n in range(count)]
        for wait in waits:
            wait.result(60)


@pytest.fixture
def path(tmp_path: Path, signer: Signer) -> Path:
    """A ledger of 1,500 entries, signed to the last."""
    found = tmp_path / "ledger.db"
    append(found, signer, ENTRIES)
    return found


def notes(path: Path) -> list[str]:
    return split_notes(path.with_name("elsewhere.txt").read_text())


def newest(path: Path) -> int:
    """How many entries were ever made: ours, and those that tell of checkpoints."""
    return numbers(path)[-1]


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [seq for (seq,) in db.execute("SELECT seq FROM entries ORDER BY seq")]


def archive_of(path: Path) -> Path:
    (found,) = path.with_name(FOLDER).iterdir()
    return found


def test_a_rotated_ledger_verifies_as_one_and_goes_on(path: Path, signer: Signer) -> None:
    before = verify(path, verifier=signer.verifier)
    done = rotate(path, keep_entries=KEPT)
    assert (done.first, done.last, done.entries) == (1, MOVED, MOVED)
    assert numbers(path) == list(range(MOVED + 1, before.entries + 1))
    assert numbers(archive_of(path)) == list(range(1, MOVED + 1))
    after = verify(path, verifier=signer.verifier)
    assert (after.ok, after.entries, after.head, after.root) == (
        True,
        newest(path),
        before.head,
        before.root,
    )
    append(path, signer, 700)
    assert rotate(path, keep_entries=KEPT).first == MOVED + 1
    again = verify(
        path,
        verifier=signer.verifier,
        against=[signer.verifier.open_checkpoint(note) for note in notes(path)],
    )
    assert (again.ok, again.entries) == (True, newest(path)), again
    assert again.entries >= ENTRIES + 700


def test_nothing_is_moved_that_no_checkpoint_covers(tmp_path: Path) -> None:
    path = tmp_path / "unsigned.db"
    with closing(Ledger(path)) as ledger:
        for wait in [ledger.submit(Entry(type="t")) for _ in range(600)]:
            wait.result(60)
    assert rotate(path, keep_entries=10).entries == 0
    assert len(numbers(path)) == 600


def test_a_broken_ledger_is_not_rotated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TRIGGER entries_no_update")
        db.execute("UPDATE entries SET body = CAST(body || x'20' AS BLOB) WHERE seq = 300")
    with pytest.raises(HostError, match="broken at entry 300"):
        rotate(path, keep_entries=KEPT)
    assert len(numbers(path)) >= ENTRIES
    assert numbers(path)[0] == 1
    assert not list(path.with_name(FOLDER).iterdir())


def test_an_archive_that_is_changed_or_gone_is_found(path: Path, signer: Signer) -> None:
    rotate(path, keep_entries=KEPT)
    archive = archive_of(path)
    whole = archive.read_bytes()
    archive.chmod(0o600)
    with closing(sqlite3.connect(archive)) as db, db:
        db.execute("DROP TRIGGER entries_no_delete")
        db.execute("DELETE FROM entries WHERE seq = 700")
    changed = verify(path, verifier=signer.verifier)
    assert (changed.ok, changed.first_broken_seq) == (False, 700)
    archive.unlink()
    gone = verify(path, verifier=signer.verifier)
    assert (gone.ok, gone.first_broken_seq) == (False, 1)
    assert archive.name in str(gone.problem)
    known = verify(path, verifier=signer.verifier, without_archives=True)
    assert (known.ok, known.not_here) == (True, MOVED)
    archive.write_bytes(whole)
    assert verify(path, verifier=signer.verifier).ok


def hashes(proof: str, first_line: int) -> list[bytes]:
    head = proof.partition("\n\n")[0].splitlines()
    return [base64.b64decode(line) for line in head[first_line:]]


@pytest.mark.parametrize("rotated", [False, True])
def test_every_entry_is_proven_under_a_checkpoint(
    path: Path, signer: Signer, rotated: bool
) -> None:
    if rotated:
        rotate(path, keep_entries=KEPT)
    for seq in (1, 255, 256, 257, MOVED, MOVED + 1, ENTRIES):
        found = prove(path, str(seq), signer.verifier)
        assert prove(path, found.id, signer.verifier) == found
        note = found.proof.partition("\n\n")[2]
        checkpoint = signer.verifier.open_checkpoint(note)
        proof = hashes(found.proof, 3)
        leaf = leaf_hash(found.entry.encode())
        assert included(leaf, seq - 1, checkpoint.size, proof, checkpoint.root)
        other = leaf_hash(found.entry.replace('"n":', '"m":').encode())
        assert not included(other, seq - 1, checkpoint.size, proof, checkpoint.root)
    with pytest.raises(HostError, match="no entry"):
        prove(path, "nothing", signer.verifier)


def test_a_newer_ledger_is_proven_to_extend_an_older_one(path: Path, signer: Signer) -> None:
    old_note = notes(path)[0]
    old = signer.verifier.open_checkpoint(old_note)
    rotate(path, keep_entries=KEPT)
    found = prove_consistency(path, old_note, signer.verifier)
    new = signer.verifier.open_checkpoint(notes(path)[-1])
    assert (found.old_size, found.new_size) == (old.size, new.size)
    assert old.size < new.size
    assert consistent(old.size, new.size, old.root, new.root, hashes(found.proof, 1))
    forged = signer.sign(old.model_copy(update={"root": bytes(32)}).text())
    with pytest.raises(HostError, match="does not begin"):
        prove_consistency(path, forged, signer.verifier)
