"""Run journalctl(1): where the journal is, which program, and its output line by line.

The child gets a fixed environment and is gone when its block is left. True asyncio; reads only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostwright_kit.errors import HostError

from .bus import no_systemd, require_booted
from .journal_entry import Redact

LINE_MAX_BYTES = 4 << 20
# What is kept of each end of a longer line.
LINE_END_BYTES = 65_536

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
# Set no matter what the caller's environment says: it could change format, pager and log level.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0"}


def no_journal(reason: str) -> HostError:
    return HostError(
        reason,
        fix="Check that systemd-journald runs and stores (Storage=persistent in journald.conf, or"
        " create /var/log/journal), and that this user is in the group systemd-journal.",
        code="no_journal",
    )


@dataclass(frozen=True)
class Journal:
    """Which journal to read, and how its text loses secrets before anybody sees it.

    Without a place it is the running machine's own journal. `directory` is a folder of journal
    files, `root` another system's file tree, `namespace` a journald namespace.
    """

    redact: Redact
    directory: Path | None = None
    root: Path | None = None
    namespace: str | None = None

    def options(self) -> list[str]:
        """journalctl's options for the place; raises where there is no journal to read."""
        options: list[str] = []
        if self.directory is None and self.root is None:
            require_booted()
        for name, place in (("directory", self.directory), ("root", self.root)):
            if place is not None:
                if not place.is_dir():
                    raise no_journal(f"The journal's {name} {place} does not exist.")
                options.append(f"--{name}={place}")
        if self.namespace is not None:
            if not _NAMESPACE.fullmatch(self.namespace):
                raise HostError(
                    f"{self.namespace!r} is not a journal namespace.",
                    fix="Use letters, digits, - and _ as in LogNamespace= of systemd.exec(5).",
                    code="bad_namespace",
                )
            options.append(f"--namespace={self.namespace}")
        return options


def journalctl() -> str:
    program = shutil.which("journalctl")
    if program is None:
        require_booted()
        raise no_systemd(
            "There is no journalctl in PATH.", "Install systemd's tools (Debian: systemd)."
        )
    return program


@contextlib.asynccontextmanager
async def child(argv: Sequence[str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A running child with both outputs piped; it is gone when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT},
    )
    # Process.kill() polls, and can take the exit away from asyncio's own watcher; a pidfd cannot,
    # and never means another process.
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        handle = None
    try:
        yield process
    finally:
        if handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        await process.wait()


async def head(stream: asyncio.StreamReader, max_bytes: int) -> bytes:
    """The first MAX_BYTES of a stream, which is read to its end so that the writer never blocks."""
    kept = b""
    while chunk := await stream.read(65_536):
        kept += chunk[: max_bytes - len(kept)]
    return kept


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, int]]:
    """Each line and its length; of one longer than LINE_MAX_BYTES only both its ends."""
    line = bytearray()
    left_out = 0
    while chunk := await stream.read(262_144):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line += end
            left_out += _shorten(line)
            yield bytes(line), len(line) + left_out
            line, left_out = bytearray(), 0
        line += rest
        left_out += _shorten(line)
    if line:
        yield bytes(line), len(line) + left_out


def _shorten(line: bytearray) -> int:
    """Cut the middle out of a line that is too long; returns how many bytes went."""
    if len(line) <= LINE_MAX_BYTES:
        return 0
    cut = len(line) - 2 * LINE_END_BYTES
    del line[LINE_END_BYTES:-LINE_END_BYTES]
    return cut
