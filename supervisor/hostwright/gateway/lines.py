"""Bytes into lines, where no line is too long to be got over.

A line beyond the bound is passed over to its end; its first and last bytes are kept, because they
say which request it was to answer.
"""

from __future__ import annotations

import re

KEPT_BYTES = 256
# Where the known implementations put the id of a response: before the result, or at the very end.
_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18})\s*,')
_LAST = re.compile(rb'"id"\s*:\s*(\d{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


class TooLong:
    """What is left of a line that was too long."""

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail

    def answer_to(self) -> int | None:
        """The id of the request that this line answers, as far as it can be told."""
        found = _FIRST.match(self.head) or _LAST.search(self.tail)
        return int(found[1]) if found else None


class Lines:
    """Takes bytes as they come and gives the lines that they complete."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """The lines that `data` completes, without their ends and without blank ones."""
        pieces = data.split(b"\n")
        rest = pieces.pop()
        found: list[bytes | TooLong] = []
        for piece in pieces:
            if self._size:
                self._keep(piece)
                line = self._taken()
            else:
                line = piece if len(piece) <= self._limit else _cut(piece)
            if isinstance(line, TooLong) or line.strip():
                found.append(line)
        if rest:
            self._keep(rest)
        return found

    def end(self) -> bytes | TooLong | None:
        """What stands after the last line's end; it may be half of a line."""
        line = self._taken()
        return line if isinstance(line, TooLong) or line.strip() else None

    @property
    def rest(self) -> bytes:
        """The same, while more is to come."""
        return b"".join(self._parts)

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._limit:
            whole = b"".join(self._parts)
            self._head = self._head or whole[:KEPT_BYTES]
            self._parts = [whole[-KEPT_BYTES:]]

    def _taken(self) -> bytes | TooLong:
        whole, head, size = b"".join(self._parts), self._head, self._size
        self._parts, self._head, self._size = [], b"", 0
        return TooLong(head, whole[-KEPT_BYTES:]) if size > self._limit else whole


def _cut(line: bytes) -> TooLong:
    return TooLong(line[:KEPT_BYTES], line[-KEPT_BYTES:])
