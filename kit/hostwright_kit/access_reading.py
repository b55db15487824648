"""Reading the access log, and one list of ledger and access log together, newest first.

Whoever asks what happened sees reads beside acts, as if they were in one place. A page remembers
how far it has come in each: `LEDGER.FILE.OFFSET`, or `LEDGER` when no reads are left. A line of
the access log is named by its file and where it begins, for as long as the file is kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from hostwright_kit.access_log import ACCESS_FOLDER, access_file, access_files
from hostwright_kit.audit import Event, EventFilter, EventPage, list_events, moment_of
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError

READ = "call.read"
CHUNK_BYTES = 256 * 1024
MAX_SCANNED_BYTES = 64 * 1024 * 1024
"""So much of the access log is looked through for one page; its cursor goes on."""
CURSOR_CHARS = 60
_CURSOR = re.compile(r"(\d{1,18})(?:\.(\d{1,12})\.(\d{1,18}))?\Z", re.ASCII)
# A file's time is that of its last line; clocks are set now and then.
_SLACK = timedelta(minutes=5)


class Position(NamedTuple):
    """Still to come: older files, and of this one the lines that begin before `offset`."""

    file: int
    offset: int


class _Line(NamedTuple):
    at: Position
    time: str
    text: bytes


class _Head(msgspec.Struct):
    """What is filtered by."""

    time: str
    type: str = READ
    caller: str | None = None
    server: str | None = None
    tool: str | None = None
    outcome: str | None = None
    in_ledger: bool = False


class _Reads(NamedTuple):
    """Reads that fit, newest first."""

    lines: Sequence[_Line]
    rest: Position | None
    """Where to go on; None when there is nothing older."""
    upto: str
    """Nothing that is still to come is newer than this."""


_head = msgspec.json.Decoder(_Head)
_END = Position(2**39, 2**59)
_NO_MORE = Position(0, 0)


def list_all(
    ledger: Path,
    wanted: EventFilter,
    *,
    reads: bool = True,
    limit: int = 50,
    cursor: str | None = None,
) -> EventPage:
    """A page of the ledger and, with `reads`, of the access log beside it. Blocks on disk."""
    if not reads or not _may_be_read(wanted.type):
        return list_events(ledger, wanted, limit=limit, cursor=cursor)
    at, position = _parsed(cursor)
    found = _reads(ledger.parent / ACCESS_FOLDER, wanted, limit, position)
    page = list_events(ledger, wanted, limit=limit, cursor=at)
    if at is None:
        # What is written between two pages belongs to neither.
        at = str(page.events[0].seq + 1) if page.events else "0"
    events: list[Event] = []
    mine, theirs = list(page.events), list(found.lines)
    while len(events) < limit and (mine or theirs):
        if theirs and not (mine and mine[0].time > theirs[0].time):
            line = theirs.pop(0)
            events.append(_event(line))
            position = line.at
        elif not theirs and found.rest is not None and mine[0].time < found.upto:
            break  # reads that are newer than this entry may be still to come
        else:
            event = mine.pop(0)
            events.append(event)
            at = str(event.seq)
    if not theirs:
        position = found.rest or _NO_MORE
    more = mine or theirs or page.next_cursor or found.rest
    following = at if position == _NO_MORE else f"{at}.{position.file}.{position.offset}"
    return page.model_copy(update={"events": events, "next_cursor": following if more else None})


def _may_be_read(kind: str | None) -> bool:
    return kind in (None, READ) or (str(kind).endswith(".*") and READ.startswith(str(kind)[:-1]))


def _parsed(cursor: str | None) -> tuple[str | None, Position]:
    if cursor is None:
        return None, _END
    if (found := _CURSOR.match(cursor)) is None:
        raise HostError(
            f"The cursor {cursor[:CURSOR_CHARS]!r} is not one of ours.",
            fix="Give back next_cursor of the page before with the same filter, or leave it out.",
            code="bad_cursor",
        )
    return found[1], Position(int(found[2]), int(found[3])) if found[2] else _NO_MORE


def _reads(folder: Path, wanted: EventFilter, limit: int, position: Position) -> _Reads:
    since, until = (moment_of(one) if one else None for one in (wanted.since, wanted.until))
    found: list[_Line] = []
    scanned, upto = 0, ""
    for number in reversed(access_files(folder)):
        if number > position.file:
            continue
        file = access_file(folder, number)
        try:
            if since is not None and _last_written(file) < since:
                break
            end = position.offset if number == position.file else None
            for offset, text in _backwards(file, end):
                scanned += len(text) + 1
                at = Position(number, offset)
                head = _head_of(text)
                if head is None:
                    continue
                upto = head.time
                if _fits(head, wanted, since, until):
                    found.append(_Line(at, head.time, text))
                if len(found) == limit or scanned >= MAX_SCANNED_BYTES:
                    return _Reads(found, at, upto)
        except FileNotFoundError:
            break  # rotated away just now, and what is older with it
    return _Reads(found, None, upto)


def _fits(head: _Head, wanted: EventFilter, since: str | None, until: str | None) -> bool:
    return (
        not head.in_ledger
        and (since is None or head.time >= since)
        and (until is None or head.time < until)
        and all(
            value is None or value == getattr(head, name)
            for name in ("caller", "server", "tool", "outcome")
            for value in (getattr(wanted, name),)
        )
    )


def _head_of(text: bytes) -> _Head | None:
    try:
        return _head.decode(text)
    except msgspec.MsgspecError:
        return None  # cut off by a crash


def _event(line: _Line) -> Event:
    fields = cast("dict[str, Any]", json.loads(line.text))
    fields.pop("in_ledger", None)
    return Event.model_validate({**fields, "id": f"read-{line.at.file}-{line.at.offset}"})


def _last_written(file: Path) -> str:
    return format_utc(datetime.fromtimestamp(file.stat().st_mtime, UTC) + _SLACK)


def _backwards(file: Path, end: int | None) -> Generator[tuple[int, bytes]]:
    """Whole lines before `end`, where one begins, the last one first, each with where it begins."""
    with file.open("rb") as opened:
        at = opened.seek(0, os.SEEK_END) if end is None else end
        later = b""
        while at > 0:
            size = min(CHUNK_BYTES, at)
            at -= size
            opened.seek(at)
            # What is behind the last line break is being written, or was never finished.
            *lines, _ = (opened.read(size) + later).split(b"\n")
            begins = list(accumulate((len(line) + 1 for line in lines), initial=at))
            # The first of them may begin further ahead.
            first = 0 if at == 0 else 1
            for number in range(len(lines) - 1, first - 1, -1):
                yield begins[number], lines[number]
            later = lines[0] + b"\n" if lines else b""
