"""Points in time as people and agents write them, made absolute.

ISO 8601, and the relative forms of systemd.time(7). Everything becomes a UTC `datetime` here, so
that what reaches journalctl is `@SECONDS` and never the caller's text. Pure; touches nothing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from hostwright_kit.errors import HostError

MAX_CHARS = 64
_SECONDS = {
    "ms msec": 0.001,
    "s sec second seconds": 1,
    "m min minute minutes": 60,
    "h hr hour hours": 3600,
    "d day days": 86400,
    "w week weeks": 7 * 86400,
    "M month months": 30.44 * 86400,
    "y year years": 365.25 * 86400,
}
UNIT_SECONDS = {name: value for names, value in _SECONDS.items() for name in names.split()}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([A-Za-z]+)\s*", re.ASCII)
_EPOCH = re.compile(r"@(\d{1,11})(?:\.(\d{1,6}))?", re.ASCII)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def parse_when(text: str, name: str, now: datetime | None = None) -> datetime:
    """TEXT as a point in time in UTC; NAME is the parameter that it came in by.

    Accepts ISO 8601 (without an offset it is UTC, like every time in the results), `@SECONDS` since
    the epoch, `now`, `today`, `yesterday` (UTC days), and spans back from now: `-1h30min`,
    `2 hours ago`.
    """
    now = now or datetime.now(UTC)
    value = text.strip()
    try:
        when = _parse(value, now) if len(value) <= MAX_CHARS else None
    except (ValueError, OverflowError):
        when = None
    if when is None or when < EARLIEST:
        raise HostError(
            f"{name}={text[:MAX_CHARS]!r} is not a point in time.",
            fix="Use ISO 8601 (2026-01-31T08:00:00Z; UTC when it has no offset), -1h,"
            " '2 hours ago', now, today, yesterday, or @SECONDS since 1970.",
            code="bad_time",
        )
    return when


def _parse(value: str, now: datetime) -> datetime | None:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if value in words:
        return words[value]
    if match := _EPOCH.fullmatch(value):
        microseconds = int((match[2] or "").ljust(6, "0"))
        return EARLIEST + timedelta(seconds=int(match[1]), microseconds=microseconds)
    if value.startswith("-"):
        return now - _span(value[1:])
    if value.endswith("ago"):
        return now - _span(value.removesuffix("ago"))
    when = datetime.fromisoformat(value)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _span(text: str) -> timedelta:
    text = text.strip()
    position, seconds = 0, 0.0
    while match := _PART.match(text, position):
        seconds += float(match[1]) * UNIT_SECONDS.get(match[2], float("nan"))
        position = match.end()
    if position == 0 or position != len(text):
        raise ValueError(text)
    return timedelta(seconds=seconds)  # a unit that does not exist made it NaN: ValueError


def journalctl_time(when: datetime) -> str:
    """WHEN in the one spelling that needs no time zone and no locale."""
    microseconds = (when - EARLIEST) // timedelta(microseconds=1)
    return f"@{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"


def iso_time(microseconds: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC, always with all six digits."""
    when = EARLIEST + timedelta(microseconds=microseconds)
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
