"""Capability tokens on disk: given out, used, counted, revoked.

`capabilities.db` in the state folder, one row per token with its key. A use is one UPDATE that
succeeds only while a use is left: of any number of processes that race for the last one, exactly
one gets it, and it is on disk before the command begins. Expiry is judged by the clock that runs
on through sleep and cannot be set (CLOCK_BOOTTIME), and by the wall clock across a restart.
Blocking, thread-safe, shared between processes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field

from hostwright_guard.sandbox import tokens
from hostwright_guard.sandbox.capabilities import Grant
from hostwright_guard.sandbox.tokens import Caveat, Token
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError
from hostwright_kit.store import naming_the_cause, open_store, transaction

CAPABILITIES_FILE = "capabilities.db"
KEPT_SECONDS = 7 * 86_400.0
MAX_LISTED = 500

MIGRATIONS = (
    """
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        key BLOB NOT NULL,
        grant_ TEXT NOT NULL,
        caller TEXT NOT NULL,
        bound TEXT NOT NULL,
        note TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL NOT NULL,
        boot TEXT NOT NULL,
        deadline REAL NOT NULL,
        uses INTEGER NOT NULL,
        uses_left INTEGER NOT NULL,
        requests_left INTEGER NOT NULL,
        bytes_left INTEGER NOT NULL,
        revoked REAL
    ) STRICT;
    """,
    """
    CREATE TABLE budgets (
        key TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        requests_left INTEGER NOT NULL,
        bytes_left INTEGER NOT NULL
    ) STRICT;
    INSERT INTO budgets SELECT id, id, requests_left, bytes_left FROM tokens;
    ALTER TABLE tokens DROP COLUMN requests_left;
    ALTER TABLE tokens DROP COLUMN bytes_left;
    """,
)
_WITH_BUDGET = """
SELECT tokens.*, budgets.requests_left, budgets.bytes_left
FROM tokens JOIN budgets ON budgets.key = tokens.id
"""


class TokenHolder(NamedTuple):
    """Whom a token is given to: a name to show, and what is proven of them, which is compared."""

    name: str
    bound: str


class Capability(BaseModel, frozen=True):
    """A token without what makes it usable."""

    id: str
    caller: str = Field(description="Who it was given to.")
    note: str
    grant: Grant
    created: str
    expires: str
    uses: int
    uses_left: int
    requests_left: int
    bytes_left: int
    state: str = Field(description="usable, used_up, expired or revoked.")


class Use(BaseModel, frozen=True):
    """One use of a token: every grant that a run must keep to, and what the network has left."""

    id: str
    grants: tuple[Grant, ...]
    budgets: tuple[str, ...]
    """The budgets that its connections draw on: the token's, and each narrowing's."""
    seconds_left: float


class TokenStore:
    """The tokens of one installation."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / CAPABILITIES_FILE
        self._db = open_store(self._path, MIGRATIONS)
        self._lock = threading.RLock()
        self._boot = _boot_id()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def mint(
        self, grant: Grant, *, holder: TokenHolder, note: str, uses: int, seconds: float
    ) -> tuple[str, Capability]:
        """A new token and what is known of it. The text is nowhere but in this answer."""
        token_id, key, now = tokens.new_id(), tokens.new_key(), time.time()
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            self._db.execute("DELETE FROM tokens WHERE expires < ?", (now - KEPT_SECONDS,))
            self._db.execute("DELETE FROM budgets WHERE token NOT IN (SELECT id FROM tokens)")
            self._db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    *(token_id, key, grant.model_dump_json(), holder.name, holder.bound, note),
                    *(now, now + seconds),
                    *(self._boot, uptime() + seconds, uses, uses),
                ),
            )
            self._add_budget(token_id, token_id, grant)
            row = self._found(token_id)
        return tokens.write(key, token_id), self._shown(row)

    def look(self, text: str, holder: TokenHolder) -> Use:
        """What a token allows; nothing is used up. Raises `HostError`."""
        token = tokens.read(text)
        with self._lock, naming_the_cause(self._path):
            row = self._row(token.id)
        if row is None:
            raise tokens.bad_token()
        caveats = tokens.proven(token, row["key"])
        if row["bound"] != holder.bound:
            raise HostError(
                f"The token {token.id} was given to {row['caller']}, not to {holder.name}.",
                fix="Mint one for this caller.",
                code="denied",
            )
        self._refuse_ended(row, caveats)
        return self._use(row, token, caveats)

    def use(self, text: str, holder: TokenHolder) -> Use:
        """Use it once. Raises `HostError` when it is used up, expired, revoked or not genuine."""
        looked = self.look(text, holder)
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            # The row and its state under the lock: by the clock that nobody can set, too.
            self._refuse_ended(self._found(looked.id), ())
            self._db.execute(
                "UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?", (looked.id,)
            )
            for budget, grant in zip(looked.budgets, looked.grants, strict=True):
                self._add_budget(budget, looked.id, grant)
        return looked

    def good(self, token_id: str) -> bool:
        """Whether those who run with it may go on: it is neither revoked nor expired."""
        with self._lock, naming_the_cause(self._path):
            row = self._row(token_id)
        return row is not None and self._state(row) not in ("revoked", "expired")

    def reserve(self, use: Use, requests: int, count: int) -> tuple[int, int]:
        """Take up to so many requests and bytes from what is left; nothing of an ended token."""
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            if self._state(self._found(use.id)) in ("revoked", "expired"):
                return 0, 0
            for budget in use.budgets:
                row = self._db.execute("SELECT * FROM budgets WHERE key = ?", (budget,)).fetchone()
                requests = min(requests, row["requests_left"])
                count = min(count, row["bytes_left"])
            self._move(use, -requests, -count)
        return requests, count

    def give_back(self, use: Use, requests: int, count: int) -> None:
        """What was reserved and not used."""
        if requests or count:
            with self._lock, naming_the_cause(self._path), transaction(self._db):
                self._move(use, requests, count)

    def revoke(self, token_id: str, holder: TokenHolder | None = None) -> Capability:
        """No further use; whoever runs with it notices within a second. None: the owner does."""
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            row = self._found(token_id)
            if holder is not None and row["bound"] != holder.bound:
                raise _unknown(token_id)
            if row["revoked"] is None:
                self._db.execute(
                    "UPDATE tokens SET revoked = ? WHERE id = ?", (time.time(), token_id)
                )
            return self._shown(self._found(token_id))

    def list(self, holder: TokenHolder | None = None) -> list[Capability]:
        """The tokens, newest first; one holder's, or all."""
        with self._lock, naming_the_cause(self._path):
            rows = self._db.execute(
                f"{_WITH_BUDGET} WHERE ?1 IS NULL OR bound = ?1 ORDER BY created DESC LIMIT ?2",
                (holder.bound if holder else None, MAX_LISTED),
            ).fetchall()
        return [self._shown(row) for row in rows]

    # -- rows ------------------------------------------------------------------------------------

    def _row(self, token_id: str) -> sqlite3.Row | None:
        return self._db.execute(f"{_WITH_BUDGET} WHERE id = ?", (token_id,)).fetchone()

    def _add_budget(self, budget: str, token_id: str, grant: Grant) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO budgets VALUES (?, ?, ?, ?)",
            (budget, token_id, grant.requests, grant.network_mb * 2**20),
        )

    def _move(self, use: Use, requests: int, count: int) -> None:
        for budget in use.budgets:
            self._db.execute(
                "UPDATE budgets SET requests_left = requests_left + ?, bytes_left = bytes_left + ? "
                "WHERE key = ?",
                (requests, count, budget),
            )

    def _found(self, token_id: str) -> sqlite3.Row:
        row = self._row(token_id)
        if row is None:
            raise _unknown(token_id)
        return row

    def _state(self, row: sqlite3.Row) -> str:
        if row["revoked"] is not None:
            return "revoked"
        if self._seconds_left(row) <= 0:
            return "expired"
        return "usable" if row["uses_left"] > 0 else "used_up"

    def _seconds_left(self, row: sqlite3.Row) -> float:
        left = row["expires"] - time.time()
        # Of another boot the deadline means nothing.
        return min(left, row["deadline"] - uptime()) if row["boot"] == self._boot else left

    def _refuse_ended(self, row: sqlite3.Row, caveats: Sequence[Caveat]) -> None:
        state = self._state(row)
        if any(caveat.expires is not None and caveat.expires <= time.time() for caveat in caveats):
            state = "expired"
        if state != "usable":
            raise HostError(
                f"The token {row['id']} is {state.replace('_', ' ')}.",
                fix="Mint a new one with capability_mint.",
                code=f"token_{state}",
            )

    def _use(self, row: sqlite3.Row, token: Token, caveats: Sequence[Caveat]) -> Use:
        left = self._seconds_left(row)
        ends = [caveat.expires - time.time() for caveat in caveats if caveat.expires is not None]
        grants = (Grant.model_validate_json(row["grant_"]), *(one.grant for one in caveats))
        return Use(
            id=row["id"],
            grants=grants,
            budgets=tokens.budget_keys(token),
            seconds_left=min([left, *ends]),
        )

    def _shown(self, row: sqlite3.Row) -> Capability:
        def moment(seconds: float) -> str:
            return format_utc(datetime.fromtimestamp(seconds, UTC))

        return Capability(
            id=row["id"],
            caller=row["caller"],
            note=row["note"],
            grant=Grant.model_validate_json(row["grant_"]),
            created=moment(row["created"]),
            expires=moment(row["expires"]),
            uses=row["uses"],
            uses_left=row["uses_left"],
            requests_left=row["requests_left"],
            bytes_left=row["bytes_left"],
            state=self._state(row),
        )


def _unknown(token_id: str) -> HostError:
    return HostError(
        f"There is no token {token_id[:40]!r} of yours.",
        fix="capability_list shows them.",
        code="not_found",
    )


def uptime() -> float:
    """Seconds since boot, sleep included; nobody can set this clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
