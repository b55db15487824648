"""One process that appends to a ledger whenever it is told to: appender.py KIND PATH SECONDS …

KIND `ledger` is ours; `daemon` is ours as well, written by a daemon (… = its socket, and how many
entries are on their way at a time); `sqlite` is what any durable log on SQLite costs here: one row,
one transaction, WAL with `synchronous=FULL`, no chain. It says `ready`; for each line on stdin it
appends for so many seconds and prints the latencies as JSON. Several can so begin together.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from hostwright_kit.ledger import Entry, Ledger, Receipt

FILL_BATCH = 5_000
SCHEMA = "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT"


def sample(number: int) -> Entry:
    """An entry as a tool call leaves it."""
    return Entry(
        type="call.intent",
        caller="bench",
        server="system",
        tool="file_write",
        detail={
            "by": {"client": "bench", "version": "1", "transport": "stdio", "uid": 0},
            "arguments": {"path": f"/srv/data/{number}.txt", "content": "hello world " * 8},
            "digest": "0" * 64,
            "effect": "destructive",
            "allowed_by": "the profile autonomous",
        },
    )


def fill(kind: str, path: Path, entries: int) -> None:
    """A log that has been in use: so many entries, and a write-ahead log that is full-grown.

    While that file grows each sync also commits the file system's journal; in the life of a log
    those are the first thousand appends, so they are not what is measured. Blocks.
    """
    if kind == "sqlite":
        db = _open_sqlite(path)
        db.execute("BEGIN IMMEDIATE")
        bodies = ((_body(number),) for number in range(entries))
        db.executemany("INSERT INTO entries (body) VALUES (?)", bodies)
        db.execute("COMMIT")
        db.close()
        return
    ledger = Ledger(path)
    try:
        for first in range(0, entries, FILL_BATCH):
            numbers = range(first, min(first + FILL_BATCH, entries))
            for submitted in [ledger.submit(sample(number)) for number in numbers]:
                submitted.result()
    finally:
        ledger.close(timeout_seconds=30)


def appends_to_sqlite(path: Path) -> tuple[Callable[[int], object], Callable[[], None]]:
    """The same bytes into a bare table."""
    db = _open_sqlite(path)

    def append(number: int) -> None:
        db.execute("INSERT INTO entries (body) VALUES (?)", (_body(number),))

    return append, db.close


def _open_sqlite(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(SCHEMA)
    return db


def _body(number: int) -> bytes:
    return msgspec.json.encode(sample(number))


Append = Callable[[float], list[float]]
"""Append for so many seconds, and say how long each took."""


def one_by_one(append: Callable[[int], object]) -> Append:
    """The next when the one before is on disk."""

    def run(seconds: float) -> list[float]:
        latencies: list[float] = []
        began = time.perf_counter()
        while (started := time.perf_counter()) - began < seconds:
            append(len(latencies))
            latencies.append((time.perf_counter() - started) * 1000)
        return latencies

    return run


def several_at_once(ledger: Ledger, in_flight: int) -> Append:
    """So many on their way at any time, as the calls of a busy server are."""

    def run(seconds: float) -> list[float]:
        latencies: list[float] = []
        waiting: deque[tuple[float, Future[Receipt]]] = deque()

        def take() -> None:
            begun, future = waiting.popleft()
            future.result()
            latencies.append((time.perf_counter() - begun) * 1000)

        began = time.perf_counter()
        while (started := time.perf_counter()) - began < seconds:
            waiting.append((started, ledger.submit(sample(len(latencies)))))
            if len(waiting) >= in_flight:
                take()
        while waiting:
            take()
        return latencies

    return run


def opened(kind: str, path: Path, more: Sequence[str]) -> tuple[Append, Callable[[], None]]:
    """How to append, and how to close."""
    if kind == "sqlite":
        append, close = appends_to_sqlite(path)
        return one_by_one(append), close
    ledger = Ledger(path, through=Path(more[0]) if kind == "daemon" else None)
    in_flight = int(more[1]) if kind == "daemon" else 1
    if in_flight > 1:
        return several_at_once(ledger, in_flight), ledger.close
    return one_by_one(lambda number: ledger.append(sample(number))), ledger.close


def main() -> None:
    kind, path, seconds, *more = sys.argv[1:]
    append, close = opened(kind, Path(path), more)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        latencies = append(float(seconds))
        took = time.perf_counter() - began
        print(json.dumps({"seconds": took, "latencies_ms": latencies}), flush=True)
    close()


if __name__ == "__main__":
    main()
