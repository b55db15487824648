"""stderr logs: complete, bounded, redacted, rotated, followed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright.keeper import logs
from hostwright.keeper.logs import ServerLog, follow, tail
from hostwright.manifest_rules import LogRules
from hostwright_kit.redact import redact_text

PEM = (
    "-----BEGIN PRIVATE KEY-----\n" + ("A" * 64 + "\n") * 3 + "short==\n-----END PRIVATE KEY-----\n"
)


async def written(log: ServerLog, data: bytes, *, pieces: int = 65_536) -> None:
    """Write `data` through a real pipe."""
    read, write = os.pipe()
    drain = log.drain(read)
    for start in range(0, len(data), pieces):
        await asyncio.to_thread(os.write, write, data[start : start + pieces])
    os.close(write)
    await drain.finish(30)


def texts(path: Path, lines: int = 1_000) -> list[str]:
    return [line.partition(" ")[2] for line in tail(path, lines)]


async def test_lines_are_timed_private_and_safe_to_show(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "x.log", redact_text)
    log.mask(frozenset({"correct horse"}))
    await written(
        log,
        b"plain\n\x1b[31mred\x1b[0m and \x1b]0;title\x07\x08\x9b\r\n"
        b"Authorization: Bearer abcdefghijkl\nthe correct horse\nbad \xff utf8\nno newline",
    )
    log.note("from the keeper")
    log.flush()
    assert texts(log.path) == [
        "plain",
        "red and \\x08\\x9b",
        "Authorization: Bearer [redacted]",
        "the [redacted]",
        "bad \\xff utf8",
        "no newline",
        "-- from the keeper",
    ]
    assert log.last[-1] == "no newline"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z plain$", tail(log.path, 99)[0])


async def test_a_private_key_is_left_out_however_it_is_cut(tmp_path: Path) -> None:
    for number, pieces in enumerate((1, 7, 64, 65_536)):
        log = ServerLog(tmp_path / f"{number}.log", redact_text)
        await written(log, f"before\n{PEM}after\n".encode(), pieces=pieces)
        kept = texts(log.path)
        assert kept[0] == "before"
        assert kept[-1] == "after"
        assert "AAAA" not in "".join(kept)
        assert "short==" not in kept


async def test_an_overlong_line_is_cut_once_and_the_next_one_is_whole(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "x.log", redact_text)
    secret = "ghp_" + "a" * 36
    long = "x" * (logs.MAX_LINE_CHARS - 10) + " " + secret + "y" * 500_000
    await written(log, f"{long}\nnext\n".encode())
    first, second = texts(log.path)
    assert second == "next"
    assert len(first) == logs.MAX_LINE_CHARS + 1
    assert "ghp_" not in first


async def test_a_flood_grows_neither_memory_nor_disk_and_keeps_the_last_words(
    tmp_path: Path,
) -> None:
    log = ServerLog(tmp_path / "x.log", redact_text)
    source = (
        "import os\nfor _ in range(3000): os.write(2, b'x' * 63 + b'\\n' + b'flood\\n' * 10000)\n"
        "os.write(2, b'last words\\n')"
    )
    read, write = os.pipe()
    drain = log.drain(read)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stderr=write)
    os.close(write)
    turns = 0
    while process.returncode is None:
        await asyncio.sleep(0.01)
        turns += 1
        await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=0.01)
    await drain.finish(30)
    assert log.last[-1] == "last words"
    assert turns > 1  # the loop went on beside it
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 30_000  # of 180 MB
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept <= (LogRules().keep + 1) * (LogRules().file_mb * 2**20 + logs.MAX_LINE_BYTES)
    assert any("bytes of stderr were not kept" in line for line in tail(log.path, 10_000))


async def test_a_dropped_private_key_does_not_surface_after_the_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LINES_PER_SECOND", 5)
    log = ServerLog(tmp_path / "x.log", redact_text)
    body = ("A" * 64 + "\n") * 1_000
    await written(log, b"line\n" * 10_000 + body.encode() + b"after\n", pieces=4_096)
    kept = texts(log.path)
    assert kept[-1] == "after"
    assert "A" * 40 not in "".join(kept)


async def test_a_burst_is_shown_soon_even_when_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LINES_PER_SECOND", 5)
    log = ServerLog(tmp_path / "x.log", redact_text)
    read, write = os.pipe()
    drain = log.drain(read)
    for _ in range(20):
        os.write(write, b"line\n" * 100)
        await asyncio.sleep(0.01)
    os.write(write, b"the end\n")
    async with asyncio.timeout(20):
        while "the end" not in log.last:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    os.close(write)
    await drain.finish(5)


def test_one_line_too_many_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINES_PER_SECOND", 5)
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: 7.0))
    log = ServerLog(tmp_path / "x.log", redact_text)
    lines = logs._Lines(log, None)
    lines.feed(b"line\n" * 10)
    lines.feed(b"the end\nhalf a li")
    lines.feed(b"ne\n")
    lines.end()
    assert log.last[-2:] == ("the end", "half a line")


async def test_who_else_holds_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "x.log", redact_text)
    read, write = os.pipe()
    drain = log.drain(read)
    os.write(write, b"some\nmore")
    await drain.finish(1)
    assert texts(log.path) == ["some", "more"]
    os.close(write)


async def test_tail_reaches_into_rotated_parts_and_follow_crosses_them(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "x.log", redact_text, rules=LogRules(file_mb=0.01, keep=3))
    log.line("before")
    log.flush()
    lines = follow(log.path, poll_seconds=0.01)
    got: list[str] = []

    async def collect() -> None:
        async for line in lines:
            got.append(line.partition(" ")[2].strip())
            if got[-1] == "200":
                return

    task = asyncio.create_task(collect())
    # It follows from where the file ends once it looks.
    while not got:
        log.line("early")
        await asyncio.sleep(0.01)
    for number in range(1, 201):
        log.line(str(number).rjust(120))
        # Not faster than a rotated part is read: what was renamed away twice is gone.
        await asyncio.sleep(0.002)
    await asyncio.wait_for(task, 60)
    told = [line for line in got if line != "early"]
    assert told == [str(number) for number in range(1, 201)]
    log.flush()
    kept = [text.strip() for text in texts(log.path, 150)]
    assert kept == [str(number) for number in range(51, 201)]
    assert tail(log.path, 0) == []
    assert tail(tmp_path / "none.log", 5) == []
    assert len(list(tmp_path.glob("x.log*"))) == 4


async def test_follow_waits_for_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    lines = follow(tmp_path / "x.log", poll_seconds=0.01)
    first = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(1)
    ServerLog(tmp_path / "x.log", redact_text).line("hello")
    assert (await asyncio.wait_for(first, 20)).endswith(" hello")
    await lines.aclose()  # type: ignore[attr-defined]


async def test_a_log_that_cannot_be_written_says_so_and_loses_no_last_lines(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = ServerLog(folder / "x.log", redact_text)
    folder.rmdir()
    await written(log, b"words\n")
    assert log.last == ("words",)
    assert log.failure
    assert "No such file" in log.failure


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=40), max_size=30
    ),
    st.integers(1, 50),
)
def test_lines_survive_any_cutting(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
) -> None:
    log = ServerLog(tmp_path_factory.mktemp("l") / "x.log", lambda text: text)
    data = "".join(f"{line}\n" for line in lines).encode()
    feeder = logs._Lines(log, None)
    for start in range(0, len(data), size):
        feeder.feed(data[start : start + size])
    feeder.end()
    log.flush()
    assert texts(log.path) == lines
    assert log.last == tuple(lines[-logs.REMEMBERED_LINES :])


async def test_each_line_is_an_object_and_a_torn_one_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"time": "t", "stream": "stderr", "pid": 1, "te')
    log = ServerLog(path, redact_text)
    log.line("after the crash", 4711)
    log.note("kept")
    log.close()
    torn, first, second = logs.records(path, 10)
    assert torn["stream"] == "unknown"
    assert torn["text"].endswith('"te')
    assert (first["stream"], first["pid"], first["text"]) == ("stderr", 4711, "after the crash")
    assert (second["stream"], second["pid"], second["text"]) == ("keeper", None, "kept")
    assert set(first) == {"time", "stream", "pid", "text"}
    assert logs.show(second) == f"{second['time']} -- kept"


async def test_a_disk_that_hangs_holds_up_nobody_and_what_it_missed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED_BYTES", 10_000)
    log = ServerLog(tmp_path / "x.jsonl", redact_text)
    hangs, reached = threading.Event(), threading.Event()
    write = logging.FileHandler.emit

    def slow(self: logging.FileHandler, record: logging.LogRecord) -> None:
        reached.set()
        hangs.wait(30)
        write(self, record)

    monkeypatch.setattr(logging.FileHandler, "emit", slow)
    log.note("first")
    assert reached.wait(20)
    for number in range(1_000):
        log.line(f"line {number}")  # would never return if it waited for the disk
    assert log.last[-1] == "line 999"
    assert log.flush(0.01) is False
    hangs.set()
    assert log.flush(20)
    log.note("the end")
    log.close()
    kept = texts(log.path, 2_000)
    assert kept[:2] == ["-- first", "line 0"]
    lines = [line for line in kept if line.startswith("line")]
    (told,) = [line for line in kept if "too slow" in line]
    assert int(told.split()[1]) + len(lines) == 1_000
    assert kept[-1] == "-- the end"
