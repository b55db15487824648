"""Every repair on record: in the ledger, or where that cannot take it in a journal beside it.

`<state_dir>/rescue/journal.jsonl`, one JSON object a line: `{"id", "at", "type", "detail"}`. The
next daemon, or the next repair that finds a sound ledger, appends each to the ledger (type
`rescue.*`, `detail.at` says when it really was) and only then removes the journal. An entry
that is in the ledger already is not appended again, so a kill between the two doubles nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostwright.rescue.snapshots import FOLDER

if TYPE_CHECKING:
    from hostwright_kit.ledger import Ledger

JOURNAL = "journal.jsonl"
MAX_LINES = 10_000
CALLER = "owner"


def record(state_dir: Path, kind: str, detail: dict[str, Any], *, ledger_sound: bool) -> str:
    """Put it on record; where: "ledger" or "journal". Raises `OSError` when neither takes it."""
    from hostwright_kit.clock import utc_now
    from hostwright_kit.errors import HostError

    line = {"id": secrets.token_hex(8), "at": utc_now(), "type": kind, "detail": detail}
    if ledger_sound:
        try:
            _to_ledger(state_dir, line)
        except HostError:
            ledger_sound = False
    if ledger_sound:
        return "ledger"
    _to_journal(state_dir, line)
    return "journal"


def take_over(state_dir: Path, ledger: Ledger) -> int:
    """Bring the journal into a sound ledger; how many entries. Raises `HostError`."""
    from hostwright_kit.audit import EventFilter, list_events

    file = state_dir / FOLDER / JOURNAL
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[:MAX_LINES]
    except FileNotFoundError:
        return 0
    entries = [found for line in lines if (found := _parsed(line)) is not None]
    known: set[str] = set()
    cursor: str | None = None
    while True:
        page = list_events(ledger.path, EventFilter(type="rescue.*"), limit=500, cursor=cursor)
        known |= {str(one.detail.get("rescue")) for one in page.events}
        cursor = page.next_cursor
        if cursor is None:
            break
    for entry in entries:
        if entry["id"] not in known:
            ledger.append(_entry(entry))
    file.unlink()
    return len(entries)


def _to_ledger(state_dir: Path, line: dict[str, Any]) -> None:
    from hostwright_kit.ledger import Ledger
    from hostwright_kit.runtime import LEDGER_FILE

    ledger = Ledger(state_dir / LEDGER_FILE)
    try:
        take_over(state_dir, ledger)
        ledger.append(_entry(line))
    finally:
        ledger.close()


def _entry(line: dict[str, Any]) -> Any:
    from hostwright_kit.ledger import Entry

    detail = {**line["detail"], "rescue": line["id"], "at": line["at"]}
    return Entry(type=line["type"], caller=CALLER, detail=detail)


def _to_journal(state_dir: Path, line: dict[str, Any]) -> None:
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    handle = os.open(folder / JOURNAL, flags, 0o600)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of ours; None for one that was cut off or is somebody else's."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(found, dict) and {"id", "at", "type", "detail"} <= set(found)
    if not whole or not str(found["type"]).startswith("rescue."):
        return None
    return found
