"""Kill processes that write a ledger, again and again, and look at what is left of it.

    found = ledger_kills(folder, kills=200)

As in an installation: one process writes for all (`host`), others hand it their entries over its
socket (`writer`), several in flight each. Any of them is killed (SIGKILL) while entries are on
their way, and started again; a writer without a host goes on by itself. Each writer prints what was
acknowledged, once it was. Used by the tests with few kills and by the bench with many.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from hostwright_kit.audit import verify
from hostwright_kit.checkpoints import Checkpoints
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger, Receipt
from hostwright_kit.ledger_line import LedgerSocket
from hostwright_kit.ledger_reading import reading

WRITERS = 6
IN_FLIGHT = 4
CHECKPOINT_ENTRIES = 200
VERIFY_EVERY = 10
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Kills:
    """What it left."""

    kills: int
    of_the_host: int
    acknowledged: int
    entries: int
    lost: int
    """Acknowledged, and not in the ledger as acknowledged."""
    twice: int
    """In the ledger more than once."""
    invalid: tuple[str, ...]
    """What verification found, each time that it found something."""
    checkpoints: int


class _Process:
    """One that is killed and started again; what it prints is kept by a thread."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        argv = [sys.executable, str(Path(__file__)), *self._words]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._reading = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reading.start()

    def kill(self) -> None:
        """SIGKILL, and everything that it had said."""
        self._process.kill()
        self._process.wait()
        self._reading.join(PATIENCE_SECONDS)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            # A line that a kill tore is none: it was not told.
            self.lines.extend(line for line in process.stdout if line.endswith("\n"))

    def says_more(self) -> None:
        """Wait until it has printed something."""
        before, deadline = len(self.lines), time.monotonic() + PATIENCE_SECONDS
        while len(self.lines) == before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._words} says nothing more")
            time.sleep(0.001)


def ledger_kills(folder: Path, kills: int) -> Kills:
    """Kill so many processes, the host every third time. Blocks."""
    ledger, address = folder / "ledger.db", folder / "s"
    Ledger(ledger).close()
    chance = random.Random(kills)  # noqa: S311 - no secret
    host = _Process("host", str(ledger), str(address))
    invalid: list[str] = []
    of_the_host = 0
    writers: list[_Process] = []
    try:
        host.says_more()
        writers = [
            _Process("writer", str(ledger), str(address), f"w{number}") for number in range(WRITERS)
        ]
        for number in range(1, kills + 1):
            chance.choice(writers).says_more()
            time.sleep(chance.random() * 0.02)
            one = host if number % 3 == 0 else chance.choice(writers)
            of_the_host += one is host
            one.kill()
            if number % VERIFY_EVERY == 0:
                found = verify(ledger)
                invalid += [] if found.ok else [f"after kill {number}: {found.problem}"]
            one.start()
    finally:
        for one in (*writers, host):
            one.kill()
    found = verify(ledger, verifier=host_signer(folder).verifier)
    invalid += [] if found.ok else [f"at the end: {found.problem}"]
    told = [line.split() for writer in writers for line in writer.lines]
    with reading(ledger) as db:
        # What the writers gave; the writer for all adds that it has signed checkpoints.
        count = "SELECT count(tool), count(DISTINCT tool) FROM entries WHERE type = 't'"
        entries, different = db.execute(count).fetchone()
        twice = entries - different
        known = {
            (row["tool"], row["hash"].hex()) for row in db.execute("SELECT tool, hash FROM entries")
        }
    lost = sum((tool, hash_) not in known for tool, hash_ in told)
    return Kills(
        kills=kills,
        of_the_host=of_the_host,
        acknowledged=len(told),
        entries=entries,
        lost=lost,
        twice=twice,
        invalid=tuple(invalid),
        checkpoints=found.checkpoints,
    )


def _host(ledger: Path, address: Path) -> None:
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    signer = Checkpoints(lambda: host_signer(ledger.parent), every_entries=CHECKPOINT_ENTRIES)
    LedgerSocket(listener, ledger, Ledger(ledger, signer).take)
    print("ready", flush=True)
    threading.Event().wait()


def _writer(ledger: Path, address: Path, name: str) -> None:
    """Entries without end, so many on their way at a time."""
    writing = Ledger(ledger, through=address)
    mine = f"{name}.{time.time_ns()}"
    waiting: deque[tuple[str, Future[Receipt]]] = deque()
    number = 0
    while True:
        tool = f"{mine}.{number}"
        waiting.append((tool, writing.submit(Entry(type="t", tool=tool, detail={"n": number}))))
        number += 1
        if len(waiting) >= IN_FLIGHT:
            told, future = waiting.popleft()
            print(told, future.result().hash, flush=True)


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "host":
        _host(Path(words[0]), Path(words[1]))
    else:
        _writer(Path(words[0]), Path(words[1]), words[2])
