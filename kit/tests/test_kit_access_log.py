"""The access log: what is in it, what crashes and full disks cost, and one list with the ledger.

Processes that write are real ones, which are killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright_kit import access_log, access_reading
from hostwright_kit.access_log import ACCESS_FOLDER, AccessLog, access_file, access_files
from hostwright_kit.access_reading import list_all
from hostwright_kit.approvals import Approvals
from hostwright_kit.audit import Event, EventFilter
from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.config import KitConfig, LedgerConfig
from hostwright_kit.errors import HostError
from hostwright_kit.guard import Answer, Guard
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.policy import Effect, PolicyConfig, Rule
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates

from .kit_harness import wait_for

WRITER = """
import sys
from pathlib import Path
from hostwright_kit.access_log import AccessLog
from hostwright_kit.ledger_file import Entry

log = AccessLog(Path(sys.argv[1]), max_file_bytes=int(sys.argv[3]), kept_files=1000)
for number in range(int(sys.argv[4])):
    log.note(Entry(type="call.read", caller=sys.argv[2], detail={"n": number}))
    if number % 50 == 0:
        log.flush()
        print(number, flush=True)
log.close()
"""


def read(number: int, **more: Any) -> Entry:
    return Entry(type="call.read", tool=f"t{number}", detail={"n": number, **more})


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Every line, oldest first; each must be whole."""
    files = [access_file(folder, number) for number in access_files(folder)]
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def numbers_of(folder: Path) -> list[int]:
    return [line["detail"]["n"] for line in lines_of(folder)]


