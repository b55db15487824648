"""What is asked once in each turn of the event loop, however many requests come in with it.

Whether tokens or rules were changed is asked for every request, which is a look at a file each
time. Requests that are read in one turn of the loop had all arrived before it asked, so one look
answers for all of them, and a change still holds for whatever is sent after it was made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class _Turn:
    """What was asked in this turn."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.answers: dict[Callable[[], Any], Any] = {}

    def over(self) -> None:
        self.loop = None
        self.answers = {}


_turn = _Turn()


def once_per_turn(ask: Callable[[], Answer]) -> Answer:
    """What `ask` says, or has said in this very turn of the running loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return ask()
    turn = _turn
    if turn.loop is not loop:
        turn.answers = {}
        turn.loop = loop
        loop.call_soon(turn.over)
    elif ask in turn.answers:
        return turn.answers[ask]
    found = turn.answers[ask] = ask()
    return found
