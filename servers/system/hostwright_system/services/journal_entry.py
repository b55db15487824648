"""One line of `journalctl -o json` as a typed entry.

The format is systemd's Journal JSON format (https://systemd.io/JOURNAL_EXPORT_FORMATS/): a field is
a string, null when it was left out, an array of numbers when it is not printable UTF-8, or an array
of those when the entry has the field several times. Pure; touches nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from .journal_time import iso_time

PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
MESSAGE_MAX_CHARS = 8_000
# A secret that this cut splits is far behind what is shown.
_REDACTED_MAX_CHARS = 64_000
FIELDS = (
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "_COMM",
    "_PID",
    "_UID",
    "_SYSTEMD_UNIT",
    "_SYSTEMD_USER_UNIT",
    "UNIT",
    "USER_UNIT",
)
_CURSOR = re.compile(rb'"__CURSOR"\s*:\s*"([^"\\]+)"')
_TIMESTAMP = re.compile(rb'"__REALTIME_TIMESTAMP"\s*:\s*"(\d+)"')

Redact = Callable[[str], str]


class JournalEntry(BaseModel, frozen=True):
    """One journal entry."""

    time: str = Field(description="When journald received it: ISO 8601, UTC, microseconds")
    unit: str | None = Field(description="Unit that it is from, or that systemd says it is about")
    pid: int | None = Field(description="Process that logged it")
    identifier: str | None = Field(description="Syslog identifier, or else the command's name")
    priority: (
        Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"] | None
    ) = Field(description="Syslog priority; None when the entry has none")
    message: str = Field(
        description="Text, secrets redacted; bytes that are not UTF-8 appear as \\xNN"
    )
    message_truncated: bool = Field(description=f"Cut at {MESSAGE_MAX_CHARS} characters")
    cursor: str = Field(description="Position of this entry in the journal")


def parse_entry(line: bytes, redact: Redact) -> JournalEntry:
    """LINE as an entry; raises ValueError when it is not one."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not an object")  # noqa: TRY004 (one kind of error for every bad line)
    record = cast("dict[str, Any]", fields)
    message = redact(_text(record.get("MESSAGE"))[:_REDACTED_MAX_CHARS])
    priority = _number(record.get("PRIORITY"))
    known = priority is not None and priority < len(PRIORITIES)
    cursor, received = record.get("__CURSOR"), _number(record.get("__REALTIME_TIMESTAMP"))
    if not isinstance(cursor, str) or received is None:
        raise ValueError("no cursor or no time")
    return JournalEntry(
        time=iso_time(received),
        unit=_unit(record),
        pid=_number(record.get("_PID")),
        identifier=_text(record.get("SYSLOG_IDENTIFIER") or record.get("_COMM")) or None,
        priority=cast("Any", PRIORITIES[priority] if known and priority is not None else None),
        message=message[:MESSAGE_MAX_CHARS],
        message_truncated=len(message) > MESSAGE_MAX_CHARS,
        cursor=cursor,
    )


def oversized_entry(ends: bytes, size_bytes: int) -> JournalEntry:
    """The entry that stands for a line of SIZE_BYTES, too long to be read.

    ENDS is its beginning and its end: the position and the time are there, on either side of the
    one long field, so that paging goes on behind it. No text can pose as them, since the quotation
    marks inside a JSON string are escaped.
    """
    cursor, received = _CURSOR.search(ends), _TIMESTAMP.search(ends)
    if cursor is None or received is None:
        raise ValueError("no cursor or no time")
    return JournalEntry(
        time=iso_time(int(received[1])),
        unit=None,
        pid=None,
        identifier=None,
        priority=None,
        message=f"[left out: an entry of {size_bytes} bytes]",
        message_truncated=True,
        cursor=cursor[1].decode(),
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    items = cast("list[Any]", value)
    if items and all(isinstance(item, int) and 0 <= item <= 255 for item in items):
        return bytes(items).decode(errors="backslashreplace")
    return "\n".join(_text(item) for item in items)


def _number(value: Any) -> int | None:
    text = _text(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 17 else None


def _unit(record: dict[str, Any]) -> str | None:
    # Only a service manager's own word about another unit counts: anyone can set these fields.
    if record.get("UNIT") and _number(record.get("_PID")) == 1:
        return _text(record["UNIT"])
    manager = f"user@{_text(record.get('_UID'))}.service"
    if record.get("USER_UNIT") and (
        record.get("_SYSTEMD_USER_UNIT") == "init.scope" or record.get("_SYSTEMD_UNIT") == manager
    ):
        return _text(record["USER_UNIT"])
    return _text(record.get("_SYSTEMD_USER_UNIT") or record.get("_SYSTEMD_UNIT")) or None
