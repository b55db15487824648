"""Where state lives and what is refused: full disks, damage, newer schemas, other owners."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.access_log import ACCESS_FOLDER, AccessLog
from hostwright_kit.access_reading import list_all
from hostwright_kit.approvals import Approvals, Request
from hostwright_kit.audit import EventFilter, list_events, verify
from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.config import KitConfig
from hostwright_kit.errors import HostError
from hostwright_kit.guard import Answer, Guard
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import Paths, ensure_private, resolve_paths
from hostwright_kit.policy import Effect, PolicyConfig
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates
from hostwright_kit.store import open_store, transaction
from hostwright_kit.tokens import Tokens

DISK_BYTES = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path]:
    """A disk of one megabyte."""
    assert os.geteuid() == 0, "a full disk needs a mount of its own: run the tests as root"
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return ballast


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mode,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith("-shm")
    }


def call(effect: Effect, **arguments: Any) -> Call:
    return Call(caller=Caller(client="c"), server="s", tool="t", arguments=arguments, effect=effect)


async def never_asked(_: Any) -> Answer:
    return Answer.UNASKED


async def test_a_full_disk_refuses_acts_answers_reads_and_breaks_nothing(disk: Path) -> None:
    ledger = Ledger(disk / "ledger.db")
    approvals = Approvals(disk / "approvals.db", ledger, lifetime_seconds=600)
    missing: list[str] = []
    access = AccessLog(disk / ACCESS_FOLDER, on_loss=lambda why, count: missing.append(why))
    guard = Guard(KitConfig(), ledger, approvals, PolicySource(PolicyConfig()), Rates(disk), access)
    done: list[str] = []

    async def act() -> str:
        done.append("act")
        return "result"

    assert await guard.run(call(Effect.CONTAINED, n=0), act, never_asked) == "result"
    ballast = fill(disk)
    refused = 0
    for number in range(60):
        # The file grows in steps; what still fits into the last one is allowed to succeed.
        try:
            await guard.run(call(Effect.CONTAINED, n=number, pad="x" * 1500), act, never_asked)
        except HostError as error:
            assert error.code in ("ledger_unavailable", "outcome_unrecorded")
            refused += error.code == "ledger_unavailable"
    assert refused > 5
    begun = len(done)
    for effect in (Effect.CONTAINED, Effect.DESTRUCTIVE):
        with pytest.raises(HostError) as caught:
            await guard.run(call(effect, n=-1, pad="x" * 1500), act, never_asked)
        assert caught.value.code == "ledger_unavailable"
        assert caught.value.fix
    assert len(done) == begun, "nothing is done that cannot be recorded"

    assert ledger.health() is not None
    assert await guard.run(call(Effect.READ), act, never_asked) == "result"
    await asyncio.sleep(0)  # it is recorded once it has been answered
    await asyncio.to_thread(access.flush)
    assert [why for why in missing if "No space left" in why], "it is known that a read is missing"
    assert approvals.pending() == [], "a question that could not be recorded was not put"
    assert verify(disk / "ledger.db").ok

    ballast.unlink()
    assert await guard.run(call(Effect.CONTAINED, n=-2), act, never_asked) == "result"
    with pytest.raises(HostError) as caught:
        await guard.run(call(Effect.DESTRUCTIVE, n=-3), act, never_asked)
    assert caught.value.code == "approval_needed"
    found = verify(disk / "ledger.db")
    assert found.ok, found
    newest = list_events(disk / "ledger.db", EventFilter(), limit=1).events[0]
    assert newest.type == "approval.requested"
    assert await guard.run(call(Effect.READ, n=-4), act, never_asked) == "result"
    await asyncio.sleep(0)  # it is recorded once it has been answered
    await asyncio.to_thread(access.flush)
    (read,) = list_all(disk / "ledger.db", EventFilter(type="call.read")).events
    assert read.detail["arguments"] == {"n": -4}
    access.close()
    approvals.close()
    ledger.close()


def test_a_full_disk_grants_nothing_and_uses_up_nothing(disk: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    approvals = Approvals(disk / "approvals.db", ledger, lifetime_seconds=600)

    def wanted(digest: str) -> Request:
        return Request(digest=digest, caller="c", server="s", tool="t", arguments={}, reason="r")

    granted = approvals.grant(approvals.request(wanted("d0")).id, via="terminal", by="o")
    ballast = fill(disk)
    for number in range(1, 200):
        try:
            approvals.request(wanted(f"d{number}").model_copy(update={"reason": "r" * 900}))
        except HostError as error:
            if error.code == "store_unavailable":
                break
            raise
    else:
        raise AssertionError("the disk was never full")
    taken = None
    try:
        taken = approvals.consume("d0")
    except HostError as error:
        assert error.code == "store_unavailable"
    ballast.unlink()
    again = approvals.consume("d0")
    # Whichever of the two got it: once, and the other nothing.
    assert [taken is None, again is None].count(False) == 1
    assert granted.id in {getattr(taken, "id", ""), getattr(again, "id", "")}
    approvals.close()
    ledger.close()


def test_a_full_disk_allows_no_uncounted_try_of_the_pin(disk: Path) -> None:
    pin = OperatorPin(disk)
    pin.set("right-pin")
    before = (disk / "operator.json").read_bytes()
    ballast = fill(disk)
    for attempt in ("wrong", "right-pin"):
        with pytest.raises(HostError) as caught:
            pin.verify(attempt)
        assert caught.value.code == "pin_unavailable"
    assert (disk / "operator.json").read_bytes() == before
    assert not list(disk.glob(".operator.json.*")), "no torn file is left"
    ballast.unlink()
    pin.verify("right-pin")


def test_a_store_on_a_full_disk_says_so_and_opens_later(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(HostError) as caught:
        Ledger(disk / "ledger.db")
    assert caught.value.code == "store_unavailable"
    ballast.unlink()
    ledger = Ledger(disk / "ledger.db")
    ledger.append(Entry(type="t"))
    ledger.close()


OPENERS: list[Callable[[Path], Any]] = [
    lambda path: Ledger(path).close(),
    lambda path: Tokens(path).close(),
    lambda path: open_store(path, ["CREATE TABLE t (x);"]).close(),
]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    "content", [b"not a database at all, whatever its name says" * 100, b"SQLite"]
)
def test_a_damaged_database_is_refused_and_left_untouched(
    tmp_path: Path, opener: Callable[[Path], Any], content: bytes
) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    before = fingerprint(tmp_path)
    with pytest.raises(HostError) as caught:
        opener(path)
    assert caught.value.code == "store_corrupt"
    assert str(path) in caught.value.message
    assert "mv" in caught.value.fix
    assert fingerprint(tmp_path) == before


def _list(path: Path) -> object:
    return list_events(path, EventFilter())


def test_reading_a_damaged_ledger_is_the_same_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"garbage" * 1000)
    for read in (verify, _list):
        with pytest.raises(HostError) as caught:
            read(path)
        assert caught.value.code == "store_corrupt"


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_newer_schema_is_refused_and_left_untouched(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "x.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA journal_mode={journal}")
    db.execute("CREATE TABLE future (x)")
    db.execute("PRAGMA user_version=99")
    db.commit()
    db.close()
    before = fingerprint(tmp_path)
    with pytest.raises(HostError) as caught:
        Ledger(path)
    assert caught.value.code == "store_newer"
    assert "99" in caught.value.message
    assert fingerprint(tmp_path) == before


OPENER = """
import sys
from pathlib import Path
from hostwright_kit.store import open_store
print("ready", flush=True)
for line in sys.stdin:
    open_store(Path(line.strip()), ["CREATE TABLE t (x);", "CREATE TABLE u (x);"]).close()
    print("opened", flush=True)
