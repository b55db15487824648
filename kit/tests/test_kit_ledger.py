"""The ledger: one chain from many writers, whole after any kill, and every tampering is named."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright_kit.audit import EventFilter, list_events, list_receipts, verify
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger

from .kit_harness import edit_ledger

WRITER = """
import sys
from pathlib import Path
from hostwright_kit.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
number = 0
while len(sys.argv) < 4 or number < int(sys.argv[3]):
    receipt = ledger.append(Entry(type="t", caller=sys.argv[2], detail={"n": number}))
    # Acknowledged only now; one write, so that a kill cannot tear the line.
    sys.stdout.write(f"{receipt.seq} {receipt.hash} {number}\\n")
    sys.stdout.flush()
    number += 1
ledger.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a ledger? 100% #1.db"


@pytest.fixture
def ledger(path: Path) -> Generator[Ledger]:
    opened = Ledger(path)
    yield opened
    opened.close()


def _writer(path: Path, name: str, *count: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, *count],
        stdout=subprocess.PIPE,
        text=True,
    )


def _assert_acknowledged(path: Path, lines: list[str]) -> None:
    hashes = _hashes(path)
    for line in lines:
        seq, receipt, _ = line.split()
        assert hashes[int(seq)] == receipt


def _hashes(path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    cursor = None
    while True:
        page = list_events(path, EventFilter(), limit=500, cursor=cursor)
        found |= {event.seq: event.hash for event in page.events}
        if (cursor := page.next_cursor) is None:
            return found


def test_many_processes_that_open_and_append_at_once_make_one_chain(path: Path) -> None:
    writers = [_writer(path, f"w{number}", "60") for number in range(6)]
    lines: list[str] = []
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        lines += out.splitlines()
    assert len(lines) == 6 * 60
    assert verify(path).entries == 6 * 60
    assert verify(path).ok
    _assert_acknowledged(path, lines)


def test_writers_killed_at_any_moment_leave_a_valid_chain_with_all_they_acknowledged(
    path: Path,
) -> None:
    lines: list[str] = []
    for turn, count in enumerate((1, 40, 7, 23, 2, 15)):
        writers = [_writer(path, f"{turn}-{number}") for number in range(2)]
        for writer in writers:
            assert writer.stdout
            lines += [writer.stdout.readline() for _ in range(count)]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            # What it wrote before it died, but for a last line that may be torn.
            rest = writer.communicate()[0].splitlines(keepends=True)
            lines += [line for line in rest if line.endswith("\n")]
        found = verify(path)
        assert found.ok, found
        _assert_acknowledged(path, lines)
    assert len(lines) > 12


def test_threads_and_tasks_share_one_writer(ledger: Ledger, path: Path) -> None:
    async def many() -> list[int]:
        waits = [ledger.append_async(Entry(type="t", detail={"n": n})) for n in range(300)]
        return [receipt.seq for receipt in await asyncio.gather(*waits)]

    assert sorted(asyncio.run(many())) == list(range(1, 301))
    assert verify(path).ok


async def test_a_cancelled_waiter_takes_nothing_back_and_stops_nobody(
    ledger: Ledger, path: Path
) -> None:
    for number in range(50):
        ledger.append_async(Entry(type="cancelled", detail={"n": number})).cancel()
    receipt = await asyncio.wait_for(ledger.append_async(Entry(type="after")), 10)
    assert receipt.seq == 51
    assert verify(path).entries == 51


async def test_an_entry_that_cannot_be_encoded_fails_alone(ledger: Ledger, path: Path) -> None:
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    bad = [{"x": object()}, {"x": deep}, {"x": b"bytes"}]
    waits = [
        ledger.append_async(Entry(type="t", detail=detail))
        for detail in [{}, bad[0], {}, bad[1], {}, bad[2], {}]
    ]
    waits.append(ledger.append_async(Entry(type="t", caller="\ud800")))
    done = await asyncio.gather(*waits, return_exceptions=True)
    failed = [isinstance(item, HostError) for item in done]
    assert failed == [False, True, False, True, False, True, False, True]
    assert all(item.code == "ledger_unavailable" for item in done if isinstance(item, HostError))
    assert verify(path) == verify(path).model_copy(update={"ok": True, "entries": 4})


def test_a_closed_ledger_refuses_and_nobody_waits_for_ever(path: Path) -> None:
    ledger = Ledger(path)
    ledger.append(Entry(type="t"))
    ledger.close()
    ledger.close()
    with pytest.raises(HostError, match="closed") as caught:
        ledger.append(Entry(type="t"))
    assert caught.value.code == "ledger_unavailable"
    ledger.note(Entry(type="read"))
    assert "1 read(s)" in (ledger.health() or "")


@pytest.mark.parametrize(
    "value",
    [
        *(2**53, -(2**80), 1e20, 1e21, 5e-324, 1.0, float("nan"), None, [], {}),
        *("\ud800", "é\u0000\u2028", {"\ud800": 1}),
        *({"$int": "5"}, {"$object": {"$int": "1"}}),
    ],
)
def test_whatever_json_can_carry_verifies(ledger: Ledger, path: Path, value: Any) -> None:
    ledger.append(Entry(type="t", detail={"value": value}))
    ledger.append(Entry(type="t"))
    found = verify(path)
    assert found.ok, found


COPY = "UPDATE entries SET body = (SELECT body FROM entries WHERE seq = 2) WHERE seq = 5"
SHIFT = (
    "UPDATE entries SET seq = -seq WHERE seq >= 4",
    "UPDATE entries SET seq = 1 - seq WHERE seq < 0",
    "INSERT INTO entries SELECT 4, 'new', time, type, caller, server, tool, outcome, intent_id, "
    "body, hash FROM entries WHERE seq = 3",
)


@pytest.mark.parametrize(
    ("what", "statements", "first_broken"),
    [
        (
            "edit body",
            ["UPDATE entries SET body = CAST(replace(body, 'c4', 'cX') AS BLOB) WHERE seq = 4"],
            4,
        ),
        ("edit first body", ["UPDATE entries SET body = x'7b7d' WHERE seq = 1"], 1),
        ("edit last body", ["UPDATE entries SET body = x'7b7d' WHERE seq = 9"], 9),
        ("copy a body", [COPY], 5),
        ("edit caller", ["UPDATE entries SET caller = 'me' WHERE seq = 4"], 4),
        ("edit time", ["UPDATE entries SET time = '2000' WHERE seq = 4"], 4),
        ("edit type", ["UPDATE entries SET type = 'call.read' WHERE seq = 4"], 4),
        ("edit tool", ["UPDATE entries SET tool = NULL WHERE seq = 4"], 4),
        ("edit outcome", ["UPDATE entries SET outcome = 'ok' WHERE seq = 4"], 4),
        ("edit id", ["UPDATE entries SET id = 'x' WHERE seq = 4"], 4),
        ("edit hash", ["UPDATE entries SET hash = zeroblob(32) WHERE seq = 4"], 4),
        ("delete first", ["DELETE FROM entries WHERE seq = 1"], 1),
        ("delete", ["DELETE FROM entries WHERE seq = 4"], 4),
        ("cut the middle", ["DELETE FROM entries WHERE seq BETWEEN 4 AND 6"], 4),
        (
            "delete and close the gap",
            [
                "DELETE FROM entries WHERE seq = 4",
                "UPDATE entries SET seq = -seq WHERE seq > 4",
                "UPDATE entries SET seq = -seq - 1 WHERE seq < 0",
            ],
            4,
        ),
        (
            "swap",
            [
                "UPDATE entries SET seq = -1 WHERE seq = 3",
                "UPDATE entries SET seq = 3 WHERE seq = 6",
                "UPDATE entries SET seq = 6 WHERE seq = -1",
            ],
            3,
        ),
        ("insert", SHIFT, 4),
        ("insert before the first", [SHIFT[2].replace("SELECT 4", "SELECT 0")], 1),
        ("append", [SHIFT[2].replace("SELECT 4", "SELECT 10")], 10),
        (
            "change the types",
            [
                "CREATE TABLE other AS SELECT * FROM entries",
                "DROP TABLE entries",
                "ALTER TABLE other RENAME TO entries",
                "UPDATE entries SET body = 'text' WHERE seq = 4",
            ],
            4,
        ),
    ],
)
def test_tampering_is_found_and_the_first_broken_entry_named(
    path: Path, ledger: Ledger, what: str, statements: list[str], first_broken: int
) -> None:
    for number in range(1, 10):
        ledger.append(Entry(type="t", caller=f"c{number}", tool="tool"))
    ledger.close()
    before = _hashes(path)
    assert verify(path).ok
    edit_ledger(path, *statements)
    found = verify(path)
    assert not found.ok, what
    assert found.first_broken_seq == first_broken, found
    assert found.entries == first_broken - 1
    assert found.problem
    assert found.head == (before[first_broken - 1] if first_broken > 1 else "0" * 64)


def test_a_chain_that_was_made_anew_is_told_by_its_head_alone(path: Path, ledger: Ledger) -> None:
    """A bare chain proves order, not origin: whoever can write the file can write all of it."""
    ledger.append(Entry(type="t", caller="a"))
    ledger.close()
    kept = verify(path).head
    other = path.with_name("other.db")
    forged = Ledger(other)
    forged.append(Entry(type="t", caller="b"))
    forged.close()
    assert verify(other).ok
    assert verify(other).head != kept


def test_a_cut_tail_shows_and_nothing_more_is_written(path: Path, ledger: Ledger) -> None:
    for _ in range(5):
        ledger.append(Entry(type="t"))
    edit_ledger(path, "DELETE FROM entries WHERE seq > 3")
    found = verify(path)
    assert not found.ok
    assert found.first_broken_seq == 4
    assert found.problem == "2 entries are missing at the end"
    # Appending would bury where it was cut.
    with pytest.raises(HostError, match="somebody cut it"):
        ledger.append(Entry(type="t"))
    assert verify(path).entries == 3


def test_our_own_code_cannot_rewrite_history(path: Path, ledger: Ledger) -> None:
    ledger.append(Entry(type="t"))
    ledger.close()
    script = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1])\n"
        "for sql in ('UPDATE entries SET type = 1', 'DELETE FROM entries'):\n"
        "    try: db.execute(sql)\n"
        "    except sqlite3.IntegrityError as e: assert 'append-only' in str(e)\n"
        "    else: sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 0


