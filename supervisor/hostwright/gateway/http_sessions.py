"""Sessions of the handshake era over HTTP, which outlive the daemon.

What `initialize` said is on disk before the session's id is answered, so a daemon that is started
anew carries on with the ids that its clients still have. Ids are kept as SHA-256: the file is not
worth stealing. A session serves only the token that opened it: that very token, not a later one of
the same name.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from hostwright.gateway.asker import Asker, Origin
from hostwright.gateway.edge import Edge
from hostwright.gateway.session import Session
from hostwright.gateway.view import Views
from hostwright_kit.store import naming_the_cause, open_store

if TYPE_CHECKING:
    from hostwright.gateway.http_exchange import Exchange

SESSIONS_FILE = "sessions.db"
KEEP_SECONDS = 14 * 86_400
MAX_IN_MEMORY = 2_000
MAX_UNHEARD = 16

MIGRATIONS = (
    """
    CREATE TABLE sessions (
        id_sha256 TEXT PRIMARY KEY,
        endpoint TEXT NOT NULL,
        query TEXT NOT NULL,
        transport TEXT NOT NULL,
        uid INTEGER,
        token TEXT,
        client TEXT NOT NULL,
        client_version TEXT NOT NULL,
        capabilities BLOB NOT NULL,
        revision TEXT NOT NULL,
        opened REAL NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE sessions ADD COLUMN holder TEXT NOT NULL DEFAULT '';
    ALTER TABLE sessions ADD COLUMN subscribed TEXT NOT NULL DEFAULT '[]';
    """,
)


class HttpSession:
    """One session and the streams on which it hears what belongs to no request."""

    def __init__(self, key: str, endpoint: str, holder: str) -> None:
        """`holder` stands for the token that opened it."""
        self.key = key
        self.endpoint = endpoint
        self.holder = holder
        self.used = time.monotonic()
        self.shown_as: tuple[str, str] = ("", "")
        """By what id and by which token it was found last: who shows both again need not be looked
        up again."""
        self._streams: list[Exchange] = []
        self._unheard: deque[bytes] = deque(maxlen=MAX_UNHEARD)

    session: Session

    @property
    def listening(self) -> bool:
        """Whether a stream is open."""
        return bool(self._streams)

    def say(self, line: bytes) -> None:
        """A message of no request: on the newest stream, or when one is opened."""
        if self._streams:
            self._streams[-1].event(line)
        else:
            self._unheard.append(line)

    def listen(self, stream: Exchange) -> None:
        """A stream was opened."""
        self._streams.append(stream)
        self.session.hears = True
        while self._unheard:
            stream.event(self._unheard.popleft())

    def unlisten(self, stream: Exchange) -> None:
        """It was closed."""
        if stream in self._streams:
            self._streams.remove(stream)
            self.session.hears = self.listening

    def close(self) -> None:
        """The session ended."""
        for stream in list(self._streams):
            stream.end()


class HttpSessions:
    """All of them, in memory and on disk."""

    def __init__(self, edge: Edge, views: Views, state_dir: Path) -> None:
        self._edge = edge
        self._views = views
        self._path = state_dir / SESSIONS_FILE
        self._db = open_store(self._path, MIGRATIONS)
        # A session lost with the power is opened again by its client: no reason to wait for a disk.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("DELETE FROM sessions WHERE opened < ?", (time.time() - KEEP_SECONDS,))
        self._open: dict[str, HttpSession] = {}
        self._by_name: dict[str, HttpSession] = {}
        """Those that were asked for since they came into memory, by id."""

    def new(self, endpoint: str, shown: str) -> tuple[str, HttpSession]:
        """An id and the place of a session to come; `shown` is how its client says who it is."""
        name = secrets.token_hex(16)
        return name, HttpSession(_sha256(name), endpoint, _holder(name, shown))

    def add(self, held: HttpSession, query: str) -> None:
        """It was opened: note it."""
        session, client = held.session, held.session.client
        origin = client.origin
        with naming_the_cause(self._path):
            self._db.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '[]')",
                (
                    *(held.key, held.endpoint, query, origin.transport, origin.uid, origin.token),
                    *(client.client, client.version, client.capabilities, session.version),
                    *(time.time(), held.holder),
                ),
            )
        self._remember(held)

    def subscribed(self, held: HttpSession) -> None:
        """What it watches changed."""
        uris = json.dumps(sorted(held.session.subscribed))
        with naming_the_cause(self._path):
            self._db.execute(
                "UPDATE sessions SET subscribed = ? WHERE id_sha256 = ?", (uris, held.key)
            )

    def find(self, name: str, endpoint: str, origin: Origin, shown: str) -> HttpSession | None:
        """The session of that id, if it is of this endpoint and whoever asks opened it."""
        held = self._by_name.get(name)
        if held is None or held.shown_as != (name, shown):
            key = _sha256(name)
            held = self._open.get(key) or self._restored(key)
            if held is None or held.holder != _holder(name, shown):
                return None
            self._by_name[name], held.shown_as = held, (name, shown)
        if held.endpoint != endpoint or held.session.client.origin != origin:
            return None
        held.used = time.monotonic()
        return held

    def remove(self, held: HttpSession) -> None:
        """The client ended it."""
        with naming_the_cause(self._path):
            self._db.execute("DELETE FROM sessions WHERE id_sha256 = ?", (held.key,))
        self._forget(held)

    def close(self) -> None:
        """The daemon ends; the sessions stay on disk."""
        for held in list(self._open.values()):
            self._forget(held)
        self._db.close()

    def _restored(self, key: str) -> HttpSession | None:
        with naming_the_cause(self._path):
            row = self._db.execute("SELECT * FROM sessions WHERE id_sha256 = ?", (key,)).fetchone()
        if row is None:
            return None
        view = self._views.resolve(row["endpoint"], row["token"], row["query"])
        if view is None:
            return None
        held = HttpSession(key, row["endpoint"], row["holder"])
        origin = Origin(row["transport"], row["uid"], row["token"])
        client = Asker(origin, row["client"], row["client_version"], bytes(row["capabilities"]))
        held.session = Session(view, client, row["revision"], held.say)
        self._edge.open(held.session)
        if uris := json.loads(row["subscribed"]):
            self._edge.watch_again(held.session, uris)
        self._remember(held)
        return held

    def _remember(self, held: HttpSession) -> None:
        if len(self._open) >= MAX_IN_MEMORY:
            idle = [
                one for one in self._open.values() if not one.listening and not one.session.requests
            ]
            # From memory only: whoever comes back is found on disk.
            for one in sorted(idle, key=lambda one: one.used)[: MAX_IN_MEMORY // 10]:
                self._forget(one)
        held.session.hears = held.listening
        self._open[held.key] = held

    def _forget(self, held: HttpSession) -> None:
        self._open.pop(held.key, None)
        self._by_name.pop(held.shown_as[0], None)
        held.close()
        self._edge.close(held.session)


def _holder(name: str, shown: str) -> str:
    """Tells nothing of the token: it is salted with the session's id, which is not kept."""
    return _sha256(f"{name} {shown}")


def _sha256(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
