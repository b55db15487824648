"""The process that does one run: `python -m hostwright_codegraph.indexing.worker FOLDER ROOT`.

It tells how far it is on stdout, one JSON object a line, the last with `done` or `problem`. Only
one process writes an index at a time; the others wait for its lock and then find little to do.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import sys
import time
from pathlib import Path

from hostwright_codegraph.indexing.indexer import Indexer, Outcome
from hostwright_codegraph.store.places import Places
from hostwright_codegraph.store.schema import FACTS, PROJECT
from hostwright_kit.errors import HostError
from hostwright_kit.store import open_store

FACTS_BYTES = 512 * 1024 * 1024
SAY_SECONDS = 0.25
DEEPEST_STACK = 20_000


def index(places: Places, root: Path, say: bool = True) -> Outcome:
    """Bring a project's index up to date, in this process."""
    last = 0.0

    def told(phase: str, done: int, of: int) -> None:
        nonlocal last
        if say and time.monotonic() - last > SAY_SECONDS:
            last = time.monotonic()
            _say({"phase": phase, "done": done, "of": of})

    database = places.database(root)
    lock = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        db = open_store(database, PROJECT)
        facts = open_store(places.facts, FACTS)
        try:
            # What a power cut takes from a cache is made again: no commit waits for the disk.
            for one in (db, facts):
                one.execute("PRAGMA synchronous=NORMAL")
            outcome = Indexer(root, db, facts, told).run()
            if outcome.read:
                _trim(facts)
            return outcome
        finally:
            db.close()
            facts.close()
    finally:
        os.close(lock)


def _trim(facts: object) -> None:
    """Keep the shared facts within their bound."""
    size = facts.execute("PRAGMA page_count").fetchone()[0] * 4096  # type: ignore[attr-defined]
    if size > FACTS_BYTES:
        from hostwright_codegraph.indexing.parsing import FactStore  # noqa: PLC0415

        FactStore(facts).trim(FACTS_BYTES // 2)  # type: ignore[arg-type]


def main() -> None:
    """The program."""
    folder, root = Path(sys.argv[1]), Path(sys.argv[2])
    # Everything that is made here lives until the end.
    gc.disable()
    # Expressions nest, and each may lead into a few other definitions.
    sys.setrecursionlimit(DEEPEST_STACK)
    try:
        outcome = index(Places(folder), root)
    except HostError as error:
        _say({"problem": error.message, "fix": error.fix, "code": error.code})
        sys.exit(1)
    _say({"done": outcome._asdict()})
    sys.stdout.flush()
    os._exit(0)


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
