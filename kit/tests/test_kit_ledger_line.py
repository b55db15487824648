"""Entries handed to the process that writes for all; and what holds when it goes away.

The writer is a real process, which is killed; the entries that were on their way must be in the
ledger once each, and the chain must hold.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hostwright_kit.audit import EventFilter, list_events, verify
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.ledger_file import Draft, draft
from hostwright_kit.ledger_line import (
    HEAD,
    MAGIC,
    MAX_FRAME_BYTES,
    Done,
    LedgerLine,
    LedgerSocket,
    RefusedError,
)

from .kit_harness import wait_for

WRITER = """
import resource, signal, socket, sys, time
from pathlib import Path
from hostwright_kit.ledger import Ledger
from hostwright_kit.ledger_line import LedgerSocket

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGUSR1, lambda *_: room(ledger.with_name("ledger.db-wal").stat().st_size))
signal.signal(signal.SIGUSR2, lambda *_: room(resource.RLIM_INFINITY))
ledger, address = Path(sys.argv[1]), sys.argv[2]
listener = socket.socket(socket.AF_UNIX)
listener.bind(address)
listener.listen()
writing = Ledger(ledger)
LedgerSocket(listener, ledger, writing.take)
print("ready", flush=True)
for _ in range(6_000):
    time.sleep(0.1)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Ledger(tmp_path / "ledger.db").close()
    return tmp_path / "ledger.db"


