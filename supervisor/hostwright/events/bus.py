"""The bus: whoever has something to tell emits it, whoever listens reads at its own pace.

    events = Events(ledger)
    events.emit("request.accepted", id="7", server="system", tool="files_read", caller="claude")
    async with events.listen(Filter(), Start.NOW) as reader:
        while sent := await reader.take(): …
        await events.changed()

Emitting takes microseconds and never fails. Durable events go through the ledger: `emit` writes
what servers do there, and a follower reads there what any process of the installation has written
(an approval is asked for in a server's process and granted in a terminal's). It runs only while
somebody listens; who comes later gets what happened meanwhile from the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from hostwright.events.cursor import Cursor
from hostwright.events.filters import Filter
from hostwright.events.history import PAGE, History
from hostwright.events.kinds import DURABLE, EPHEMERAL, FIELDS, GAP, Scalar, keep
from hostwright.events.ring import MAX_BYTES, MAX_EVENTS, Gap, Position, Replay, Ring
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger, Receipt
from hostwright_kit.redact import redact_text

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
MAX_LISTENERS = 256
BATCH = 256
RECENT = 100
AT_ONCE = 100


class Start(Enum):
    """Where to begin without a cursor."""

    NOW = auto()
    RECENT = auto()
    """The last durable events, and all others that are in memory."""


Sent = tuple[Cursor, bytes]
"""An event on its way to a reader: where one is after it, and its JSON."""


class Events:
    """The bus of one daemon. Belongs to the event loop; only the ledger's thread is another."""

    def __init__(
        self, ledger: Ledger, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.epoch = time.time_ns() // 1_000_000
        self._ring = Ring(max_events=max_events, max_bytes=max_bytes)
        self._fresh: list[tuple[float, str, dict[str, Any]]] = []
        """Events of calls that nobody has asked for yet. Two for every call: many at a time are
        taken in for a fraction of what they cost one by one."""
        self.history = History(ledger.path)
        self.closed = False
        self.readers = 0
        self.read_upto = 0
        """Every durable event up to this ledger number is in the ring or below its floor."""
        self._ledger = ledger
        self._changed: asyncio.Future[None] | None = None
        self._look = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._strange: set[str] = set()

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Tell it to whoever listens; a durable one to the ledger as well. Never raises."""
        if kind in EPHEMERAL:
            self._fresh.append((time.time(), kind, fields))
            if len(self._fresh) >= AT_ONCE or not (self._changed is None or self._changed.done()):
                self._take_in()
                self._wake()
        elif kind not in FIELDS:
            if kind not in self._strange and len(self._strange) < 100:
                self._strange.add(kind)
                logger.warning("An event of the unknown kind %.80r was dropped.", kind)
        elif kind.startswith("server."):
            self._record(kind, fields)
        elif kind in DURABLE:
            # Whoever decides or signs puts that into the ledger; it is on its way from there.
            self._look.set()

    @property
    def ring(self) -> Ring:
        """What happened."""
        if self._fresh:
            self._take_in()
        return self._ring

    def _take_in(self) -> None:
        fresh, self._fresh = self._fresh, []
        for at, kind, fields in fresh:
            kept, size = keep(kind, fields)
            self._ring.append(at, kind, kept, size=size)

    def changed(self) -> asyncio.Future[None]:
        """Done when there is something new to `take`, or the bus is closed."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
            if self.closed:
                self._changed.set_result(None)
        return self._changed

    def close(self) -> None:
        """Let all readers go. Durable events still reach the ledger."""
        self.closed = True
        self._wake()

    @asynccontextmanager
    async def listen(self, wanted: Filter, start: Start | Cursor) -> AsyncGenerator[Reader]:
        """A reader from `start` on."""
        if self.readers >= MAX_LISTENERS:
            raise HostError(
                f"{MAX_LISTENERS} clients listen to events already.",
                fix="End some of them, or let one of them pass its events on.",
                code="busy",
            )
        self.readers += 1
        try:
            async with self._joining:
                if self._following is None:
                    await self._begin()
            yield await Reader.start(self, wanted, start)
        finally:
            self.readers -= 1
            if self.readers == 0 and self._following is not None:
                self._following.cancel()
                self._following = None
                asyncio.get_running_loop().run_in_executor(None, self.history.close)

    # -- the ledger ------------------------------------------------------------------------------

    def _record(self, kind: str, fields: dict[str, Any]) -> None:
        columns = {name: fields.pop(name, None) for name in ("caller", "server", "tool")}
        columns["caller"] = columns["caller"] or "supervisor"
        detail = {name: value for name, value in fields.items() if value is not None}
        loop = asyncio.get_running_loop()

        def recorded(done: Future[Receipt]) -> None:
            problem = done.exception()
            # The loop may be gone when the ledger's thread writes the last entries.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._recorded, kind, {**columns, **detail}, problem)

        try:
            future = self._ledger.submit(Entry(type=kind, detail=detail, **columns))
        except HostError as error:
            self._recorded(kind, {**columns, **detail}, error)
        else:
            future.add_done_callback(recorded)

    def _recorded(self, kind: str, fields: dict[str, Any], problem: BaseException | None) -> None:
        if problem is None:
            self._look.set()
            return
        # Not on record, and known all the same to whoever listens now.
        self._ledger.remember_loss(str(problem))
        kept, size = keep(kind, fields)
        self.ring.append(time.time(), kind, kept, size=size)
        self._wake()

    async def _begin(self) -> None:
        """The first listener has come."""
        self.read_upto = await asyncio.to_thread(self.history.head)
        self.ring.skip_to(self.read_upto)
        self._following = asyncio.create_task(self._follow(), name="events from the ledger")

    async def _follow(self) -> None:
        failed = False
        while True:
            try:
                found = await asyncio.to_thread(self.history.new, self.read_upto)
                failed = False
            except HostError as error:
                found = ()
                if not failed:
                    logger.warning("Events cannot be read from the ledger: %s", error)
                failed = True
            for one in found:
                self.ring.append(one.at, one.kind, one.fields, size=one.size, ledger=one.ledger)
                self.read_upto = one.ledger
            if found:
                self._wake()
            if len(found) < PAGE:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._look.wait()
                self._look.clear()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


class Reader:
    """One listener. Holds a position and nothing else."""

    def __init__(self, events: Events, wanted: Filter, at: Position) -> None:
        self._events = events
        self._wanted = wanted
        self._at = at
        self._gap: tuple[str, int | None] | None = None

    @classmethod
    async def start(cls, events: Events, wanted: Filter, start: Start | Cursor) -> Reader:
        """Find the position, and whether anything between it and the past is missing."""
        ring = events.ring
        if isinstance(start, Cursor):
            sequence, ledger, reason = start.sequence, start.ledger, None
            if start.epoch != events.epoch or sequence > ring.last:
                sequence, reason = ring.before, None if wanted.only_durable else "restart"
            if ledger > events.read_upto:
                # Not the ledger that it was read from; where the reader is in this one, nobody
                # knows.
                ledger, reason = events.read_upto, "ledger"
            reader = cls(events, wanted, Position(sequence, ledger))
            reader._gap = (reason, None) if reason else None
            return reader
        if start is Start.NOW:
            return cls(events, wanted, Position(ring.last, events.read_upto))
        ledger = await asyncio.to_thread(events.history.back, RECENT)
        return cls(events, wanted, Position(ring.before, ledger))

    @property
    def cursor(self) -> Cursor:
        """Where it is."""
        return Cursor(self._events.epoch, *self._at)

    async def take(self) -> list[Sent]:
        """The next events that are wanted; empty when there are none yet."""
        sent: list[Sent] = []
        while not sent:
            if self._gap is not None:
                reason, lost = self._gap
                self._gap = None
                return [self._send_gap(reason, lost)]
            step = self._events.ring.step(self._at, BATCH)
            if isinstance(step, Gap):
                self._at = step.after
                if not self._wanted.only_durable:
                    sent.append(self._send_gap("overrun", step.lost))
            elif isinstance(step, Replay):
                sent = await self._replay(step)
            elif step.after == self._at:
                break
            else:
                for item, after in step.items:
                    if self._wanted.matches(item.kind, item.fields):
                        if item.body is None:
                            item.body = encode(item.kind, item.at, item.fields)
                        sent.append((Cursor(self._events.epoch, *after), item.body))
                self._at = step.after
        return sent

    async def _replay(self, step: Replay) -> list[Sent]:
        if not self._wanted.wants_durable:
            self._at = step.after(step.upto)
            return []
        history = self._events.history
        try:
            found = await asyncio.to_thread(history.between, step.above, step.upto)
        except HostError as error:
            logger.warning("Events cannot be replayed from the ledger: %s", error)
            self._at = step.after(step.upto)
            return [self._send_gap("ledger", None)]
        sent: list[Sent] = []
        for one in found:
            if self._wanted.matches(one.kind, one.fields):
                cursor = Cursor(self._events.epoch, *step.after(one.ledger))
                sent.append((cursor, encode(one.kind, one.at, one.fields)))
        self._at = step.after(found[-1].ledger if len(found) == PAGE else step.upto)
        return sent

    def _send_gap(self, reason: str, lost: int | None) -> Sent:
        fields: dict[str, Scalar] = {"reason": reason}
        if lost is not None:
            fields["lost"] = lost
        return self.cursor, encode(GAP, time.time(), fields)


def encode(kind: str, at: float, fields: dict[str, Scalar] | Any) -> bytes:
    """An event as JSON. Free text passes the net for secrets once more on its way out."""
    clean = {
        name: redact_text(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    when = format_utc(datetime.fromtimestamp(at, UTC))
    return json.dumps({"kind": kind, "at": when, **clean}, separators=(",", ":")).encode()


def take_all(sent: Sequence[Sent]) -> bytes:
    """These events as server-sent events."""
    return b"".join(
        b"id: %s\nevent: %s\ndata: %s\n\n" % (str(cursor).encode(), _kind(body), body)
        for cursor, body in sent
    )


def _kind(body: bytes) -> bytes:
    return body[9 : body.index(b'"', 9)]