def test_damaged_pages_are_reported_by_the_walk_and_refused_by_the_writer(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(400):
        ledger.append(Entry(type="t", detail={"text": "x" * 200, "n": number}))
    ledger.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8 * 4096] = os.urandom(8 * 4096)
    path.write_bytes(content)
    found = verify(path)
    assert not found.ok
    assert found.first_broken_seq == found.entries + 1


def test_the_empty_and_the_missing_ledger_are_told_apart(path: Path) -> None:
    with pytest.raises(HostError) as caught:
        verify(path)
    assert caught.value.code == "not_found"
    assert not path.exists(), "reading must not create it"
    path.touch()
    with pytest.raises(HostError) as caught:
        verify(path)
    assert caught.value.code == "not_found", "a server is making it in this moment"
    Ledger(path).close()
    assert verify(path).entries == 0


FIELD = st.none() | st.sampled_from(["a", "b"])


@settings(max_examples=25, deadline=None)
@given(
    entries=st.lists(
        st.builds(
            Entry,
            type=st.sampled_from(["call.read", "call.intent", "approval.granted"]),
            caller=FIELD,
            tool=FIELD,
            outcome=FIELD,
        ),
        max_size=25,
    ),
    late=st.integers(0, 3),
    limit=st.integers(1, 7),
    kind=st.sampled_from([None, "call.*", "call.read", "call", "c.*"]),
    caller=FIELD,
    outcome=FIELD,
)
def test_pages_give_every_matching_event_once_newest_first_while_others_append(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Entry],
    late: int,
    limit: int,
    kind: str | None,
    caller: str | None,
    outcome: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    path = folder / "ledger.db"
    ledger = Ledger(path)
    for entry in entries:
        ledger.append(entry)
    wanted = EventFilter(type=kind, caller=caller, outcome=outcome)
    seen: list[int] = []
    cursor = None
    while True:
        page = list_events(path, wanted, limit=limit, cursor=cursor)
        assert len(page.events) <= limit
        seen += [event.seq for event in page.events]
        for _ in range(late):
            ledger.append(Entry(type="call.read", caller="a", outcome="a"))
        if (cursor := page.next_cursor) is None:
            break
    ledger.close()
    shutil.rmtree(folder)

    def matches(entry: Entry) -> bool:
        prefix = kind is not None and kind.endswith(".*") and entry.type.startswith(kind[:-1])
        return (
            (kind is None or entry.type == kind or prefix)
            and (caller is None or entry.caller == caller)
            and (outcome is None or entry.outcome == outcome)
        )

    expected = [number for number, entry in enumerate(entries, 1) if matches(entry)]
    assert seen == expected[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1e3", "9" * 30, "²", "1; DROP TABLE entries"])
def test_a_cursor_that_is_not_ours_is_refused(path: Path, ledger: Ledger, cursor: str) -> None:
    ledger.append(Entry(type="t"))
    with pytest.raises(HostError) as caught:
        list_events(path, EventFilter(), cursor=cursor)
    assert caught.value.code == "bad_cursor"


def test_times_are_compared_as_times_whatever_their_form(path: Path, ledger: Ledger) -> None:
    receipt = ledger.append(Entry(type="t"))
    zulu = receipt.time
    offset = zulu.replace("Z", "+00:00")
    for since in (zulu, offset, zulu[:10], "2000-01-01", "1999-12-31T23:00:00-05:00"):
        assert len(list_events(path, EventFilter(since=since)).events) == 1
        assert list_events(path, EventFilter(until=since)).events == []
    with pytest.raises(HostError) as caught:
        list_events(path, EventFilter(since="yesterday"))
    assert caught.value.code == "bad_time"


def test_receipts_join_intent_and_outcome_and_page_by_outcome(path: Path, ledger: Ledger) -> None:
    for number in range(7):
        intent = ledger.append(
            Entry(type="call.intent", tool="t", detail={"arguments": {"n": number}})
        )
        if number % 3:
            ledger.append(
                Entry(
                    type="call.outcome",
                    tool="t",
                    outcome="ok" if number % 2 else "error",
                    intent_id=intent.id,
                    detail={"duration_ms": 1.5},
                )
            )
    expected = {"unrecorded": [6, 3, 0], "ok": [5, 1], "error": [4, 2]}
    for outcome, numbers in expected.items():
        got: list[int] = []
        cursor = None
        while True:
            page = list_receipts(path, EventFilter(outcome=outcome), limit=2, cursor=cursor)
            got += [receipt.arguments["n"] for receipt in page.receipts]
            assert all(receipt.outcome == outcome for receipt in page.receipts)
            if (cursor := page.next_cursor) is None:
                break
        assert got == numbers


def test_who_flushes_finds_what_nobody_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    try:
        for number in range(50):
            ledger.note(Entry(type="call.read", tool=f"t{number}"))
            ledger.flush()
            (newest,) = list_events(path, EventFilter(), limit=1).events
            assert newest.tool == f"t{number}"
    finally:
        ledger.close()
    ledger.flush()