@contextmanager
def writer(path: Path, address: Path) -> Generator[subprocess.Popen[str]]:
    """A process that writes for all."""
    address.unlink(missing_ok=True)
    argv = [sys.executable, "-c", WRITER, str(path), str(address)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def serving(path: Path, address: Path, ledger: Ledger) -> Generator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        taking = LedgerSocket(listener, path, ledger.take)
        try:
            yield
        finally:
            taking.close()


def tools_in(path: Path) -> list[str]:
    return sorted(str(one.tool) for one in list_events(path, EventFilter(), limit=500).events)


def test_the_writer_writes_what_others_hand_it(path: Path, tmp_path: Path) -> None:
    address = tmp_path / "s"
    with writer(path, address), closing(Ledger(path, through=address)) as ledger:
        receipts = [ledger.append(Entry(type="t", tool=f"t{n}")) for n in range(20)]
    assert [one.seq for one in receipts] == list(range(1, 21))
    by_id = {one.id: one.hash for one in list_events(path, EventFilter(), limit=500).events}
    assert by_id == {one.id: one.hash for one in receipts}
    assert verify(path).ok


def test_a_writer_that_is_killed_loses_no_entry_and_doubles_none(
    path: Path, tmp_path: Path
) -> None:
    address = tmp_path / "s"
    expected: list[str] = []
    with closing(Ledger(path, through=address)) as ledger:
        for turn in range(5):
            with writer(path, address) as process:
                # Over the line as soon as the client looks again; directly until then.
                waits = []
                for number in range(40):
                    tool = f"{turn}.{number}"
                    expected.append(tool)
                    waits.append(ledger.submit(Entry(type="t", tool=tool)))
                    if number == 20:
                        process.send_signal(signal.SIGKILL)
                for wait in waits:
                    wait.result(60)
    assert tools_in(path) == sorted(expected)
    assert verify(path).ok


def test_an_unacknowledged_entry_is_looked_for_before_it_is_written_again(
    path: Path, tmp_path: Path
) -> None:
    """The worst moment: it is on disk, and the writer dies before it says so."""
    address = tmp_path / "s"
    with closing(Ledger(path)) as behind, socket.socket(socket.AF_UNIX) as listener:

        def write_and_hang_up(given: Sequence[tuple[Sequence[Draft], Done]]) -> None:
            behind.take([(drafts, lambda _receipts, _why: None) for drafts, _ in given])
            # The connection ends with the entry written and not acknowledged.
            threading.Thread(target=taking.close).start()

        listener.bind(str(address))
        listener.listen()
        taking = LedgerSocket(listener, path, write_and_hang_up)

        with closing(Ledger(path, through=address)) as ledger:
            receipt = ledger.append(Entry(type="t", tool="once"))
    (event,) = list_events(path, EventFilter(), limit=10).events
    assert (event.id, event.seq, event.hash) == (receipt.id, receipt.seq, receipt.hash)
    assert verify(path).ok


def test_without_a_writer_each_writes_by_itself(path: Path, tmp_path: Path) -> None:
    with closing(Ledger(path, through=tmp_path / "nobody")) as ledger:
        assert ledger.append(Entry(type="t")).seq == 1


def test_a_writer_of_another_ledger_is_not_believed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    address = tmp_path / "s"
    with (
        closing(Ledger(other)) as theirs,
        serving(other, address, theirs),
        closing(Ledger(path, through=address)) as ledger,
    ):
        ledger.append(Entry(type="t", tool="mine"))
    assert tools_in(path) == ["mine"]
    assert tools_in(other) == []


def test_what_the_writer_refuses_is_refused_to_who_asked(path: Path, tmp_path: Path) -> None:
    address = tmp_path / "s"
    with closing(Ledger(path)) as ledger, serving(path, address, ledger):
        one = draft(Entry(type="t"))
        line = LedgerLine(address, path)
        assert line.append([one]) is not None
        with pytest.raises(RefusedError):
            line.append([one])  # there already
        assert line.append([draft(Entry(type="t"))]) is not None
        line.close()
    assert len(tools_in(path)) == 2


def test_a_writer_whose_disk_is_full_refuses_and_goes_on_once_there_is_room(
    path: Path, tmp_path: Path
) -> None:
    """Refused is refused: nobody writes by itself what the writer could not."""
    address = tmp_path / "s"
    accepted: list[str] = []

    def append(number: int) -> HostError | None:
        try:
            ledger.append(Entry(type="t", tool=f"t{number}", detail={"pad": "x" * 20_000}))
        except HostError as error:
            return error
        accepted.append(f"t{number}")
        return None

    with writer(path, address) as process, closing(Ledger(path, through=address)) as ledger:
        assert append(0) is None
        process.send_signal(signal.SIGUSR1)
        # The file is reused from its beginning now and then; where it must grow, it cannot.
        refused = next(one for one in map(append, range(1, 500)) if one is not None)
        assert refused.code == "ledger_unavailable"
        assert "disk" in refused.fix
        assert ledger.health() is not None
        assert verify(path).ok
        assert tools_in(path) == sorted(accepted)
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: append(1_000) is None)
        assert ledger.health() is None
        assert process.poll() is None
    assert verify(path).ok
    assert tools_in(path) == sorted(accepted)


def test_who_sends_nonsense_spoils_nobody_elses_entries(path: Path) -> None:
    told: dict[str, str | None] = {}

    def done_of(name: str) -> Done:
        return lambda _receipts, why: told.update({name: why})

    good = [draft(Entry(type="t", tool="good"))]
    short = [Draft("id", ("only", "two"), b"", b"")]
    with closing(Ledger(path)) as ledger:
        ledger.take([(good, done_of("good")), (short, done_of("short"))])
    assert told["good"] is None
    assert told["short"]
    assert tools_in(path) == ["good"]
    assert verify(path).ok


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD.pack(MAGIC, MAX_FRAME_BYTES + 1),
        HEAD.pack(MAGIC, 3) + b"abc",
    ],
)
def test_noise_ends_its_own_connection_only(path: Path, tmp_path: Path, noise: bytes) -> None:
    address = tmp_path / "s"
    with closing(Ledger(path)) as ledger, serving(path, address, ledger):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(30)
            stranger.connect(str(address))
            stranger.sendall(noise)
            assert stranger.recv(100) == b""
        line = LedgerLine(address, path)
        assert line.append([draft(Entry(type="t"))]) is not None
        line.close()
