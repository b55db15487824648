"""Log messages of servers (`notifications/message`), and who hears them.

In the handshake era a session sets a level and hears everything from it on. In the new era each
request says a level of its own, and hears what is logged while it runs. A server of the handshake
era that many share knows one level for all: the lowest that a session set.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Raw

from hostwright.gateway import codec

LOG_META = "io.modelcontextprotocol/logLevel"
MESSAGE = "notifications/message"
SET_LEVEL = "logging/setLevel"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_RANKS = {level: rank for rank, level in enumerate(LEVELS)}


def lowest(levels: Iterable[str | None]) -> str | None:
    """The one that lets the most through; None when there is none."""
    return min(
        (level for level in levels if level is not None), key=_RANKS.__getitem__, default=None
    )


def is_wanted(params: Raw, level: str | None) -> bool:
    """Whether who set this level hears that message; one of no level is no log message."""
    if level is None or codec.first(params) != b"{":
        return False
    rank = _RANKS.get(codec.text(codec.fields(params).get("level")) or "")
    return rank is not None and rank >= _RANKS[level]


def line(params: Raw) -> bytes:
    """The message for a client."""
    return codec.notice(MESSAGE, bytes(params))
