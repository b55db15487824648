"""Signed checkpoints of the ledger, and copies of them where the ledger's writer cannot reach.

Every so many entries, and so many seconds after an entry that none covers yet, the root of the
Merkle tree is signed with the host's key (`signed_note.py`) and kept in the ledger's file, in a
file that the owner names, and in the system's journal. A bare chain can be cut or written anew by
whoever has the file; one copy of one checkpoint that is out of reach is enough to show it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hostwright_kit.clock import utc_now
from hostwright_kit.config import CHECKPOINT_ENTRIES, CHECKPOINT_SECONDS
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_file import CHECKPOINT_TYPE, CutError, Entry, LedgerFile, draft
from hostwright_kit.signed_note import Checkpoint, Signer

JOURNAL_SOCKET = "/run/systemd/journal/socket"
JOURNAL_ID = "8b6a1f0a3d554c0e9d0c3b7f6ad0c7be"
"""Found again with `journalctl MESSAGE_ID=…`."""

logger = logging.getLogger(__name__)
Copy = Callable[[str], None]


class Checkpoints:
    """Signs when it is due. Used by the ledger's writer thread alone."""

    def __init__(
        self,
        signer: Callable[[], Signer],
        copies: Sequence[Copy] = (),
        *,
        every_entries: int = CHECKPOINT_ENTRIES,
        every_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """`signer` is asked for when something is signed: until then no key is needed."""
        self._signer = signer
        self._copies = copies
        self._every_entries = every_entries
        self._every_seconds = every_seconds
        self._uncovered = 0
        self._since = 0.0
        self.problem: str | None = None
        """Why the last one was not signed, or is not in all the places where it should be."""

    def due_in_seconds(self) -> float | None:
        """How long until a checkpoint is due by time; None when nothing waits for one."""
        if not self._uncovered:
            return None
        return max(0.0, self._since + self._every_seconds - time.monotonic())

    def sign_if_due(self, file: LedgerFile, written: int, *, ending: bool = False) -> None:
        """Take note of entries just written, and sign when it is time, or at the end.

        What fails here is no reason to refuse acts: it is logged and tried again.
        """
        if written and not self._uncovered:
            self._since = time.monotonic()
        self._uncovered += written
        due = ending or self._uncovered >= self._every_entries or self.due_in_seconds() == 0.0
        if not self._uncovered or not due:
            return
        try:
            self.sign(file, tell=not ending)
        except (OSError, sqlite3.Error, CutError, HostError) as error:
            logger.warning("the ledger could not be checkpointed: %s", error)
            self.problem = f"not signed: {error}"
            self._since = time.monotonic()
        else:
            self._uncovered = 0

    def sign(self, file: LedgerFile, *, tell: bool = True) -> None:
        """Sign what no checkpoint covers yet; nothing when there is nothing.

        `tell`: with an entry, so that whoever follows the ledger learns of it. A process that ends
        leaves that out: a command that writes one entry would otherwise write two.
        """
        if not file.uncovered():
            return  # another process was faster
        tree = file.tree()
        signer = self._signer()
        name = signer.verifier.name
        moment = utc_now()
        text = Checkpoint(
            origin=name, size=tree.size, root=tree.root(), extensions=(f"time {moment}",)
        ).text()
        note = signer.sign(text)
        file.add_checkpoint(tree.size, moment, note)
        self.problem = None
        for copy in self._copies:
            try:
                copy(note)
            except OSError as error:
                logger.warning("a checkpoint could not be copied: %s", error)
                self.problem = f"not copied: {error}"
        if tell:
            detail = {"size": tree.size, "root": tree.root().hex()}
            file.append([draft(Entry(type=CHECKPOINT_TYPE, detail=detail))])


def to_file(path: Path) -> Copy:
    """Copies into a file of the owner's choice: appended, never rewritten."""

    def copy(note: str) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "a") as file:
            file.write(f"{note}\n")
            file.flush()
            os.fsync(file.fileno())

    return copy


def to_journal(address: str = JOURNAL_SOCKET) -> Copy:
    """Copies into the systemd journal, in its native protocol, where there is one."""

    def copy(note: str) -> None:
        if not Path(address).exists():
            return
        value = note.encode()
        fields = (
            b"PRIORITY=6\nSYSLOG_IDENTIFIER=hostwright\nMESSAGE_ID=%b\n" % JOURNAL_ID.encode(),
            # A value with line breaks: its name, its length, itself.
            b"MESSAGE\n" + struct.pack("<Q", len(value)) + value + b"\n",
        )
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as journal:
            journal.sendto(b"".join(fields), address)

    return copy
