"""How often calls were made, for rules with a `rate`: one small database for all servers.

Counted are calls that were let through, not attempts, so that knocking does not keep a door shut.
A call is counted in the same transaction that finds room for it: of two at once, one is too many.
The counts survive the end of every process and a restart of the daemon; a power cut may lose the
last moments (nothing waits for the disk here). Time is the boot's own clock; after a reboot the
wall clock says how long ago a call was, and one from the future counts as just now.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from hostwright_kit.clock import Instant, instant
from hostwright_kit.policy import Use
from hostwright_kit.store import naming_the_cause, open_store, transaction

RATES_FILE = "rates.db"

MIGRATIONS = (
    """
    CREATE TABLE uses (
        rule TEXT NOT NULL,
        key TEXT NOT NULL,
        boot TEXT NOT NULL,
        elapsed REAL NOT NULL,
        wall REAL NOT NULL,
        ends REAL NOT NULL
    ) STRICT;
    CREATE INDEX uses_key ON uses (rule, key, wall);
    CREATE INDEX uses_ends ON uses (ends);
    """,
)

_COUNT = """
    SELECT COUNT(*) FROM uses WHERE rule = ? AND key = ? AND
    CASE WHEN boot = ? AND boot != '' THEN elapsed > ? ELSE wall > ? END
"""


class Rates:
    """The counts of one installation. Blocking, thread-safe, shared between processes."""

    def __init__(self, state_dir: Path, clock: Callable[[], Instant] = instant) -> None:
        self._path = state_dir / RATES_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def spent(self, use: Use) -> bool:
        """Whether there were as many calls already as the rate allows."""
        with self._lock, naming_the_cause(self._path):
            return self._is_spent(self._db(), use, self._clock())

    def take(self, uses: Sequence[Use]) -> bool:
        """Count one call under all of these; False, and nothing counted, when one has no room."""
        now = self._clock()
        with self._lock, naming_the_cause(self._path):
            db = self._db()
            with transaction(db):
                if any(self._is_spent(db, use, now) for use in uses):
                    return False
                db.execute("DELETE FROM uses WHERE ends < ?", (now.wall.timestamp(),))
                for use in uses:
                    wall = now.wall.timestamp()
                    row = (use.rule, use.key, now.boot, now.elapsed, wall, wall + use.seconds)
                    db.execute("INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?)", row)
        return True

    def close(self) -> None:
        """Close the database, if a rule ever needed it."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _is_spent(self, db: sqlite3.Connection, use: Use, now: Instant) -> bool:
        since, wall = now.elapsed - use.seconds, now.wall.timestamp() - use.seconds
        found = db.execute(_COUNT, (use.rule, use.key, now.boot, since, wall)).fetchone()
        return found[0] >= use.calls

    def _db(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_store(self._path, MIGRATIONS)
            self._opened.execute("PRAGMA synchronous=NORMAL")
        return self._opened
