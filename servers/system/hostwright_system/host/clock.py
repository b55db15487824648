"""Seconds since 1970 as the suite writes times down: ISO 8601, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime

from hostwright_kit.clock import format_utc


def iso_utc(epoch_seconds: float) -> str:
    """`2026-01-31T23:59:59.123Z`."""
    return format_utc(datetime.fromtimestamp(epoch_seconds, UTC))
