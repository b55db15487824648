"""Reading what `logs` wrote: the end of a log, and what is added to it; from any process.

`tail` and `records` block (files); `follow` is asyncio.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_TAIL_LINES = 10_000
MAX_KEEP = 100
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log for people, oldest first. Blocking."""
    return [show(record) for record in records(path, lines)]


def records(path: Path, lines: int) -> list[dict[str, Any]]:
    """The last lines of a log, oldest first, reaching back into its rotated parts. Blocking."""
    lines = max(0, min(lines, MAX_TAIL_LINES))
    found: list[str] = []
    part, number = path, 0
    while len(found) < lines and number <= MAX_KEEP and (number == 0 or part.exists()):
        found = _tail_of(part, lines - len(found)) + found
        number += 1
        part = path.with_name(f"{path.name}.{number}")
    return [_parsed(line) for line in found]


def show(record: Mapping[str, Any]) -> str:
    """One line for people."""
    mark = "-- " if record["stream"] == "keeper" else ""
    return f"{record['time']} {mark}{record['text']}".lstrip()


def _parsed(line: str) -> dict[str, Any]:
    """A line of the file; a torn one is its own text."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict) and {"time", "stream", "pid", "text"} <= found.keys():
        return cast("dict[str, Any]", found)
    return {"time": "", "stream": "unknown", "pid": None, "text": CONTROL.sub("?", line)}


def _tail_of(path: Path, lines: int) -> list[str]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        position = file.seek(0, os.SEEK_END)
        content = b""
        while position > 0 and content.count(b"\n") <= lines:
            step = min(65_536, position)
            position = file.seek(position - step)
            content = file.read(step) + content
    # Not splitlines: a text may hold what other alphabets call the end of a line.
    whole = content.decode(errors="replace").removesuffix("\n").split("\n")
    return whole[-lines:] if content else []


async def follow(path: Path, *, poll_seconds: float = 0.2) -> AsyncIterator[str]:
    """Lines as they are added, across rotation; works from another process too."""
    reader = _Follower(path)
    try:
        while True:
            lines = await asyncio.to_thread(reader.read)
            for line in lines:
                yield show(_parsed(line))
            if not lines:
                await asyncio.sleep(poll_seconds)
    finally:
        reader.close()


class _Follower:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._file = self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """The next whole lines; empty when there are none yet."""
        if self._file is None:
            self._file = self._open()
            if self._file is None:
                return []
        chunk = self._file.read(262_144)
        if not chunk and self._rotated():
            self._file.close()
            self._file = self._open()
            return self.read() if self._file else []
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _rotated(self) -> bool:
        assert self._file is not None  # noqa: S101 - only called with an open file
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return now.st_ino != os.fstat(self._file.fileno()).st_ino
