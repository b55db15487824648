"""Writes the reference of manifest keys into docs/manifests.md from the model; `--check` compares.

The tables stand between `<!-- keys:begin -->` and `<!-- keys:end -->`: every key with its type,
default and bounds as the model has them, so that the page cannot promise what is refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hostwright.manifest import Manifest
from hostwright.manifest_files import tables_in

PAGE = Path(__file__).resolve().parent.parent / "docs" / "manifests.md"
BEGIN, END = "<!-- keys:begin (make docs) -->", "<!-- keys:end -->"


def main(*, check: bool) -> int:
    """Update or compare the page; the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    updated = f"{before}{BEGIN}\n{reference()}\n{END}{rest.split(END, 1)[1]}"
    if updated == text:
        return 0
    print(f"docs/manifests.md: the keys are {'out of date (make docs)' if check else 'written'}")
    if not check:
        PAGE.write_text(updated, encoding="utf-8")
    return 1 if check else 0


def reference() -> str:
    """A table of the keys outside of tables, then one for each table."""
    parts = [_table(Manifest, None)]
    parts += [_table(model, name) for name, model in _tables(Manifest).items()]
    return "\n\n".join(parts)


def _tables(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        for table in tables_in(field.annotation):
            found[f"{prefix}{name}"] = table
            found |= _tables(table, f"{prefix}{name}.")
    return found


def _table(model: type[BaseModel], name: str | None) -> str:
    lines: list[str] = []
    if name:
        lines += [f"### `[{name}]`", "", _first(model.__doc__ or ""), ""]
    lines += ["| key | type | default | what it means |", "|---|---|---|---|"]
    schema = model.model_json_schema()
    for key, field in model.model_fields.items():
        kind = _kind(schema["properties"][key], schema.get("$defs", {}))
        if tables_in(field.annotation):
            where = f"{name}.{key}" if name else key
            kind = "table" if kind == "table" else f"{kind} or table"
            meaning = field.description or f"See `[{where}]`."
        else:
            meaning = field.description or ""
        cells = (f"`{key}`", kind, _default(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "empty"
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None or isinstance(field.default, BaseModel):
        return "–"
    if field.default == ():
        return "empty"
    return f"`{json.dumps(field.default)}`"


def _kind(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A type in the words of TOML, with its bounds."""
    if "$ref" in schema:
        return _kind(defs[schema["$ref"].rsplit("/", 1)[-1]], defs)
    if "anyOf" in schema:
        kinds = [_kind(one, defs) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "table")) or "table"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), defs)}s"
    if kind == "object":
        return "table"
    words = {"string": "text", "number": "number", "integer": "whole number", "boolean": "boolean"}
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f", {_number(low)} to {_number(high)}" if low is not None and high is not None else ""
    return words.get(str(kind), "any value") + bounds


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _first(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    raise SystemExit(main(check="--check" in sys.argv[1:]))
