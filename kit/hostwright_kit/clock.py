"""Times as they are written down: UTC, ISO 8601, milliseconds, `Z`. They sort as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_now() -> str:
    """Now."""
    return format_utc(datetime.now(UTC))


def utc_in(seconds: float) -> str:
    """That many seconds from now."""
    return format_utc(datetime.now(UTC) + timedelta(seconds=seconds))


def format_utc(moment: datetime) -> str:
    """`moment` (aware) in the one format."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
