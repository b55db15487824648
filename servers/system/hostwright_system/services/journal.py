"""Read the systemd journal, page by page.

Runs `journalctl -o json` (journalctl(1)) as a child with a fixed environment, reads just the lines
that a page needs, and ends it. Values never become options: each is validated first and passed as
`--option=value`. True asyncio; reads only. Time, bytes and entries are bounded, and a page says
which bound ended it.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError

from .bus import Scope
from .journal_entry import (
    FIELDS,
    PRIORITIES,
    JournalEntry,
    Redact,
    oversized_entry,
    parse_entry,
)
from .journal_time import journalctl_time, parse_when
from .journalctl import (
    LINE_MAX_BYTES,
    Journal,
    child,
    head,
    journalctl,
    lines,
    no_journal,
)
from .names import close_names, unit_pattern

MAX_LIMIT = 1_000
PAGE_MAX_CHARS = 256_000
TIMEOUT_S = 20.0
GREP_MAX_CHARS = 500

Direction = Literal["backward", "forward"]

_ALIASES = {"error": "err", "warn": "warning", "critical": "crit", "emergency": "emerg"}
_CURSOR = re.compile(r"[a-z]=[0-9a-f]{1,32}(?:;[a-z]=[0-9a-f]{1,32}){1,9}")
_BOOT = re.compile(r"-?\d{1,4}|[0-9a-f]{32}(?:[+-]\d{1,4})?")


class JournalPage(BaseModel, frozen=True):
    """One page of journal entries."""

    entries: tuple[JournalEntry, ...]
    direction: Direction = Field(description="backward = newest first, forward = oldest first")
    truncated: bool = Field(description="More entries may follow in this direction")
    truncated_by: Literal["limit", "size", "time"] | None = Field(
        description="The bound that ended the page"
    )
    next_cursor: str | None = Field(description="Pass as cursor, with the same filters, to go on")
    notes: tuple[str, ...] = Field(description="What the reader should know about this answer")


@dataclass(frozen=True)
class _Query:
    """A validated request."""

    options: list[str]
    since: datetime | None
    until: datetime | None
    cursor: str | None
    direction: Direction
    limit: int


async def journal_logs(
    unit: str | None = None,
    *,
    priority: str | int | None = None,
    since: str | None = None,
    until: str | None = None,
    grep: str | None = None,
    boot: str | int | None = None,
    limit: int = 100,
    cursor: str | None = None,
    direction: Direction = "backward",
    scope: Scope = "system",
    journal: Journal,
) -> JournalPage:
    """Entries that match every filter given, newest first unless DIRECTION is forward.

    UNIT may be a glob. PRIORITY (a name or 0-7) also takes in all that is more important. GREP is a
    PCRE2 pattern over messages; it ignores case unless it has an upper-case letter. BOOT is 0 for
    the current boot, -1 for the one before, or a boot id. SINCE and UNTIL are as `parse_when` says.
    """
    program = journalctl()
    place = journal.options()
    options = _filters(unit, priority, boot, scope)
    if grep is not None:
        options.append(await _grep(grep, program))
    start = parse_when(since, "since") if since is not None else None
    end = parse_when(until, "until") if until is not None else None
    if start and end and start > end:
        raise HostError(
            f"since={since!r} is later than until={until!r}.", fix="Swap them.", code="bad_time"
        )
    if not 1 <= limit <= MAX_LIMIT:
        raise HostError(
            f"limit={limit} is out of range.", fix=f"Use 1 to {MAX_LIMIT}.", code="bad_limit"
        )
    if cursor is not None and (len(cursor) > 400 or not _CURSOR.fullmatch(cursor)):
        raise HostError(
            f"cursor={cursor[:100]!r} is not a position in the journal.",
            fix="Pass a cursor or next_cursor exactly as an earlier result gave it.",
            code="bad_cursor",
        )
    query = _Query(place + options, start, end, cursor, direction, limit)
    page = await _read_page(program, query, journal.redact)
    if cursor is not None:
        return page
    notes = list(page.notes)
    if not page.entries or os.geteuid() != 0:
        notes += await _access_notes(program, place)
    if not page.entries and unit is not None:
        notes += await _unknown_unit(program, place, unit, scope)
    return page.model_copy(update={"notes": tuple(notes)})


def _filters(
    unit: str | None, priority: str | int | None, boot: str | int | None, scope: Scope
) -> list[str]:
    options: list[str] = []
    if unit is not None:
        option = "--unit" if scope == "system" else "--user-unit"
        options.append(f"{option}={unit_pattern(unit)}")
    if priority is not None:
        options.append(f"--priority={_priority(priority)}")
    if boot is not None:
        if not _BOOT.fullmatch(str(boot)):
            raise HostError(
                f"boot={boot!r} names no boot.",
                fix="Use 0 for the current boot, -1 for the one before, or a boot id (32 hex).",
                code="bad_boot",
            )
        options.append(f"--boot={boot}")
    return options


def _priority(priority: str | int) -> int:
    word = str(priority).strip().lower()
    word = _ALIASES.get(word, word)
    if word in PRIORITIES:
        return PRIORITIES.index(word)
    if word in {"0", "1", "2", "3", "4", "5", "6", "7"}:
        return int(word)
    raise HostError(
        f"priority={priority!r} is not a syslog priority.",
        fix=f"Use one of {', '.join(PRIORITIES)}, or 0 to 7.",
        code="bad_priority",
    )


async def _grep(pattern: str, program: str) -> str:
    if not pattern or len(pattern) > GREP_MAX_CHARS or "\0" in pattern:
        raise HostError(
            f"grep must have 1 to {GREP_MAX_CHARS} characters and no NUL.",
            fix="Shorten the pattern.",
            code="bad_pattern",
        )
    version, _ = await _output(program, "--version")
    if b"+PCRE2" not in version:
        raise HostError(
            "This journalctl was built without PCRE2 and cannot search by pattern.",
            fix="Leave grep out and filter by unit, priority and time.",
            code="unsupported",
        )
    return f"--grep={pattern}"


def _argv(program: str, query: _Query) -> list[str]:
    argv = [program, "--no-pager", "--output=json", "--all"]
    argv += [f"--output-fields={','.join(FIELDS)}", *query.options]
    if query.direction == "backward":
        argv.append("--reverse")
    # journalctl takes a cursor or a time to begin at, not both; `_outside` holds the rest. The
    # cursor's own entry is read and dropped: a rotated one would make --after-cursor lose another.
    begin, end = query.since, query.until
    if query.cursor is not None:
        argv.append(f"--cursor={query.cursor}")
        begin = None
        end = end if query.direction == "forward" else None
    if begin is not None:
        argv.append(f"--since={journalctl_time(begin)}")
    if end is not None:
        argv.append(f"--until={journalctl_time(end)}")
    return argv


def _outside(time: str, query: _Query) -> Literal["before", "beyond"] | None:
    """Where TIME lies against the range asked for, in reading direction."""
    when = datetime.fromisoformat(time)
    if query.since and when < query.since:
        return "before" if query.direction == "forward" else "beyond"
    if query.until and when > query.until:
        return "beyond" if query.direction == "forward" else "before"
    return None


class _Page:
    """Collects entries until a bound is reached; `add` says whether it wants more."""

    def __init__(self, query: _Query, redact: Redact) -> None:
        self.query, self.redact = query, redact
        self.entries: list[JournalEntry] = []
        self.chars = 0
        self.truncated_by: Literal["limit", "size", "time"] | None = None
        self.unreadable_count = 0

    def add(self, line: bytes, size: int) -> bool:
        try:
            if size > LINE_MAX_BYTES:
                entry = oversized_entry(line, size)
            else:
                entry = parse_entry(line, self.redact)
        except ValueError:
            self.unreadable_count += 1
            return True
        place = _outside(entry.time, self.query)
        if entry.cursor == self.query.cursor or place == "before":
            return True
        if place == "beyond":
            return False
        if len(self.entries) >= self.query.limit:
            self.truncated_by = "limit"
            return False
        if self.entries and self.chars + len(entry.message) > PAGE_MAX_CHARS:
            self.truncated_by = "size"
            return False
        self.entries.append(entry)
        self.chars += len(entry.message)
        return True


async def _read_page(program: str, query: _Query, redact: Redact) -> JournalPage:
    page = _Page(query, redact)
    complaints = b""
    ended = False
    async with child(_argv(program, query)) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 (PIPE)
        errors = asyncio.create_task(head(process.stderr, 8_192))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async for line, size in lines(process.stdout):
                    if not page.add(line, size):
                        break
                else:
                    complaints = await errors
                    ended = await process.wait() != 0
        except TimeoutError:
            page.truncated_by = "time"
        finally:
            errors.cancel()
    if page.truncated_by == "time" and not page.entries:
        raise HostError(
            f"No entry matched within {TIMEOUT_S:g} s of searching.",
            fix="Narrow the search with unit, since, until or boot.",
            code="timeout",
        )
    notes = _notes(complaints.decode(errors="replace"), page, redact, failed=ended)
    return JournalPage(
        entries=tuple(page.entries),
        direction=query.direction,
        truncated=page.truncated_by is not None,
        truncated_by=page.truncated_by,
        next_cursor=page.entries[-1].cursor if page.truncated_by else None,
        notes=notes,
    )


def _notes(complaints: str, page: _Page, redact: Redact, *, failed: bool) -> tuple[str, ...]:
    """What journalctl said besides the entries; raises when it means that it could not read."""
    text = " ".join(redact(complaints).split())[:500]
    _require_readable(text)
    if failed and text and not page.entries:
        if "pattern" in text.lower():
            raise HostError(
                f"grep is not a valid PCRE2 pattern: {text}",
                fix="Correct the pattern, or put \\Q and \\E around text that is meant literally.",
                code="bad_pattern",
            )
        if "boot" in text.lower():
            raise HostError(
                f"There is no such boot in the journal: {text}",
                fix="Use 0, or leave boot out and use since and until.",
                code="not_found",
            )
        raise HostError(
            f"journalctl failed: {text}",
            fix="Run `journalctl --verify` to look for damage.",
        )
    notes = [text] if text else []
    if page.unreadable_count:
        notes.append(f"{page.unreadable_count} entries could not be decoded and are left out.")
    return tuple(notes)


async def _output(*argv: str) -> tuple[bytes, bytes]:
    """The beginning of what a child writes to both its outputs, within the time that a page has."""
    async with child(argv) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 (PIPE)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.gather(
                    head(process.stdout, 1 << 20), head(process.stderr, 8_192)
                )
        except TimeoutError:
            raise HostError(
                f"journalctl gave no answer within {TIMEOUT_S:g} s.",
                fix="The journal is very large or its disk very slow; narrow the search.",
                code="timeout",
            ) from None


async def _access_notes(program: str, place: list[str]) -> list[str]:
    """What journalctl says about access, which it keeps to itself while it writes JSON."""
    _, complaints = await _output(program, "--no-pager", "--header", *place)
    text = " ".join(complaints.decode(errors="replace").split())[:500]
    _require_readable(text)
    return [text] if text else []


def _require_readable(complaints: str) -> None:
    if "No journal files were" in complaints:  # "… found", or "… opened" for want of permission
        raise no_journal(f"There is no journal to read: {complaints}")


async def _unknown_unit(program: str, place: list[str], unit: str, scope: Scope) -> list[str]:
    """A note when the journal never saw UNIT: then an empty page does not mean a quiet unit."""
    pattern = unit_pattern(unit)
    if any(character in pattern for character in "*?["):
        return []
    seen: set[str] = set()
    fields = ("_SYSTEMD_UNIT", "UNIT") if scope == "system" else ("_SYSTEMD_USER_UNIT", "USER_UNIT")
    for field in fields:
        try:
            names, _ = await _output(program, "--no-pager", *place, f"--field={field}")
        except HostError:
            return []  # too slow to find out: the page is right without the hint
        seen.update(names.decode(errors="replace").split("\n"))
    if pattern in seen:
        return []
    close = close_names(pattern, seen)
    hint = f"; close names: {', '.join(close)}" if close else ""
    return [f"The journal holds no entry of {pattern} at all{hint}."]


async def last_entries(
    unit: str, *, count: int, journal: Journal, scope: Scope, since: datetime | None = None
) -> tuple[JournalEntry, ...]:
    """The newest COUNT entries of UNIT, oldest first, as a person reads a log."""
    program, place = journalctl(), journal.options()
    options = [*place, *_filters(unit, None, None, scope)]
    query = _Query(options, since, None, None, "backward", count)
    page = await _read_page(program, query, journal.redact)
    if not page.entries:
        await _access_notes(program, place)  # raises where there is no journal at all
    return tuple(reversed(page.entries))


def log_line(entry: JournalEntry) -> str:
    """One entry as one short line for a message to people and agents."""
    return f"{entry.time[11:23]} {entry.identifier or '?'}: {entry.message[:300]}"