"""


def test_many_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(5)
    ]
    for turn in range(40):
        for opener in openers:
            assert opener.stdout and opener.stdin
            assert opener.stdout.readline() == ("opened\n" if turn else "ready\n")
        for opener in openers:
            assert opener.stdin
            opener.stdin.write(f"{tmp_path / str(turn)}.db\n")
    for opener in openers:
        opener.communicate(timeout=20)
        assert opener.returncode == 0


def test_a_migration_that_fails_changes_nothing_and_can_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_store(path, ["CREATE TABLE a (x);"]).close()
    with pytest.raises(HostError):
        open_store(path, ["CREATE TABLE a (x);", "CREATE TABLE b (x);\nCREATE TABLE a (x);"])
    db = open_store(path, ["CREATE TABLE a (x);", "CREATE TABLE b (x);"])
    tables = {row["name"] for row in db.execute("SELECT name FROM sqlite_master")}
    assert tables == {"a", "b"}
    db.close()


def test_a_transaction_that_fails_does_not_block_the_next(tmp_path: Path) -> None:
    db = open_store(
        tmp_path / "x.db",
        [
            "CREATE TABLE p (x PRIMARY KEY);\n"
            "CREATE TABLE c (x REFERENCES p DEFERRABLE INITIALLY DEFERRED);"
        ],
    )
    # The deferred check makes COMMIT itself fail, as a full disk does.
    with pytest.raises(sqlite3.IntegrityError), transaction(db):
        db.execute("INSERT INTO c VALUES (1)")
    with transaction(db):
        db.execute("INSERT INTO p VALUES (1)")
    assert db.execute("SELECT count(*) FROM c").fetchone()[0] == 0
    db.close()


def test_databases_are_private_and_durable(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        db = open_store(tmp_path / "x.db", ["CREATE TABLE t (x);"])
    finally:
        os.umask(old)
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    db.execute("INSERT INTO t VALUES (1)")
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    db.close()


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "giving a folder away needs root"
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    os.chown(folder, 4242, 4242)
    with pytest.raises(HostError) as caught:
        ensure_private(folder)
    assert caught.value.code == "folder_foreign"
    assert "4242" in caught.value.message
    assert "chown" in caught.value.fix
    assert list(folder.iterdir()) == []
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (4242, 0o755)


def test_a_folder_on_a_read_only_disk_is_one_clear_error(disk: Path) -> None:
    Ledger(disk / "ledger.db").close()
    before = fingerprint(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(HostError) as caught:
        Ledger(disk / "ledger.db")
    assert caught.value.code == "store_unavailable"
    assert "Read-only" in caught.value.message
    with pytest.raises(HostError) as caught:
        ensure_private(disk / "new")
    assert caught.value.code == "folder_unavailable"
    assert fingerprint(disk) == before
    assert verify(disk / "ledger.db").ok, "what can be read still is"


def test_an_open_folder_is_closed_and_a_file_in_its_place_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    ensure_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("x")
    with pytest.raises(HostError):
        ensure_private(tmp_path / "file")


def test_folders_by_user_and_by_environment(tmp_path: Path) -> None:
    root = resolve_paths({}, uid=0)
    assert root == Paths(
        config_dir=Path("/etc/hostwright"),
        state_dir=Path("/var/lib/hostwright"),
        runtime_dir=Path("/run/hostwright"),
    )
    user = resolve_paths({"XDG_RUNTIME_DIR": "/run/user/7"}, uid=7)
    assert user.runtime_dir == Path("/run/user/7/hostwright")
    assert resolve_paths({}, uid=7).runtime_dir.is_relative_to(resolve_paths({}, uid=7).state_dir)
    named = resolve_paths({"HOSTWRIGHT_STATE_DIR": str(tmp_path)}, uid=0)
    assert named.state_dir == tmp_path
    with pytest.raises(HostError) as caught:
        resolve_paths({"HOSTWRIGHT_STATE_DIR": "here"}, uid=0)
    assert caught.value.code == "bad_path"
