"""Writes the table of kinds into docs/events.md from the models; `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from hostwright.events.kinds import DURABLE, KINDS, Event

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "events.md"
BEGIN, END = "<!-- kinds:begin -->\n", "<!-- kinds:end -->"


def table() -> str:
    """One row per kind."""
    lines = ["| kind | kept | what happened | fields |", "|---|---|---|---|"]
    for kind, model in KINDS.items():
        kept = "ledger" if kind in DURABLE else "memory"
        fields = ", ".join(_fields(model))
        lines.append(f"| `{kind}` | {kept} | {_says(model)} | {fields} |")
    return "\n".join(lines) + "\n"


def _says(model: type[Event]) -> str:
    return " ".join((model.__doc__ or "").split())


def _fields(model: type[Event]) -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        if name in ("kind", "at"):
            continue
        choices = get_args(field.annotation)
        words = "/".join(one for one in choices if isinstance(one, str))
        notes = [*([words] if words else []), *([field.description] if field.description else [])]
        said = f" ({'; '.join(notes).rstrip('.')})" if notes else ""
        found.append(f"**{name}**{said}" if field.is_required() else f"{name}{said}")
    return found


def updated(text: str) -> str:
    """The document with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit("docs/events.md is out of date (make docs)" if updated(text) != text else 0)
    DOCUMENT.write_text(updated(text), encoding="utf-8")
