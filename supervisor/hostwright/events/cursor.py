"""A cursor: up to where somebody has read, in words that outlive the daemon.

`EPOCH-SEQUENCE-LEDGER`, three numbers. The epoch is the daemon that spoke (its start in
milliseconds), the sequence is the event's number in its memory, and the ledger number is the last
entry up to which every durable event was delivered. A later daemon has another epoch and knows
from that alone that the sequence means nothing to it, while the ledger number still holds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hostwright_kit.errors import HostError

_FORM = re.compile(r"(\d{1,16})-(\d{1,18})-(\d{1,18})\Z", re.ASCII)


class Cursor(NamedTuple):
    """Where a reader stands."""

    epoch: int
    sequence: int
    ledger: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}-{self.ledger}"


def parse_cursor(text: str) -> Cursor:
    """The cursor that was sent with an event."""
    if (found := _FORM.match(text)) is None:
        raise HostError(
            f"The cursor {text[:60]!r} is not one of ours.",
            fix="Give the id of the last event unchanged, or `now`, or `recent`.",
            code="bad_cursor",
        )
    return Cursor(*(int(part) for part in found.groups()))
