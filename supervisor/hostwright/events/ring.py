"""The daemon's memory of events, and what a reader at some position is to be given next.

Plain data, no clock and no loop. The ring holds the last events, numbered from 1 in this epoch. A
durable event carries the number of its ledger entry, and durable events stand in the order of the
ledger. `floor` is the ledger number up to which durable events are to be had from the ledger and
not from the ring: they were thrown out of it, or happened while nobody listened and were never
in it.

A reader stands at a `Position` (up to which number it has read, up to which ledger entry it has
every durable event) and asks for the next `Step`:

1. events behind it were thrown out: a `Gap`, and on from the oldest that is kept;
2. it is below the floor: `Replay` these entries from the ledger;
3. else the ring's events after it, without durable ones that it has from the ledger already.

Nothing is kept per reader, so one that is slow, or comes back, costs no memory and is told what
it missed by the same three rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hostwright.events.kinds import Scalar

MAX_EVENTS = 4_000
MAX_BYTES = 2 * 1024 * 1024
ITEM_BYTES = 300
"""What an event takes beside its fields."""


class Item:
    """One event in memory."""

    __slots__ = ("at", "body", "fields", "kind", "ledger", "sequence", "size")

    def __init__(
        self, sequence: int, at: float, kind: str, fields: Mapping[str, Scalar], ledger: int
    ) -> None:
        self.sequence = sequence
        self.at = at
        self.kind = kind
        self.fields = fields
        self.ledger = ledger
        """Number of its ledger entry; 0: it has none."""
        self.size = 0
        self.body: bytes | None = None
        """As it is sent, made when the first reader wants it."""


class Position(NamedTuple):
    """How far a reader is."""

    sequence: int
    ledger: int


class Gap(NamedTuple):
    """So many events are gone; go on from there."""

    lost: int
    after: Position


class Replay(NamedTuple):
    """Durable events with a ledger number above `above`, up to and including `upto`."""

    above: int
    upto: int
    sequence: int

    def after(self, ledger: int) -> Position:
        """Where a reader is that has these up to `ledger`."""
        return Position(self.sequence, ledger)


class Found(NamedTuple):
    """Events, and where one is after the last of them."""

    items: Sequence[tuple[Item, Position]]
    after: Position


Step = Gap | Replay | Found


class Ring:
    """The last events."""

    def __init__(self, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[Item] = deque()
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.bytes = 0
        self.last = 0
        """The number of the newest event."""
        self.floor = 0

    @property
    def before(self) -> int:
        """The number before the oldest event that is kept."""
        return self.last - len(self._items)

    def append(
        self,
        at: float,
        kind: str,
        fields: Mapping[str, Scalar],
        *,
        size: int = 0,
        ledger: int = 0,
    ) -> None:
        """Add an event, and forget old ones that no longer fit."""
        self.last += 1
        item = Item(self.last, at, kind, fields, ledger)
        item.size = ITEM_BYTES + size
        items = self._items
        items.append(item)
        self.bytes += item.size
        while len(items) > self._max_events or self.bytes > self._max_bytes:
            old = items.popleft()
            self.bytes -= old.size
            self.floor = max(self.floor, old.ledger)

    def skip_to(self, ledger: int) -> None:
        """Durable events up to here are in the ledger and will not be appended."""
        self.floor = max(self.floor, ledger)

    def step(self, at: Position, limit: int) -> Step:
        """What a reader at `at` is to be given next."""
        before = self.before
        if at.sequence < before:
            return Gap(before - at.sequence, Position(before, at.ledger))
        if at.ledger < self.floor:
            return Replay(at.ledger, self.floor, at.sequence)
        found: list[tuple[Item, Position]] = []
        end = min(self.last, at.sequence + limit)
        for sequence in range(at.sequence + 1, end + 1):
            item = self._items[sequence - before - 1]
            if item.ledger and item.ledger <= at.ledger:
                at = Position(sequence, at.ledger)
                continue
            at = Position(sequence, max(at.ledger, item.ledger))
            found.append((item, at))
        return Found(found, at)
