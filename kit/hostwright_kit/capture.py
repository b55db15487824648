"""The beginning and the end of a stream of any length, in bounded memory.

Plain Python, touches nothing. What lies between head and tail is only counted; the job's output
file has it. Cuts never split a UTF-8 character (RFC 3629).
"""

from __future__ import annotations

import base64
import codecs

from pydantic import BaseModel, Field


class StreamCapture(BaseModel, frozen=True):
    """What a command wrote to one stream, as far as it fits."""

    head: str = Field(description="The beginning, or everything when nothing is omitted.")
    tail: str = Field(description="The end; empty when nothing is omitted.")
    total_bytes: int = Field(description="All that was written.")
    omitted_bytes: int = Field(description="Between head and tail; page it through the job.")
    head_base64: str | None = Field(
        default=None, description="The exact bytes of the head, when they are not valid UTF-8."
    )
    tail_base64: str | None = Field(
        default=None, description="The exact bytes of the tail, when they are not valid UTF-8."
    )


class HeadTail:
    """Takes chunks, keeps at most `head_bytes` + `tail_bytes` (and one chunk while it works)."""

    def __init__(self, head_bytes: int, tail_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._tail_bytes:
            self._tail = bytearray(data[len(data) - self._tail_bytes :])
        else:
            self._tail += data
            # Twice the size before a cut: moving the bytes on every small write would cost more.
            if len(self._tail) > 2 * self._tail_bytes:
                del self._tail[: len(self._tail) - self._tail_bytes]

    def result(self) -> StreamCapture:
        tail = bytes(self._tail[max(0, len(self._tail) - self._tail_bytes) :])
        head = bytes(self._head)
        if len(head) + len(tail) == self.total_bytes:
            head, tail = head + tail, b""
        else:
            head, tail = head[: _whole_characters(head)], tail[_continuation_bytes(tail) :]
        return StreamCapture(
            head=head.decode("utf-8", "replace"),
            tail=tail.decode("utf-8", "replace"),
            total_bytes=self.total_bytes,
            omitted_bytes=self.total_bytes - len(head) - len(tail),
            head_base64=_exact(head),
            tail_base64=_exact(tail),
        )


def _whole_characters(data: bytes) -> int:
    """The length of `data` without a character that its end cuts in two."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])


def _continuation_bytes(data: bytes) -> int:
    """How many bytes at the start belong to a character that began before it (at most three)."""
    count = next((i for i, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
    return count if count <= 3 else 0


def _exact(data: bytes) -> str | None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")
    return None
