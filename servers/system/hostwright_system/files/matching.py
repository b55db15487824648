"""Finding a pattern in the bytes of one file, line by line.

RE2 (google-re2) does the matching: its time grows linearly with the text whatever the pattern, and
it releases the interpreter lock, so no pattern can hang the server. The price is its syntax
(https://github.com/google/re2/wiki/Syntax): no look-around, no back-references.
"""

from __future__ import annotations

import bisect
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import re2  # pyright: ignore[reportMissingTypeStubs]  (the package has no types)

from hostwright_kit.errors import HostError

Case = Literal["sensitive", "insensitive", "smart"]

MAX_PATTERN_CHARS = 1_000
LINE_CHARS = 500
_BINARY_PROBE = 8 * 1024
# \S or \p{Lu} are no capital letters of the text searched for.
_ESCAPES = re.compile(r"\\(?:[pP]\{[^}]*\}|.)")
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class LineMatch:
    """One matching line of a text."""

    line: int
    column: int
    text: str
    text_cut: bool
    before: tuple[str, ...]
    after: tuple[str, ...]


class Pattern:
    """A compiled pattern."""

    def __init__(self, pattern: str, *, literal: bool, case: Case) -> None:
        if not pattern or len(pattern) > MAX_PATTERN_CHARS:
            raise HostError(
                f"The pattern has {len(pattern)} characters.",
                fix=f"Use 1 to {MAX_PATTERN_CHARS}.",
                code="bad_pattern",
            )
        if "\n" in pattern:
            raise HostError(
                "The pattern spans lines.",
                fix="Search for one line at a time, with context_lines for those around it.",
                code="bad_pattern",
            )
        options: Any = re2.Options()
        options.never_nl = True  # a match stays within its line
        options.log_errors = False
        options.case_sensitive = case == "sensitive" or (
            case == "smart" and (letters := _ESCAPES.sub("", pattern)) != letters.lower()
        )
        source = re2.escape(pattern) if literal else f"(?m:{pattern})"
        try:
            if not literal:
                # By itself first: a stray parenthesis must not close our group.
                re2.compile(pattern.encode(), options)
            self._compiled: Any = re2.compile(source.encode(), options)
        except re2.error as error:
            reason = error.args[0] if error.args else error
            if isinstance(reason, bytes):
                reason = reason.decode("utf-8", "replace")
            raise HostError(
                f"The pattern is not valid: {reason}.",
                fix="It is RE2 syntax: no look-around, no back-references. Pass literal=true to"
                " search for the text as it is.",
                code="bad_pattern",
            ) from error
        except UnicodeEncodeError as error:
            raise HostError(
                "The pattern is not valid Unicode.", fix="Remove the surrogate.", code="bad_pattern"
            ) from error

    def lines(self, data: bytes, context: int, after_line: int = 0) -> Iterator[LineMatch]:
        """The matching lines of `data` (as `searchable` returned it) after `after_line`."""
        starts: list[int] | None = None
        position = 0
        while (match := self._compiled.search(data, position)) is not None:
            begin, end = match.span()
            if starts is None:
                starts = _line_starts(data)
            if begin == len(data) and (not data or data.endswith(b"\n")):
                return  # an empty match behind the last newline is in no line
            number = bisect.bisect_right(starts, begin)
            line_end = starts[number] if number < len(starts) else len(data)
            if number > after_line:
                yield _line_match(data, starts, number, (begin, end), context)
            if line_end >= len(data):
                return
            position = line_end


def searchable(data: bytes) -> bytes | None:
    """`data` as UTF-8 with LF line ends, or None when it is binary.

    Text in another encoding is taken as Latin-1: its ASCII parts are found, which is what ripgrep
    does without being told the encoding.
    """
    for mark, codec in _WIDE:
        if data.startswith(mark):
            data = data.decode(codec, "replace").encode()
            break
    if b"\0" in data[:_BINARY_PROBE]:
        return None
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode()
    return data.replace(b"\r\n", b"\n")


def _line_starts(data: bytes) -> list[int]:
    starts, at = [0], data.find(b"\n")
    while at >= 0:
        starts.append(at + 1)
        at = data.find(b"\n", at + 1)
    if starts[-1] == len(data) and len(starts) > 1:
        starts.pop()
    return starts


def _line_match(
    data: bytes, starts: list[int], number: int, span: tuple[int, int], context: int
) -> LineMatch:
    start = starts[number - 1]
    raw = _line(data, starts, number)
    column = len(data[start : span[0]].decode("utf-8", "replace"))
    low = max(0, column - LINE_CHARS // 3) if len(raw) > LINE_CHARS else 0
    before = range(max(1, number - context), number)
    after = range(number + 1, min(len(starts), number + context) + 1)
    return LineMatch(
        line=number,
        column=column + 1,
        text=raw[low : low + LINE_CHARS],
        text_cut=len(raw) > LINE_CHARS,
        before=tuple(_line(data, starts, each)[:LINE_CHARS] for each in before),
        after=tuple(_line(data, starts, each)[:LINE_CHARS] for each in after),
    )


def _line(data: bytes, starts: list[int], number: int) -> str:
    end = starts[number] if number < len(starts) else len(data)
    return data[starts[number - 1] : end].rstrip(b"\n").decode("utf-8", "replace")
