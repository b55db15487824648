"""Lines of a server's stdout, where no line is too long to be got over.

A line beyond the reader's limit is read to its end and dropped; its first and last bytes are kept,
because they say which request it was to answer.
"""

from __future__ import annotations

import asyncio
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


async def next_line(reader: asyncio.StreamReader) -> bytes | TooLong | None:
    """The next line that is not blank; None at the end."""
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            # A last line without its end may be half of one.
            return end.partial if end.partial.strip() else None
        except asyncio.LimitOverrunError as overrun:
            return await _skip(reader, overrun.consumed)
        if line.strip():
            return line


async def _skip(reader: asyncio.StreamReader, consumed: int) -> TooLong:
    head, tail = b"", b""
    while True:
        try:
            part = await reader.readexactly(consumed)
            head, tail = (head or part[:KEPT_BYTES]), (tail + part[-KEPT_BYTES:])[-KEPT_BYTES:]
            rest = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as overrun:
            consumed = overrun.consumed
        except asyncio.IncompleteReadError as end:
            return TooLong(head, (tail + end.partial)[-KEPT_BYTES:])
        else:
            return TooLong(head, (tail + rest)[-KEPT_BYTES:])
