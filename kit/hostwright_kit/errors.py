"""Errors that carry their remedy.

Every failure that a user or an agent can see is a `HostError`: what was wrong with the value at
hand, what to do about it, and a stable code to branch on. The server turns it into an MCP error
(`isError`), the command line into a red line and an exit code.
"""

from __future__ import annotations


class HostError(Exception):
    """A failure with a remedy.

    `code` is a stable snake_case word (`not_found`, `denied`, `too_large`, …) that callers may
    branch on; the message and the fix are for people and agents and may be reworded.
    """

    def __init__(self, message: str, *, fix: str = "", code: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} Fix: {self.fix}" if self.fix else self.message
