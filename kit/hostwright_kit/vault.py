"""The vault: secrets on disk, each opened only for the servers that its owner named.

`vault.db` in the state folder: one row per entry (an envelope of `vault_seal`), one row for the
key-encryption key that all envelopes are wrapped with (`vault_keys` knows where that is). What is
there can be listed without a key; no list, no error, no log and no ledger entry ever holds a value.
Every change and every opening is in the ledger, by name, before it happens.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr

from hostwright_kit.canonical import canonical
from hostwright_kit.clock import utc_now
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.store import naming_the_cause, open_store, transaction
from hostwright_kit.vault_keys import KeyRecord, Keys, Layer
from hostwright_kit.vault_names import check_name, checked_servers, checked_value
from hostwright_kit.vault_seal import (
    BrokenSealError,
    Envelope,
    Label,
    is_proven,
    prove,
    rewrap,
    seal,
    unseal,
)

VAULT_FILE = "vault.db"

MIGRATIONS = (
    """
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        record TEXT NOT NULL,
        proof BLOB NOT NULL,
        created TEXT NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        name TEXT PRIMARY KEY,
        servers TEXT NOT NULL,
        version INTEGER NOT NULL,
        key_id TEXT NOT NULL REFERENCES keys (id),
        wrapped BLOB NOT NULL,
        sealed BLOB NOT NULL,
        created TEXT NOT NULL,
        updated TEXT NOT NULL
    ) STRICT;
    CREATE TABLE versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;
    """,
)


class SecretInfo(BaseModel, frozen=True):
    """An entry without its value."""

    name: str
    servers: tuple[str, ...] = Field(description="Which servers may open it.")
    version: int = Field(description="Counts the values it has had.")
    created: str
    updated: str


class VaultStatus(BaseModel, frozen=True):
    """Where the key is, and how many entries there are."""

    layer: Layer | None = Field(description="Where the key is kept; none before the first entry.")
    entries: int


class SecretTest(BaseModel, frozen=True):
    """Whether one entry opens."""

    name: str
    ok: bool
    problem: str | None = None


class Vault:
    """The vault of one installation. Blocking, thread-safe, shared between processes."""

    def __init__(self, path: Path, ledger: Ledger, keys: Keys) -> None:
        self._path = path
        self._db = open_store(path, MIGRATIONS)
        self._lock = threading.RLock()
        self._ledger = ledger
        self._keys = keys
        # By the key's id, so that another process's rotation is noticed.
        self._known: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Vault({str(self._path)!r})"

    def set(
        self,
        name: str,
        value: SecretStr,
        *,
        servers: Sequence[str] | None = None,
        must_be_new: bool = False,
    ) -> SecretInfo:
        """Keep a value. `servers` replaces who may open it; None leaves that as it is."""
        check_name(name)
        plain = checked_value(value)
        wanted = None if servers is None else checked_servers(servers)
        with self._writing():
            key, kek = self._current() or self._first_key()
            old = self._row(name)
            if old is not None and must_be_new:
                raise HostError(
                    f"There is a secret {name} already; it was left as it is.",
                    fix=f"Let the owner replace it (`hostwright secret set {name}`), or use "
                    "another name.",
                    code="secret_exists",
                )
            label = Label(
                name=name,
                servers=(_servers(old) if old is not None else ()) if wanted is None else wanted,
                version=self._next_version(name),
            )
            envelope = seal(kek, label, plain)
            self._record("secret.set", name, servers=list(label.servers), version=label.version)
            now = utc_now()
            created = old["created"] if old is not None else now
            self._db.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    canonical(label.servers).decode(),
                    label.version,
                    key.id,
                    envelope.wrapped,
                    envelope.sealed,
                    created,
                    now,
                ),
            )
            return _info(self._found(name))

    def open(self, name: str, server: str) -> SecretStr:
        """The value, for this server and no other."""
        # Writing, though nothing is written: no rotation may come between the row and its key.
        with self._writing():
            row = self._row(name)
            if row is None:
                raise HostError(
                    f"The vault has no entry {name!r}, which the server {server} needs.",
                    fix=f"hostwright secret set {name} --server {server}",
                    code="secret_missing",
                )
            if server not in _servers(row):
                self._record("secret.denied", name, server=server)
                raise HostError(
                    f"The vault's entry {name!r} may not be opened for the server {server}.",
                    fix=f"If it should: hostwright secret set {name} --server {server}",
                    code="secret_denied",
                )
            plain = self._unsealed(row)
            self._record("secret.opened", name, server=server)
        return SecretStr(plain.decode("utf-8", "surrogatepass"))

    def list(self) -> list[SecretInfo]:
        """Every entry, by name. Needs no key."""
        with self._lock, naming_the_cause(self._path):
            rows = self._db.execute("SELECT * FROM entries ORDER BY name").fetchall()
        return [_info(row) for row in rows]

    def status(self) -> VaultStatus:
        """What can be said without a key."""
        with self._lock, naming_the_cause(self._path):
            record = self._key_record()
            count = self._db.execute("SELECT count(*) FROM entries").fetchone()[0]
        return VaultStatus(layer=record[0].layer if record else None, entries=count)

    def delete(self, name: str) -> None:
        """Forget an entry. A damaged one can be deleted too; no key is needed."""
        with self._writing():
            self._found(name)
            self._record("secret.deleted", name)
            self._db.execute("DELETE FROM entries WHERE name = ?", (name,))

    def test(self) -> list[SecretTest]:
        """Open every entry and tell which do not; the values go nowhere.

        Raises when the key itself cannot be had.
        """
        found: list[SecretTest] = []
        with self._writing():
            if self._key_record() is not None:
                self._current()
            for row in self._db.execute("SELECT * FROM entries ORDER BY name").fetchall():
                try:
                    self._unsealed(row)
                except HostError as error:
                    found.append(SecretTest(name=row["name"], ok=False, problem=error.message))
                else:
                    found.append(SecretTest(name=row["name"], ok=True))
        return found

    def rotate(self, layer: Layer | None = None) -> VaultStatus:
        """Wrap everything with a new key, kept in `layer` (default: the one that holds it now).

        One transaction: either every entry has the new key or none has. The old key is forgotten
        only after that; a crash in between leaves a key that opens nothing.
        """
        with self._writing():
            current = self._current()
            if current is None:
                raise HostError(
                    "The vault is empty: there is no key to rotate.",
                    fix="hostwright secret set NAME makes the first one.",
                    code="vault_empty",
                )
            old, old_kek = current
            new, new_kek = self._keys.make(layer or old.layer)
            moved = [(row["name"], self._rewrapped(row, old_kek, new_kek)) for row in self._rows()]
            self._record("secret.rotated", None, layer=new.layer, entries=len(moved))
            self._keep_key(new, new_kek)
            for name, envelope in moved:
                self._db.execute(
                    "UPDATE entries SET key_id = ?, wrapped = ? WHERE name = ?",
                    (new.id, envelope.wrapped, name),
                )
            self._db.execute("DELETE FROM keys WHERE id = ?", (old.id,))
        self._known.pop(old.id, None)
        self._keys.forget(old)
        return self.status()

    def close(self) -> None:
        """Close the database and let go of the key."""
        with self._lock:
            self._known.clear()
            self._db.close()

    # -- keys ------------------------------------------------------------------------------------

    def _key_record(self) -> tuple[KeyRecord, bytes] | None:
        row = self._db.execute("SELECT * FROM keys").fetchone()
        if row is None:
            return None
        try:
            return KeyRecord.model_validate_json(row["record"]), bytes(row["proof"])
        except ValueError as error:
            raise HostError(
                f"The vault's note of its key in {self._path} is damaged.",
                fix="Restore the file from a backup; it was left untouched.",
                code="vault_damaged",
            ) from error

    def _current(self) -> tuple[KeyRecord, bytes] | None:
        """The key of all entries, found in its layer and proven to be the one."""
        noted = self._key_record()
        if noted is None:
            return None
        record, proof = noted
        if record.id not in self._known:
            kek = self._keys.find(record)
            if not is_proven(kek, record.id, proof):
                what = "passphrase" if record.layer == "passphrase" else f"key ({record.layer})"
                raise HostError(
                    f"This {what} is not the one that the vault was closed with.",
                    fix="Give the right one; nothing was changed.",
                    code="vault_key_wrong",
                )
            self._known = {record.id: kek}
        return record, self._known[record.id]

    def _first_key(self) -> tuple[KeyRecord, bytes]:
        record, kek = self._keys.make(self._keys.best())
        self._keep_key(record, kek)
        return record, kek

    def _keep_key(self, record: KeyRecord, kek: bytes) -> None:
        self._db.execute(
            "INSERT INTO keys VALUES (?, ?, ?, ?)",
            (record.id, record.model_dump_json(), prove(kek, record.id), utc_now()),
        )

    # -- rows ------------------------------------------------------------------------------------

    def _unsealed(self, row: sqlite3.Row) -> bytes:
        current = self._current()
        if current is None or row["key_id"] != current[0].id:
            raise _damaged(row["name"])
        try:
            return unseal(current[1], _label(row), _envelope(row))
        except BrokenSealError as error:
            raise _damaged(row["name"]) from error

    def _rewrapped(self, row: sqlite3.Row, old: bytes, new: bytes) -> Envelope:
        try:
            return rewrap(old, new, _label(row), _envelope(row))
        except BrokenSealError as error:
            raise _damaged(row["name"]) from error

    def _row(self, name: str) -> sqlite3.Row | None:
        return self._db.execute("SELECT * FROM entries WHERE name = ?", (name,)).fetchone()

    def _rows(self) -> list[sqlite3.Row]:  # type: ignore[valid-type] - `list` is also a method here
        return self._db.execute("SELECT * FROM entries ORDER BY name").fetchall()

    def _found(self, name: str) -> sqlite3.Row:
        row = self._row(name)
        if row is None:
            raise HostError(
                f"The vault has no entry {name!r}.",
                fix="`hostwright secret list` shows them.",
                code="not_found",
            )
        return row

    def _next_version(self, name: str) -> int:
        """Higher than any that this name ever had, also before it was deleted."""
        rows = self._db.execute(
            "INSERT INTO versions VALUES (?, 1) "
            "ON CONFLICT (name) DO UPDATE SET version = version + 1 RETURNING version",
            (name,),
        ).fetchall()
        return int(rows[0]["version"])

    def _record(
        self, kind: str, name: str | None, *, server: str | None = None, **detail: Any
    ) -> None:
        by = "supervisor" if server is not None else f"uid {os.getuid()}"
        named = {"entry": name} if name is not None else {}
        self._ledger.append(Entry(type=kind, caller=by, server=server, detail={**named, **detail}))

    @contextmanager
    def _writing(self) -> Generator[None]:
        with self._lock, naming_the_cause(self._path), transaction(self._db):
            yield


def open_vault(
    state_dir: Path, ledger: Ledger, *, ask: Callable[[bool], str] | None = None
) -> Vault:
    """The vault of this state folder."""
    return Vault(state_dir / VAULT_FILE, ledger, Keys(state_dir, ask=ask))


def _servers(row: sqlite3.Row) -> tuple[str, ...]:
    """Nobody, when that is damaged: then the envelope does not open either."""
    try:
        return tuple(json.loads(row["servers"]))
    except (ValueError, TypeError):
        return ()


def _label(row: sqlite3.Row) -> Label:
    return Label(name=row["name"], servers=_servers(row), version=row["version"])


def _envelope(row: sqlite3.Row) -> Envelope:
    return Envelope(wrapped=bytes(row["wrapped"]), sealed=bytes(row["sealed"]))


def _info(row: sqlite3.Row) -> SecretInfo:
    return SecretInfo(
        name=row["name"],
        servers=_servers(row),
        version=row["version"],
        created=row["created"],
        updated=row["updated"],
    )


def _damaged(name: str) -> HostError:
    return HostError(
        f"The vault's entry {name!r} is damaged, or was moved there from another place.",
        fix=f"Restore vault.db from a backup, or give it anew: hostwright secret set {name}.",
        code="secret_damaged",
    )
