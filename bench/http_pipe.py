"""One HTTP connection of the raw client: a request goes out, the bytes of its answer come in.

Not asyncio's streams: they copy what arrives piece by piece through a buffer with two tasks around
it, and for an answer of 100 KB that takes longer than some fronts need to send it. Here the kernel
writes into one buffer, and what is looked at on the way is whether the answer is whole.
"""

from __future__ import annotations

import asyncio
from typing import cast

FIRST_BYTES = 1 << 18
MAX_ANSWER_BYTES = 16 * 1024 * 1024
END_OF_HEAD = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class HttpPipe(asyncio.BufferedProtocol):
    """A connection with one request in flight at most."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(FIRST_BYTES)
        self._filled = 0
        self._body_at = 0
        self._length: int | None = None
        """Of the body; None: it comes in chunks."""
        self._waiting: asyncio.Future[tuple[dict[str, str], int]] | None = None
        self._headers: dict[str, str] = {}
        self._status = 0

    @staticmethod
    async def connect(host: str, port: int) -> HttpPipe:
        """Open one."""
        loop = asyncio.get_running_loop()
        _, pipe = await loop.create_connection(HttpPipe, host, port)
        return pipe

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a request."""
        if self._transport is None or self.closed:
            raise ConnectionError("the connection is closed")
        self._filled = self._body_at = 0
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        headers, end = await self._waiting
        body = bytes(memoryview(self._buffer)[self._body_at : end])
        return self._status, headers, _joined(body) if self._length is None else body

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self._filled += nbytes
        if self._filled > MAX_ANSWER_BYTES:
            self._fail(ConnectionError("an answer does not end"))
            self.close()
            return
        if not self._body_at and not self._read_head():
            return
        if self._length is not None:
            end = self._body_at + self._length
            whole = self._filled >= end
        else:
            end = self._filled
            whole = self._buffer.endswith(LAST_CHUNK, max(self._body_at, end - 5), end)
        if whole and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((self._headers, end))

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side hung up, or we did."""
        self.closed = True
        self._fail(asyncio.IncompleteReadError(bytes(self._buffer[: self._filled]), None))

    def _read_head(self) -> bool:
        at = self._buffer.find(END_OF_HEAD, 0, self._filled)
        if at < 0:
            return False
        self._body_at = at + len(END_OF_HEAD)
        first, *lines = self._buffer[:at].decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        self._headers = {name.lower(): text.strip() for name, _, text in fields}
        self._status = int(first.split(" ", 2)[1])
        chunked = self._headers.get("transfer-encoding", "").lower() == "chunked"
        self._length = None if chunked else int(self._headers.get("content-length", "0"))
        return True

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _joined(chunks: bytes) -> bytes:
    """A body without the lengths of its chunks."""
    found = bytearray()
    at = 0
    while True:
        end = chunks.index(b"\r\n", at)
        size = int(chunks[at:end].partition(b";")[0], 16)
        if not size:
            return bytes(found)
        found += chunks[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