@contextmanager
def writers(
    folder: Path, count: int, *, file_bytes: int, lines: int
) -> Generator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, "-c", WRITER, str(folder)]
    processes = [
        subprocess.Popen(
            [*argv, f"w{number}", str(file_bytes), str(lines)], stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


# -- writing -----------------------------------------------------------------------------------


def test_what_is_noted_is_there_after_a_flush_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / ACCESS_FOLDER
    log = AccessLog(folder)
    log.flush()
    assert not folder.exists(), "nothing was read, nothing is made"
    for number in range(20):
        log.note(read(number))
        log.flush()
        assert numbers_of(folder) == list(range(number + 1))
    log.note(read(20))
    log.close()
    log.close()
    assert numbers_of(folder) == list(range(21))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert access_file(folder, 1).stat().st_mode & 0o777 == 0o600


def test_nobody_need_flush(tmp_path: Path) -> None:
    with closing(AccessLog(tmp_path)) as log:
        log.note(read(1))
        wait_for(lambda: access_file(tmp_path, 1).exists() and numbers_of(tmp_path) == [1])


def test_full_files_are_followed_by_others_and_the_oldest_go(tmp_path: Path) -> None:
    with closing(AccessLog(tmp_path, max_file_bytes=1_000, kept_files=3)) as log:
        for number in range(200):
            log.note(read(number))
            if number % 7 == 0:
                log.flush()
    files = [access_file(tmp_path, number) for number in access_files(tmp_path)]
    assert len(files) == 3
    assert all(file.stat().st_size <= 1_000 for file in files)
    kept = numbers_of(tmp_path)
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 15


def test_a_long_call_leaves_a_short_line(tmp_path: Path) -> None:
    with closing(AccessLog(tmp_path)) as log:
        log.note(read(1, digest="d", arguments={"paths": ["x" * 1_000] * 1_000}))
    (line,) = lines_of(tmp_path)
    assert len(access_file(tmp_path, 1).read_bytes()) < 1_000
    assert (line["detail"]["digest"], list(line["detail"]["arguments"])) == ("d", ["omitted"])


def test_what_waits_is_bounded_and_what_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: list[int] = []
    monkeypatch.setattr(access_log, "MAX_WAITING_BYTES", 1_000)
    monkeypatch.setattr(access_log, "WRITE_SECONDS", 60)
    log = AccessLog(tmp_path, on_loss=lambda _why, count: missing.append(count))
    for number in range(100):
        log.note(read(number))
    log.note(Entry(type="call.read", detail={"n": object()}))
    log.close()
    assert len(numbers_of(tmp_path)) + sum(missing) == 101
    assert 0 < len(numbers_of(tmp_path)) < 50
    log.note(read(1))
    assert len(numbers_of(tmp_path)) + sum(missing) == 102


def test_many_processes_write_one_log_and_kills_cost_only_the_last_batches(tmp_path: Path) -> None:
    told: dict[str, int] = {}
    with writers(tmp_path, 4, file_bytes=20_000, lines=1_000_000) as processes:
        for number, process in enumerate(processes):
            assert process.stdout
            for _ in range(10):
                told[f"w{number}"] = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
    # One more ends what a kill may have cut off.
    with closing(AccessLog(tmp_path, max_file_bytes=20_000, kept_files=1_000)) as log:
        log.note(Entry(type="call.read", caller="last", detail={"n": 0}))
    found: dict[str, list[int]] = {}
    for number in access_files(tmp_path):
        for line in access_file(tmp_path, number).read_bytes().splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            found.setdefault(fields["caller"], []).append(fields["detail"]["n"])
    assert found.pop("last") == [0]
    for name, numbers in found.items():
        assert numbers == list(range(len(numbers))), "none but the last are missing"
        assert len(numbers) > told[name], "what was flushed is there"
    assert found.keys() == told.keys()


def test_half_a_line_is_ended_before_the_next(tmp_path: Path) -> None:
    with closing(AccessLog(tmp_path)) as log:
        log.note(read(1))
        log.flush()
        with access_file(tmp_path, 1).open("ab") as file:
            file.write(b'{"time":"2026-01-01T00:00:00.000Z","type":"call.re')
        log.note(read(2))
    lines = access_file(tmp_path, 1).read_bytes().splitlines()
    assert [json.loads(lines[at])["tool"] for at in (0, 2)] == ["t1", "t2"]


def test_a_disk_without_room_leaves_whole_lines_and_is_told(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from hostwright_kit.access_log import AccessLog
from hostwright_kit.ledger_file import Entry

missing = []
log = AccessLog(Path(sys.argv[1]), on_loss=lambda why, count: missing.append(count))
for room in (3_000, resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for number in range(60):
        log.note(Entry(type="call.read", detail={"n": number}))
        if number % 4 == 0:
            log.flush()
log.close()
print(sum(missing))
"""
    argv = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    found = numbers_of(tmp_path)
    assert len(found) + int(done.stdout) == 120
    assert found[-60:] == list(range(60)), "once there is room, everything is written"
    assert 0 < len(found) - 60 < 60


# -- one list with the ledger ------------------------------------------------------------------


class World:
    """A ledger with its access log."""

    def __init__(self, folder: Path, *, file_bytes: int = 1_000_000) -> None:
        self.path = folder / "ledger.db"
        self.ledger = Ledger(self.path)
        self.access = AccessLog(folder / ACCESS_FOLDER, max_file_bytes=file_bytes, kept_files=1_000)

    def close(self) -> None:
        self.access.close()
        self.ledger.close()

    def pages(self, limit: int = 50, **wanted: Any) -> list[Event]:
        """All of it, page by page."""
        found: list[Event] = []
        cursor: str | None = None
        while True:
            page = list_all(self.path, EventFilter(**wanted), limit=limit, cursor=cursor)
            assert len(page.events) <= limit
            found += page.events
            if (cursor := page.next_cursor) is None:
                return found
            assert len(cursor) <= access_reading.CURSOR_CHARS


@given(
    kinds=st.lists(st.sampled_from(["act", "read", "both", "flush"]), max_size=40),
    limit=st.integers(1, 7),
    scanned=st.sampled_from([1, 300, 10**9]),
    chunk=st.sampled_from([1, 7, 64, 10**6]),
)
@settings(max_examples=40, deadline=None)
def test_pages_hold_each_entry_once_and_the_newest_first(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: Sequence[str],
    limit: int,
    scanned: int,
    chunk: int,
) -> None:
    with (
        closing(World(tmp_path_factory.mktemp("world"), file_bytes=400)) as world,
        pytest.MonkeyPatch.context() as patch,
    ):
        clock = iter(range(10**6))
        for module in ("access_log", "ledger_file"):
            patch.setattr(f"hostwright_kit.{module}.utc_now", lambda: f"{next(clock):024d}")
        patch.setattr(access_reading, "MAX_SCANNED_BYTES", scanned)
        patch.setattr(access_reading, "CHUNK_BYTES", chunk)
        wanted: list[str] = []
        for number, kind in enumerate(kinds):
            if kind == "flush":
                world.access.flush()
                continue
            entry = read(number) if kind != "act" else Entry(type="call.denied", tool=f"t{number}")
            if kind != "read":
                world.ledger.append(entry)
            if kind != "act":
                world.access.note(entry, in_ledger=kind == "both")
            wanted.append(f"t{number}")
        world.access.flush()
        assert [event.tool for event in world.pages(limit)] == wanted[::-1]
        denied = [one for one in world.pages(limit, type="call.denied") if one.seq == 0]
        assert denied == []
        for tool in wanted[:3]:
            assert [event.tool for event in world.pages(limit, tool=tool)] == [tool]
        ids = [event.id for event in world.pages(limit)]
        assert len(set(ids)) == len(ids)


def test_filters_mean_the_same_for_reads(tmp_path: Path) -> None:
    with closing(World(tmp_path)) as world:
        for number in range(6):
            world.access.note(
                Entry(
                    type="call.read",
                    caller=f"c{number % 2}",
                    server=f"s{number % 3}",
                    tool="t",
                    outcome="ok" if number else "error",
                )
            )
        world.access.flush()
        assert len(world.pages(caller="c1")) == 3
        assert len(world.pages(server="s2", type="call.*")) == 2
        assert len(world.pages(outcome="error", type="call.read")) == 1
        assert world.pages(type="call") == []
        assert world.pages(type="approval.*") == []
        moment = world.pages(outcome="error")[0].time
        assert len(world.pages(since=moment)) == 6
        assert world.pages(until=moment) == []
        assert world.pages(since="2999-01-01T00:00:00Z") == []
        os.utime(access_file(tmp_path / ACCESS_FOLDER, 1), (0, 0))
        assert world.pages(since=moment) == [], "a file that is older is not opened"
        assert not list_all(world.path, EventFilter(), reads=False).events


def test_a_file_that_goes_away_amid_the_pages_ends_them(tmp_path: Path) -> None:
    with closing(World(tmp_path, file_bytes=300)) as world:
        for number in range(12):
            world.access.note(read(number))
        world.access.flush()
        page = list_all(world.path, EventFilter(), limit=5)
        for number in access_files(tmp_path / ACCESS_FOLDER)[:-1]:
            access_file(tmp_path / ACCESS_FOLDER, number).unlink()
        rest = list_all(world.path, EventFilter(), limit=50, cursor=page.next_cursor)
        assert rest.next_cursor is None
        assert not {one.tool for one in rest.events} & {one.tool for one in page.events}


@pytest.mark.parametrize("cursor", ["x", "", "1.2", "1.2.3.4", "-1.2.3", "a.b.c", "1.2.3\n"])
def test_a_cursor_that_is_not_ours_is_refused(tmp_path: Path, cursor: str) -> None:
    with closing(World(tmp_path)) as world, pytest.raises(HostError) as caught:
        list_all(world.path, EventFilter(), cursor=cursor)
    assert caught.value.code == "bad_cursor"


# -- through the guard -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "lines", "entries"),
    [("log", 1, 0), ("ledger", 0, 1), ("both", 1, 1), ("none", 0, 0)],
)
async def test_the_owner_says_where_reads_go_and_denials_go_to_the_ledger(
    tmp_path: Path, reads: Any, lines: int, entries: int
) -> None:
    async def act() -> str:
        return "result"

    async def ask(_: Any) -> Answer:
        return Answer.UNASKED

    rule = Rule(effect="deny", tool="secret*")
    config = KitConfig(ledger=LedgerConfig(reads=reads))
    with (
        closing(World(tmp_path)) as world,
        closing(Approvals(tmp_path / "a.db", world.ledger, lifetime_seconds=60)) as approvals,
    ):
        policy = PolicySource(PolicyConfig(rules=(rule,)))
        rates = Rates(tmp_path)
        guard = Guard(config, world.ledger, approvals, policy, rates, world.access)
        arguments = {"path": "/x", "password": "hunter22"}
        call = Call(
            caller=Caller(client="c"),
            server="s",
            tool="look",
            arguments=arguments,
            effect=Effect.READ,
        )
        assert await guard.run(call, act, ask) == "result"
        with pytest.raises(HostError):
            await guard.run(call.model_copy(update={"tool": "secrets"}), act, ask)
        (denied,) = world.pages(type="call.denied")
        assert denied.seq > 0, "a denial is in the chain, also of a read"
        rates.close()
        world.access.flush()
        world.ledger.flush()
        folder = tmp_path / ACCESS_FOLDER
        assert len(lines_of(folder)) == lines
        in_ledger = list_all(world.path, EventFilter(type="call.read"), reads=False).events
        assert len(in_ledger) == entries
        shown = world.pages(type="call.read")
        assert len(shown) == (1 if reads != "none" else 0), "what is in both is shown once"
        for event in (*shown, denied):
            assert (event.caller, event.server) == ("c", "s")
            assert event.detail["arguments"] == {"path": "/x", "password": "[redacted]"}
            assert event.detail["by"]["client"] == "c"
        for event in shown:
            assert event.detail["digest"] == call.digest
            assert event.detail["duration_ms"] >= 0
            assert event.outcome == "ok"
