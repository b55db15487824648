"""A ledger that somebody with the file in hand has made anew is convicted by an older checkpoint.

The forger here is a good one: chain, columns and tree are computed afresh after every change, so
that the file agrees with itself. Only what was signed before, and is kept elsewhere, does not.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from hostwright_kit.audit import EventFilter, list_events
from hostwright_kit.checkpoints import Checkpoints, to_file
from hostwright_kit.errors import HostError
from hostwright_kit.host_key import KEY_FILE, PUBLIC_FILE, host_signer
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.ledger_file import CHECKPOINT_TYPE, GENESIS, chain
from hostwright_kit.merkle import Frontier, leaf_hash
from hostwright_kit.signed_note import Checkpoint, Signer, Verifier, split_notes
from hostwright_kit.verifying import verify
from hostwright_kit.walking import verified

from .kit_harness import edit_ledger

ENTRIES = 600
SIGNED = 500
Rows = list[tuple[str, bytes]]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return host_signer(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def kept(path: Path, tmp_path: Path, signer: Signer) -> Generator[list[Checkpoint]]:
    """A ledger of 600 entries, and the checkpoints that its owner keeps elsewhere."""
    copies = tmp_path / "elsewhere.txt"
    checkpoints = Checkpoints(lambda: signer, [to_file(copies)], every_entries=SIGNED)
    ledger = Ledger(path, checkpoints)
    for first in (0, SIGNED):
        waits = [
            ledger.submit(Entry(type="t", caller=f"c{number}", detail={"n": number}))
            for number in range(first, min(first + SIGNED, ENTRIES))
        ]
        for wait in waits:
            wait.result()
    ledger.close()
    yield [signer.verifier.open_checkpoint(note) for note in split_notes(copies.read_text())]


def edited(rows: Rows) -> Rows:
    return [(c, b.replace(b'"n":7}', b'"n":8}')) for c, b in rows]


def deleted(rows: Rows) -> Rows:
    return [
        (caller, body.replace(b'"seq":%d,' % old, b'"seq":%d,' % new))
        for new, (old, (caller, body)) in enumerate(
            [(number, row) for number, row in enumerate(rows, 1) if number != 9], 1
        )
    ]


def reordered(rows: Rows) -> Rows:
    four, five = rows[3][1], rows[4][1]
    swapped = [
        *rows[:3],
        (rows[4][0], five.replace(b'"seq":5,', b'"seq":4,')),
        (rows[3][0], four.replace(b'"seq":4,', b'"seq":5,')),
    ]
    return swapped + rows[5:]


def cut(rows: Rows) -> Rows:
    return rows[:400]


def made_up(rows: Rows) -> Rows:
    return [("nobody", body.replace(b'"caller":"c', b'"caller":"x')) for _, body in rows]


@pytest.mark.parametrize("forge", [edited, deleted, reordered, cut, made_up])
def test_a_ledger_written_anew_is_convicted_by_a_checkpoint_kept_elsewhere(
    path: Path, kept: list[Checkpoint], signer: Signer, forge: Callable[[Rows], Rows]
) -> None:
    assert verify(path, verifier=signer.verifier, against=kept).ok
    _forge(path, forge)
    alone = verify(path)
    assert alone.ok or forge is made_up, "the forger has done good work"
    found = verify(path, against=kept[:1])
    assert not found.ok
    assert found.problem
    if forge is not made_up:
        assert "checkpoint" in found.problem


def test_a_checkpoint_in_the_file_that_is_not_genuine_is_found(
    path: Path, kept: list[Checkpoint], signer: Signer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = host_signer(tmp_path / "other")
    forged = other.sign(kept[0].text())
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE checkpoints SET note = ?", (forged,))
        db.commit()
    assert verify(path).ok
    found = verify(path, verifier=signer.verifier)
    assert not found.ok
    assert "not genuine" in str(found.problem)


def test_checkpoints_come_by_number_by_time_and_at_the_end(path: Path, signer: Signer) -> None:
    taken: list[str] = []
    ledger = Ledger(
        path, Checkpoints(lambda: signer, [taken.append], every_entries=5, every_seconds=0.2)
    )

    def sizes() -> list[int]:
        return [signer.verifier.open_checkpoint(note).size for note in taken]

    for wait in [ledger.submit(Entry(type="t")) for _ in range(5)]:
        wait.result()
    _until(lambda: sizes() == [5])
    ledger.append(Entry(type="t"))
    # Each is told of by an entry of its own, which is no reason for a further one.
    _until(lambda: sizes() == [5, 7])
    ledger.append(Entry(type="t"))
    ledger.close()
    assert sizes() == [5, 7, 9]
    found = verify(path, verifier=signer.verifier)
    assert (found.ok, found.checkpoints, found.entries) == (True, 3, 9)
    told = list_events(path, EventFilter(type=CHECKPOINT_TYPE)).events
    # The one at the end is not: a command that writes one entry would write two.
    opened = [signer.verifier.open_checkpoint(note) for note in taken[:-1]]
    assert [one.detail["root"] for one in told[::-1]] == [one.root.hex() for one in opened]
    assert [one.detail["size"] for one in told[::-1]] == [5, 7]


def test_a_copy_that_fails_stops_nothing(
    path: Path, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = to_file(Path("/dev/full"))
    ledger = Ledger(path, Checkpoints(lambda: signer, [nowhere], every_entries=1))
    ledger.append(Entry(type="t"))
    ledger.close()
    assert verify(path).checkpoints == 1
    assert "could not be copied" in caplog.text


def test_an_older_ledger_gets_its_tree_when_it_is_next_written(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(300):
        ledger.submit(Entry(type="t", detail={"n": number}))
    ledger.close()
    expected = verify(path).root
    edit_ledger(path, "UPDATE tree SET size = 0, roots = x''", "DELETE FROM blocks")
    assert verify(path).ok
    ledger = Ledger(path)
    ledger.append(Entry(type="t"))
    ledger.close()
    found = verify(path)
    assert found.ok
    assert found.root != expected
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT size FROM tree").fetchone() == (301,)
        assert db.execute("SELECT count(*) FROM blocks").fetchone() == (1,)


def test_the_host_key_is_made_once_private_and_readable_again(tmp_path: Path) -> None:
    first, second = host_signer(tmp_path), host_signer(tmp_path)
    assert first.verifier.line() == second.verifier.line()
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    public = Verifier.parse((tmp_path / PUBLIC_FILE).read_text())
    assert public.open(first.sign("text\n")) == "text\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY_FILE, PUBLIC_FILE]


@pytest.mark.parametrize("content", ["", "PRIVATE+KEY+x+00000000+AQ==", "\x00\xff", "hello"])
def test_a_damaged_host_key_is_told_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY_FILE).write_text(content)
    with pytest.raises(HostError) as caught:
        host_signer(tmp_path)
    assert caught.value.code == "host_key_damaged"
    assert content not in caught.value.message or not content
    assert (tmp_path / KEY_FILE).read_text() == content


def _forge(path: Path, forge: Callable[[Rows], Rows]) -> None:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT caller, body, id, time, type FROM entries ORDER BY seq")
        old = found.fetchall()
        rest = {bytes(body): (one, moment, kind) for _, body, one, moment, kind in old}
        db.executescript("DROP TRIGGER entries_no_update; DROP TRIGGER entries_no_delete;")
        db.execute("DELETE FROM entries")
        db.execute("DELETE FROM checkpoints")
        tree, previous = Frontier(), GENESIS
        for seq, (caller, body) in enumerate(forge([(row[0], row[1]) for row in old]), 1):
            previous = chain(previous, body)
            tree.add(leaf_hash(body))
            one, moment, kind = rest.get(body) or _said(body)
            db.execute(
                "INSERT INTO entries (seq, id, time, type, caller, body, hash) "
                "VALUES (?,?,?,?,?,?,?)",
                (seq, one, moment, kind, caller, body, previous),
            )
        db.execute("UPDATE tree SET size = ?, roots = ?", (tree.size, b"".join(tree.roots)))
        db.commit()


def _said(body: bytes) -> tuple[str, str, str]:
    fields = json.loads(body)
    return fields["id"], fields["time"], fields["type"]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_walk_that_nobody_waits_for_ends_with_all_that_it_began(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        for wait in [ledger.submit(Entry(type="t", detail={"n": n})) for n in range(500)]:
            wait.result(60)
    whole = await verified(path, "", without_archives=False)
    assert (whole.ok, whole.entries) == (True, 500)
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    walking = asyncio.create_task(verified(path, "", without_archives=False))
    while not {one.pid for one in psutil.Process().children(recursive=True)} - before:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    walking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await walking
    assert {one.pid for one in psutil.Process().children(recursive=True)} <= before
