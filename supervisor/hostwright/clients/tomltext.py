"""Edit TOML text (https://toml.io/en/v1.0.0) while keeping its comments and layout.

`tomlkit` parses, and edits single values. Whole tables are appended and cut as lines instead:
tomlkit files the comment above a table under the table before it, and would take it along. Every
cut is checked against the parsed result, and tomlkit's own deletion stands in where lines will
not do. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError
from tomlkit.items import InlineTable

from hostwright_kit.errors import HostError

from .jsontext import InvalidTextError, Path


def parse(text: str) -> dict[str, Any]:
    """The values of a document."""
    return tomlkit_document(text).unwrap()


def tomlkit_document(text: str) -> tomlkit.TOMLDocument:
    """The document as tomlkit holds it; the error says the line and column."""
    try:
        return tomlkit.parse(text)
    except ParseError as error:
        lines = text.split("\n")
        index = sum(len(line) + 1 for line in lines[: error.line - 1]) + error.col - 1
        problem = str(error).split(" at line")[0].rstrip(".")
        raise InvalidTextError(problem, text, max(0, min(index, len(text)))) from error
    except TOMLKitError as error:
        raise InvalidTextError(str(error).rstrip("."), text, 0) from error


def set_value(text: str, path: Path, value: Any) -> str:
    """The text with `value` at `path`. A new table is written behind everything else."""
    document = tomlkit_document(text)
    holder: Any = document
    depth = 0
    while depth < len(path) - 1 and isinstance(holder.get(path[depth]), dict):
        holder = holder[path[depth]]
        depth += 1
    missing = path[depth:]
    new_table = isinstance(value, dict) and depth < 2 and missing[0] not in holder
    if new_table and not isinstance(holder, InlineTable):
        return _append(text, path, cast("dict[str, Any]", value))
    for key in reversed(missing[1:]):
        value = {key: value}
    holder[missing[0]] = _item(value)
    return _as_text(document, text)


def remove(text: str, path: Path) -> str:
    """The text without what is at `path`; a table left empty by that goes too."""
    document = tomlkit_document(text)
    expected = document.unwrap()
    emptied = _remove_from(expected, path)
    for cut in _line_cuts(text, path):
        if _same(cut, expected):
            return cut
    holder: Any = document
    for key in emptied[:-1]:
        holder = holder[key]
    del holder[emptied[-1]]
    return _as_text(document, text)


def table_line(text: str, path: Path) -> int | None:
    """The line, from 1, of the header that begins the table at `path`."""
    for number, line in enumerate(text.split("\n"), 1):
        header = _header(line)
        if header is not None and header[: len(path)] == path:
            return number
    return None


def _remove_from(data: dict[str, Any], path: Path) -> Path:
    """Takes `path` out of plain values, with the tables it leaves empty; says what went."""
    holders: list[dict[str, Any]] = [data]
    for key in path[:-1]:
        holders.append(holders[-1][key])
    depth = len(path) - 1
    del holders[depth][path[depth]]
    while depth > 0 and not holders[depth]:
        depth -= 1
        del holders[depth][path[depth]]
    return path[: depth + 1]


def _item(value: Any) -> Any:
    if not isinstance(value, dict):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    for key, item in cast("dict[str, Any]", value).items():
        table.append(key, _item(item))
    return table


def _append(text: str, path: Path, value: dict[str, Any]) -> str:
    header = tomlkit.table()
    for key, item in value.items():
        header.append(key, _item(item))
    block: MutableMapping[str, Any] = header
    for key in reversed(path[1:]):
        outer = tomlkit.table(is_super_table=True)
        outer.append(key, cast("Any", block))
        block = outer
    document = tomlkit.document()
    document.append(path[0], cast("Any", block))
    lead = ""
    if text:
        lead = "\n" if text.endswith("\n") else "\n\n"
    return text + _line_ends(lead + tomlkit.dumps(document), text)


def _as_text(document: tomlkit.TOMLDocument, text: str) -> str:
    return _line_ends(tomlkit.dumps(document), text)


def _line_ends(new: str, text: str) -> str:
    """The new text with the line ends of the old one, where that has only one kind."""
    if "\r\n" in text and text.count("\r\n") == text.count("\n"):
        return new.replace("\r\n", "\n").replace("\n", "\r\n")
    return new


def _same(text: str, expected: dict[str, Any]) -> bool:
    try:
        return parse(text) == expected
    except HostError:
        return False


def _header(line: str) -> Path | None:
    """The keys of a `[table.header]` line."""
    if not line.lstrip(" \t").startswith("["):
        return None
    try:
        value: Any = parse(line.strip())
    except HostError:
        return None
    keys: list[str] = []
    while value:
        if isinstance(value, list):
            value = cast("list[Any]", value)[0]
            continue
        key = next(iter(cast("dict[str, Any]", value)))
        keys.append(key)
        value = value[key]
    return tuple(keys)


def _line_cuts(text: str, path: Path) -> Iterator[str]:
    """The text without the lines of the tables at and below `path`: all of them, then one each,
    as a line in a long string may look like a header too.

    From each header to the last line before the next one that is neither blank nor a comment:
    what follows belongs to the next table.
    """
    lines = text.splitlines(keepends=True)
    headers = [(number, _header(line)) for number, line in enumerate(lines)]
    starts = [(number, keys) for number, keys in headers if keys is not None]
    blocks: list[set[int]] = []
    for index, (start, keys) in enumerate(starts):
        if keys[: len(path)] != path:
            continue
        end = starts[index + 1][0] if index + 1 < len(starts) else len(lines)
        while end > start + 1 and lines[end - 1].strip()[:1] in ("", "#"):
            end -= 1
        # The blank line that set the table off goes with it.
        blank = start > 0 and not lines[start - 1].strip()
        blocks.append(set(range(start - blank, end)))
    for drop in [set[int]().union(*blocks), *blocks]:
        yield "".join(line for number, line in enumerate(lines) if number not in drop)
