"""`file_edit`: replace exact pieces of a text file, all or none.

Edits apply in order, each to the result of the one before. A piece must occur exactly once (also
counting overlapping places), unless `replace_all`. Encoding, byte order mark and line ends stay: in
a file whose lines end with CRLF an edit written with LF means CRLF.

Blocking; writes in the roots and in the state folder.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.files.encodings import SAMPLE_BYTES, Encoding, detect, named
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import FileEdited
from hostwright_system.files.places import OpenFile
from hostwright_system.files.reading import read_whole
from hostwright_system.files.space import FileSpace
from hostwright_system.files.writing import (
    MAX_WRITE_BYTES,
    Change,
    apply,
    checked_sha256,
    encoded,
)

DIFF_CHARS = 64 * 1024
# difflib compares every line with every equal one; beyond this a whole block is shown as replaced.
_DIFF_LINES = 20_000
_CONTEXT = 3


class Edit(BaseModel, frozen=True, extra="forbid"):
    """One exact replacement."""

    old_text: str = Field(
        min_length=1, max_length=1_000_000, description="Text as it stands in the file, exactly."
    )
    new_text: str = Field(max_length=1_000_000, description="What takes its place; may be empty.")
    replace_all: bool = Field(default=False, description="Replace every occurrence.")


def file_edit(
    space: FileSpace,
    path: str,
    edits: Sequence[Edit],
    *,
    expected_sha256: str | None = None,
    encoding: str = "auto",
    dry_run: bool = False,
) -> FileEdited:
    """Apply `edits` to `path` and return the unified diff; `dry_run` writes nothing."""
    if not edits:
        raise HostError("There are no edits.", fix="Give at least one.", code="bad_edit")
    expected = checked_sha256(expected_sha256)
    with (
        refusing(path, "edit"),
        space.roots.place(path) as place,
        space.alone_with(place.path),
    ):
        file = space.roots.open_file(place)
        try:
            data = _content(file)
        finally:
            file.close()
        sha256_before = hashlib.sha256(data).hexdigest()
        if expected not in (None, sha256_before):
            raise HostError(
                f"{shown(file.path)} has not the expected content: its SHA-256 is {sha256_before}.",
                fix="Read it again and repeat the edit on what is there now.",
                code="changed",
            )
        known, text = _text(file.path, data, encoding)
        edited, replacements = apply_edits(text, edits)
        changed = known.bom + encoded(edited, known.codec)
        if len(changed) > MAX_WRITE_BYTES:
            raise HostError(
                f"The file would have {len(changed)} bytes; at most {MAX_WRITE_BYTES} are edited.",
                fix="Use shell_exec for a file of this size.",
                code="too_large",
            )
        diff, truncated = unified_diff(text, edited, shown(file.path))
        written = None
        if not dry_run and changed != data:
            # The hash guards against a write between our reading and the replacement.
            change = Change(data=changed, reason="edit", expected_sha256=sha256_before)
            written = apply(space, place, change)
    return FileEdited(
        path=shown(file.path),
        dry_run=dry_run,
        replacements=replacements,
        diff=diff,
        diff_truncated=truncated,
        sha256_before=sha256_before,
        sha256=hashlib.sha256(changed).hexdigest(),
        written=written,
    )


def apply_edits(text: str, edits: Sequence[Edit]) -> tuple[str, int]:
    """(the text after all edits, places changed); `HostError` when one of them does not fit."""
    crlf = "\r\n" in text and "\n" not in text.replace("\r\n", "")
    total = 0
    for number, edit in enumerate(edits, 1):
        old, new = edit.old_text, edit.new_text
        if crlf:
            old, new = _as_crlf(old), _as_crlf(new)
        count = _occurrences(text, old)
        if count == 0:
            raise HostError(
                f"Edit {number}: old_text does not occur: {_excerpt(old)}. Nothing was changed.",
                fix="Copy it from file_read, with its indentation and blanks; each edit sees the"
                " result of those before it.",
                code="no_match",
            )
        if count > 1 and not edit.replace_all:
            raise HostError(
                f"Edit {number}: old_text occurs more than once: {_excerpt(old)}."
                " Nothing was changed.",
                fix="Take in neighbouring lines until it is unique, or set replace_all.",
                code="ambiguous_match",
            )
        total += text.count(old)
        text = text.replace(old, new)
    return text, total


def unified_diff(before: str, after: str, name: str) -> tuple[str, bool]:
    """(the diff with three lines of context, whether it was cut at `DIFF_CHARS`)."""
    if before == after:
        return "", False
    parts, room = list[str](), DIFF_CHARS
    for line in _diff_lines(_lines(before), _lines(after), name):
        if len(line) > room:
            return "".join(parts), True
        parts.append(line)
        room -= len(line)
    return "".join(parts), False


def _diff_lines(old: list[str], new: list[str], name: str) -> Iterator[str]:
    """Only what differs goes through difflib: its cost grows with what it is given."""
    head = 0
    shorter = min(len(old), len(new))
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    skip = max(head - _CONTEXT, 0)
    keep = max(tail - _CONTEXT, 0)
    old, new = old[skip : len(old) - keep], new[skip : len(new) - keep]
    if len(old) + len(new) <= _DIFF_LINES:
        for line in difflib.unified_diff(old, new, f"a{name}", f"b{name}", n=_CONTEXT):
            yield _shifted(line, skip) if line.startswith("@@") else _ended(line)
        return
    yield f"--- a{name}\n"
    yield f"+++ b{name}\n"
    yield f"@@ -{skip + 1},{len(old)} +{skip + 1},{len(new)} @@\n"
    yield from (_ended(f"-{line}") for line in old)
    yield from (_ended(f"+{line}") for line in new)


def _shifted(header: str, by: int) -> str:
    """A hunk header for a file that has `by` more lines above."""
    _, old, new, _ = header.split(" ", 3)
    moved = list[str]()
    for side in (old, new):
        start, comma, length = side[1:].partition(",")
        moved.append(f"{side[0]}{int(start) + by}{comma}{length}")
    return f"@@ {moved[0]} {moved[1]} @@\n"


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    last = lines.pop()
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _as_crlf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", "\r\n")


def _occurrences(text: str, piece: str) -> int:
    """0, 1 or 2 (for more); overlapping places count."""
    first = text.find(piece)
    if first < 0:
        return 0
    return 1 if text.find(piece, first + 1) < 0 else 2


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _content(file: OpenFile) -> bytes:
    data = read_whole(file.fd, MAX_WRITE_BYTES)
    if len(data) > MAX_WRITE_BYTES:
        raise HostError(
            f"{shown(file.path)} is larger than {MAX_WRITE_BYTES} bytes.",
            fix="Use shell_exec for a file of this size.",
            code="too_large",
        )
    return data


def _text(path: str, data: bytes, encoding: str) -> tuple[Encoding, str]:
    """The text, if writing it back unchanged would give the same bytes."""
    if encoding == "auto":
        known = detect(data[:SAMPLE_BYTES], complete=len(data) <= SAMPLE_BYTES)
    else:
        known = named(encoding, data[:SAMPLE_BYTES])
    if known is not None:
        body = data[len(known.bom) :]
        try:
            text = body.decode(known.codec)
            if text.encode(known.codec) == body:
                return known, text
        except UnicodeError:
            pass  # the same answer as for a binary file
    raise HostError(
        f"{shown(path)} cannot be edited as text"
        f"{f' in {known.codec}' if known else ''}: some bytes would not survive.",
        fix="Name the right encoding, or replace the file with file_write and base64.",
        code="not_text",
    )
