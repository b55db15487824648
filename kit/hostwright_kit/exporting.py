"""The ledger in forms that others read: JSON lines and CSV, archives included, oldest first.

A line of JSON is an entry byte for byte as it was hashed. So an export of everything is at once
the leaves of the Merkle tree, and `offline_audit.py` can compare it with a signed checkpoint.
CSV is for people and their spreadsheets; it proves nothing.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_kit.audit import EventFilter, all_rows
from hostwright_kit.errors import HostError

Form = Literal["jsonl", "csv"]
COLUMNS = ("seq", "id", "time", "type", "caller", "server", "tool", "outcome", "intent_id")
# What a spreadsheet would take for a formula. Names of callers and tools are strangers' words.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
BUFFER_BYTES = 1 << 20


class Exported(BaseModel, frozen=True):
    """What an export holds."""

    entries: int
    first: int | None = Field(default=None, description="The number of its first entry.")
    last: int | None = None
    form: Form
    whole: bool = Field(
        description="Nothing was filtered out: it can be compared with a checkpoint."
    )
    file: str | None = None
    bytes: int = 0


class Export:
    """One export, chunk by chunk; `done` says afterwards what was in it."""

    def __init__(self, path: Path, wanted: EventFilter, form: Form) -> None:
        self._path = path
        self._wanted = wanted
        self.done = Exported(entries=0, form=form, whole=wanted == EventFilter())

    def chunks(self) -> Iterator[bytes]:
        """Its bytes. Blocks on disk."""
        count, first, last, size = 0, None, None, 0
        form = _jsonl if self.done.form == "jsonl" else _csv
        head = _line([*COLUMNS, "detail", "hash"]) if self.done.form == "csv" else b""
        pending = [head]
        held = len(head)
        with closing(all_rows(self._path, self._wanted)) as rows:
            for row in rows:
                if first is None:
                    first = int(row["seq"])
                count, last = count + 1, int(row["seq"])
                line = form(row)
                pending.append(line)
                held += len(line)
                if held >= BUFFER_BYTES:
                    size += held
                    yield b"".join(pending)
                    pending, held = [], 0
        size += held
        yield b"".join(pending)
        self.done = self.done.model_copy(
            update={"entries": count, "first": first, "last": last, "bytes": size}
        )

    def into(self, target: Path) -> Exported:
        """Write it whole or not at all: beside `target`, synced, then renamed over it."""
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(handle, "wb") as file:
                    for chunk in self.chunks():
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise HostError(
                f"The export cannot be written to {target}: {error.strerror}.",
                fix="Free space there or name another place; what was at that place is unchanged.",
                code="not_written",
            ) from error
        return self.done.model_copy(update={"file": str(target)})


def _jsonl(row: sqlite3.Row) -> bytes:
    return bytes(row["body"]) + b"\n"


def _csv(row: sqlite3.Row) -> bytes:
    said = json.loads(row["body"])
    detail = json.dumps(said.get("detail", {}), ensure_ascii=False, separators=(",", ":"))
    return _line([*(row[name] for name in COLUMNS), detail, row["hash"].hex()])


def _line(cells: list[object]) -> bytes:
    text = io.StringIO()
    safe = [f"'{one}" if isinstance(one, str) and one.startswith(FORMULA) else one for one in cells]
    csv.writer(text).writerow(safe)
    # Whoever put a lone surrogate into an argument has it back as JSON would write it.
    return text.getvalue().encode("utf-8", "backslashreplace")
