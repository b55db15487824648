"""What is noted of one client while it is served, for a daemon that may have to go on without us.

Before a request is worked on it stands in the journal; it is taken out when its answer is in the
kernel's hands, which is seen a moment after it was written. In between a daemon that dies leaves it
noted, and the next one may answer it twice: a client drops an answer to what it does not wait for,
but would wait for ever for one that never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hostwright.gateway import codec
from hostwright.gateway.codec import Message
from hostwright.gateway.journal import Head, Journal

WHOLE_BYTES = 512
"""What a pipe takes as a whole or not at all (PIPE_BUF, pipe(7), is at least this)."""
CONFIRM_SECONDS = 0.02
Key = str | int | None


class Notes:
    """One client's. Without a journal nothing is noted."""

    def __init__(self, journal: Journal | None, head: Head, unsent: Callable[[], int]) -> None:
        """`unsent`: how many bytes were written and are not in the kernel's hands."""
        self.head = head
        self._journal = journal
        self._unsent = unsent
        self._answered: set[Key] = set()
        self._confirming: asyncio.Handle | None = None

    @property
    def settled(self) -> bool:
        """Whether everything that was answered has left."""
        return self._confirming is None

    def save(self, **changed: Any) -> None:
        """More is known of the client."""
        if self._journal is not None:
            self.head = msgspec.structs.replace(self.head, **changed)
            self._journal.save(self.head)

    # -- what comes ------------------------------------------------------------------------------

    def read(self, data: bytes, lines: Sequence[object]) -> None:
        """`data` was read and completes these lines; nothing is done yet."""
        # One line that came in one piece is noted with its request, at once.
        if (journal := self._journal) is not None and (len(lines) != 1 or journal.resting):
            journal.read(data)

    def worked(self, rest: Callable[[], bytes]) -> None:
        """Everything is done but what `rest` says."""
        if self._journal is not None:
            self._journal.rest(rest())

    def asked(self, message: Message, line: bytes) -> None:
        """A request is about to be worked on."""
        if self._journal is not None:
            self._answered.discard(codec.request_id(message.id))
            self._journal.asked(message, line)

    def forget(self, key: Key) -> None:
        """A request needs no answer any longer."""
        if self._journal is not None:
            self._journal.answered((key,))

    # -- what goes -------------------------------------------------------------------------------

    def answered(self, key: Key) -> None:
        """Its answer is about to be written."""
        if self._journal is not None:
            self._answered.add(key)

    def writing(self, size: int) -> None:
        """So many bytes are being written."""
        if self._journal is None:
            return
        self._journal.half_out(size > WHOLE_BYTES or self._unsent() > 0)
        if self._confirming is None:
            self._confirming = asyncio.get_running_loop().call_soon(self._confirm)

    def _confirm(self) -> None:
        if self._journal is None:
            return
        if self._unsent():
            loop = asyncio.get_running_loop()
            self._confirming = loop.call_later(CONFIRM_SECONDS, self._confirm)
            return
        self._confirming = None
        answered, self._answered = self._answered, set()
        self._journal.answered(answered)
        self._journal.half_out(False)

    # -- the end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """The client is gone: there is nothing to resume."""
        self._stop()
        if self._journal is not None:
            self._journal.remove()

    def leave(self, rest: bytes) -> str | None:
        """The next daemon goes on; under which name it finds this, if it can."""
        self._stop()
        journal = self._journal
        if journal is None or not journal.usable:
            return None
        journal.rest(rest)
        journal.leave()
        return journal.name

    def _stop(self) -> None:
        if self._confirming is not None:
            self._confirming.cancel()
            self._confirming = None
