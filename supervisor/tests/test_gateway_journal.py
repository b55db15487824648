"""The journal of one client: what is written is read again, whenever the writer stops."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.journal import REST_AT, Head, Journal, Left


def asked(number: int | str, **params: Any) -> bytes:
    body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(body).encode()


def note(journal: Journal, line: bytes) -> None:
    journal.asked(codec.parse(line), line)


def left(journal: Journal) -> Left:
    """What another daemon finds while this one is still at it."""
    found = Journal.open(journal.path.parent, journal.name)
    assert found is not None
    found[0].leave()
    return found[1]


def test_what_is_known_of_the_client_is_found_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, Head("demo", 7))
    assert left(journal) == Left(Head("demo", 7), [], b"", half_out=False)
    for count in range(5):
        said = Raw(b'{"a":%d}' % count)
        head = Head("demo", 7, initialize=said, subscribed=("x://1",) * count)
        journal.save(head)
        assert left(journal).head == head
    journal.half_out(True)
    assert left(journal).half_out
    assert oct(journal.path.stat().st_mode & 0o777) == "0o600"
    journal.remove()
    assert Journal.open(tmp_path, journal.name) is None
    assert list(tmp_path.iterdir()) == []


def test_a_long_request_is_known_by_its_name(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, Head("*", 0))
    note(journal, asked(1, name="file_write", arguments={"content": "x" * 9_000}, _meta={"a": 1}))
    note(journal, asked("y" * 5_000, name="x"))
    [one] = left(journal).asked
    assert not one.whole
    assert json.loads(one.line) == json.loads(asked(1, name="file_write", _meta={"a": 1}))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "0" * 32])
def test_a_name_that_is_none_of_ours_is_not_opened(tmp_path: Path, name: str) -> None:
    assert Journal.open(tmp_path, name) is None


@pytest.mark.parametrize("size", [0, 5, 12, 64, 70, 80])
def test_a_damaged_file_is_no_journal(tmp_path: Path, size: int) -> None:
    journal = Journal.create(tmp_path, Head("demo", 0))
    journal.read(b"half of a li")
    os.truncate(journal.path, size)
    assert Journal.open(tmp_path, journal.name) is None
    assert not journal.path.exists()


def test_a_full_disk_costs_the_resumption_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path, Head("demo", 0))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    note(journal, asked(1))
    assert not journal.usable
    journal.answered([1])
    journal.read(b"more")
    journal.rest(b"")
    journal.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_long_line_gives_back_what_it_took(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, Head("demo", 0))
    for _ in range(3):
        for _ in range(40):
            journal.read(b"x" * 100_000)
        assert left(journal).rest == b"x" * 4_000_000
        for rest in (b"a", b"b"):
            journal.rest(rest)
            assert left(journal).rest == rest
        journal.rest(b"")
    assert journal.path.stat().st_size <= REST_AT[1] + 2


def test_what_is_answered_is_not_kept(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, Head("demo", 0))
    note(journal, asked(1, arguments={"password": "hunter2"}))
    journal.read(b'{"password":"hunter3"}')
    assert b"hunter2" in journal.path.read_bytes()
    journal.answered([1])
    journal.rest(b"")
    assert b"hunter" not in journal.path.read_bytes()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("asked"), st.integers(0, 8), st.integers(0, 6_000)),
        st.tuples(st.just("answered"), st.integers(0, 8)),
        st.tuples(st.just("read"), st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("rest"), st.binary(max_size=50)),
        st.tuples(st.just("reopened")),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_at_every_moment_the_file_says_what_was_said(steps: list[tuple[Any, ...]]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        journal = Journal.create(folder, Head("demo", 0))
        waiting: dict[int, int] = {}
        rest = b""
        for step, *what in steps:
            if step == "asked":
                number, size = what
                note(journal, asked(number, name="t", arguments={"x": "x" * size}))
                waiting[number] = size
            elif step == "answered":
                journal.answered(what)
                waiting.pop(what[0], None)
            elif step == "read":
                journal.read(what[0])
                rest += what[0]
            elif step == "rest":
                journal.rest(what[0])
                rest = what[0]
            else:
                journal.leave()
                found = Journal.open(folder, journal.name)
                assert found is not None
                journal = found[0]
            now = left(journal)
            numbers = {json.loads(one.line)["id"]: one.whole for one in now.asked}
            assert numbers.keys() == waiting.keys()
            assert all(
                numbers[n] == (len(asked(n, name="t", arguments={"x": "x" * s})) <= 4_083)
                for n, s in waiting.items()
            )
            assert now.rest == rest
        journal.remove()
    finally:
        shutil.rmtree(folder)
