"""Answers to a sandbox's name questions, given without asking anybody.

DNS messages (RFC 1035). A name that the grant lists has the gate's address; no other name exists.
Nothing of a question leaves this process, so nothing can be told to anybody in one. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

GATE_ADDRESS = "127.1.0.1"
"""What every allowed name resolves to inside. Where a connection really goes is decided by the
name in it, not by this address."""

_A = 1
_IN = 1
_TTL_SECONDS = 60
MAX_MESSAGE = 512


class Answer(NamedTuple):
    """What was asked, and what to send back; None: nothing, it was no question."""

    name: str | None
    allowed: bool
    message: bytes | None


def answer(question: bytes, admits: Callable[[str], bool]) -> Answer:
    """The answer to one DNS message."""
    if not 12 < len(question) <= MAX_MESSAGE:
        return Answer(None, False, None)
    identity, flags, count = struct.unpack_from(">HHH", question)
    if flags & 0x8000 or flags >> 11 & 0xF or count != 1:
        return Answer(None, False, None)
    read = _question(question)
    if read is None:
        return Answer(None, False, None)
    name, kind, end = read
    allowed = admits(name)
    # Answer, recursion available; recursion desired as it was; "no such name" for the others.
    flags = 0x8080 | flags & 0x0100 | (0 if allowed else 3)
    has = allowed and kind == _A
    message = struct.pack(">HHHHHH", identity, flags, 1, int(has), 0, 0) + question[12:end]
    if has:
        address = bytes(int(part) for part in GATE_ADDRESS.split("."))
        message += struct.pack(">HHHIH", 0xC00C, _A, _IN, _TTL_SECONDS, 4) + address
    return Answer(name, allowed, message)


def _question(message: bytes) -> tuple[str, int, int] | None:
    labels: list[str] = []
    at = 12
    while at < len(message):
        length = message[at]
        if length == 0:
            if at + 5 > len(message):
                return None
            kind, group = struct.unpack_from(">HH", message, at + 1)
            return (".".join(labels), kind, at + 5) if group == _IN and labels else None
        if length > 63 or at + 1 + length > len(message):
            return None
        # What is not a letter of a host name is shown, never taken for one.
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    return None
