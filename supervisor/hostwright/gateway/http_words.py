"""What every answer over HTTP begins with, encoded once."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

_status_lines: dict[int, bytes] = {}
_date_now: tuple[int, bytes] = (0, b"")


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    found = _status_lines.get(status)
    if found is None:
        found = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        _status_lines[status] = found
    return found


def date_now() -> bytes:
    """The time as HTTP writes it."""
    global _date_now  # noqa: PLW0603 - a clock's face
    now = int(time.time())
    if now != _date_now[0]:
        _date_now = (now, formatdate(now, usegmt=True).encode())
    return _date_now[1]
