"""Bearer tokens of clients: shown once when made, kept only as SHA-256.

A token is 256 random bits, so a plain hash is enough (nothing to guess); comparison is by lookup
of the hash, which tells an attacker nothing about the token.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.store import naming_the_cause, open_store
from hostwright_kit.token_rules import ALL, TokenRules

logger = logging.getLogger(__name__)

PREFIX = "hw_"
NOTHING = TokenRules(servers=())
SETTLED_NANOSECONDS = 100_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

MIGRATIONS = (
    """
    CREATE TABLE tokens (
        name TEXT PRIMARY KEY,
        sha256 TEXT NOT NULL UNIQUE,
        created TEXT NOT NULL
    ) STRICT;
    """,
    "ALTER TABLE tokens ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';",
)


class TokenInfo(BaseModel, frozen=True):
    """A token without its secret."""

    name: str
    created: str
    rules: TokenRules = ALL


class Tokens:
    """The tokens of one installation. Blocking, thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.Lock()
        self._log = f"{path}-wal"
        self._mark: tuple[int, int] | None = None
        self._known_version = 0

    def create(self, name: str, *, replace: bool = False, rules: TokenRules = ALL) -> str:
        """Make a token for the client `name` and return it; it cannot be shown again."""
        if not NAME.fullmatch(name):
            raise HostError(
                f"{name!r} is not a token name.",
                fix="Use 1 to 63 of a-z, 0-9, dot, dash, underscore.",
                code="bad_name",
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
        with self._using():
            made = self._db.execute(
                f"{verb} INTO tokens VALUES (?, ?, ?, ?)",
                (name, _sha256(secret), utc_now(), _stored(rules)),
            ).rowcount
        if not made:
            raise HostError(
                f"A token named {name!r} exists already.",
                fix="Choose another name, or replace it (--replace): the old one stops working.",
                code="exists",
            )
        return secret

    def verify(self, secret: str) -> str | None:
        """The name of the client that this token was made for."""
        found = self.look_up(secret)
        return found.name if found else None

    def look_up(self, secret: str) -> TokenInfo | None:
        """Whose token this is, and what it may see."""
        with self._using():
            row = self._db.execute(
                "SELECT name, created, rules FROM tokens WHERE sha256 = ?", (_sha256(secret),)
            ).fetchone()
        return _info(row) if row else None

    def rules(self, name: str) -> TokenRules:
        """What the token of this name may see; nothing when there is no such token any more."""
        with self._using():
            row = self._db.execute("SELECT * FROM tokens WHERE name = ?", (name,)).fetchone()
        return _info(row).rules if row else NOTHING

    def change(self, name: str, rules: TokenRules) -> None:
        """Let a token see something else; the token itself stays as it is."""
        with self._using():
            done = self._db.execute(
                "UPDATE tokens SET rules = ? WHERE name = ?", (_stored(rules), name)
            ).rowcount
        if not done:
            raise _unknown(name)

    def version(self) -> int:
        """Another number once another process has changed a token; costs a look at a file.

        Every commit writes to the write-ahead log, so its time and size tell. A file system's
        clock stands still for some milliseconds: while the log's time is as young as that, the
        database is asked itself.
        """
        try:
            seen = os.stat(self._log)  # noqa: PTH116 - for every request over HTTP
            mark = (seen.st_mtime_ns, seen.st_size)
        except FileNotFoundError:
            mark = (0, -1)
        if mark == self._mark:
            return self._known_version
        # Asked after the look: a commit in between is seen now, or changes the mark.
        with self._using():
            found = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        settled = mark[1] >= 0 and time.time_ns() - mark[0] > SETTLED_NANOSECONDS
        self._mark = mark if settled else None
        self._known_version = found
        return found

    def revoke(self, name: str) -> None:
        """Make a token worthless at once."""
        with self._using():
            if not self._db.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount:
                raise _unknown(name)

    def list(self) -> list[TokenInfo]:
        """All tokens, by name."""
        with self._using():
            rows = self._db.execute("SELECT * FROM tokens ORDER BY name").fetchall()
        return [_info(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _using(self) -> Generator[None]:
        with self._lock, naming_the_cause(self._path):
            yield


def _stored(rules: TokenRules) -> str:
    return rules.model_dump_json(exclude_defaults=True)


def _info(row: sqlite3.Row) -> TokenInfo:
    """Rules that cannot be read (of a newer version) show nothing rather than everything."""
    try:
        rules = TokenRules.model_validate_json(row["rules"])
    except ValidationError:
        logger.warning("the rules of the token %s cannot be read; it sees nothing", row["name"])
        rules = NOTHING
    return TokenInfo(name=row["name"], created=row["created"], rules=rules)


def _unknown(name: str) -> HostError:
    return HostError(
        f"There is no token named {name!r}.",
        fix="`hostwright token --list` shows them.",
        code="not_found",
    )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
