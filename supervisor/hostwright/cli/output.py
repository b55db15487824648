"""What all commands share: tables and colours for people, JSON for programs, exit codes.

What others wrote (a caller's name, an argument, a log line) reaches the terminal only through
`visible`: an agent must not be able to hide, behind an escape sequence or a change of writing
direction, what the owner is asked to approve.

0 done · 1 failed (the message says why and what to do) · 2 wrong usage · 3 no daemon runs ·
4 the call waits for the owner's approval.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hostwright_kit.errors import HostError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_APPROVAL_NEEDED = 4
EXIT_CODES = {
    "usage": EXIT_USAGE,
    "no_daemon": EXIT_NO_DAEMON,
    "approval_needed": EXIT_APPROVAL_NEEDED,
}

# Read by programs and people with `less`, a table need not fit into 80 columns.
PIPED_COLUMNS = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 200

out = Console(highlight=False, width=PIPED_COLUMNS)
err = Console(stderr=True, highlight=False)


class NoDaemonError(HostError):
    """A command that needs the daemon, and none runs."""

    def __init__(self) -> None:
        super().__init__(
            "No daemon runs here.",
            fix="Start it with `hostwright up` (or `hostwright up --detach`).",
            code="no_daemon",
        )


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with everything that a terminal would obey, or not show, written as an escape.

    Control characters, changes of writing direction, zero-width and unassigned characters, lone
    surrogates, spaces that are none; with `lines`, ends of lines stay.
    """
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _escape(char) for char in text
    )


def cell(text: str, *, style: str = "") -> Text:
    """A stranger's words in a table: no control characters, no markup."""
    return Text(visible(text), style=style)


def print_plain(text: str) -> None:
    """A stranger's words on lines of their own, not wrapped: fit to be copied and piped."""
    out.print(Text(visible(text, lines=True)), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, its strings escaped as `visible` would, in JSON's own way."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    sys.stdout.write(json_visible(text) + "\n")


def json_visible(text: str) -> str:
    """JSON that means the same and drives no terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def print_error(error: HostError, *, as_json: bool) -> int:
    """Say what went wrong; the exit code for it."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "fix": error.fix}})
    else:
        # Not wrapped when it is not a terminal: paths and commands are there to be copied.
        wrap = not err.is_terminal
        message, fix = visible(error.message, lines=True), visible(error.fix, lines=True)
        err.print(f"[red]✗[/] {escape(message)}", soft_wrap=wrap)
        if fix:
            err.print(f"  [bold]fix:[/] {escape(fix)}", soft_wrap=wrap)
    return EXIT_CODES.get(error.code, EXIT_FAILED)


def done(message: str) -> None:
    """One green line."""
    out.print(f"[green]✓[/] {escape(visible(message))}", soft_wrap=not out.is_terminal)


def make_table(*columns: str, title: str | None = None) -> Table:
    """A table in the house's look."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def duration(seconds: float | None) -> str:
    """`3 s`, `5 min`, `2 h`, `4 d`."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(number: int | None) -> str:
    """`12 MB`."""
    if number is None:
        return "–"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return (
                f"{number / step:.1f} {unit}"
                if number < 10 * step
                else f"{number / step:.0f} {unit}"
            )
    return f"{number} B"


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]  # type: ignore[misc] - JSON-like all the way down
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}  # type: ignore[misc]
    return value
