"""Edit JSON, JSONC and JSON5 text at the positions that its parser found.

An edit replaces the few characters that it concerns: comments, order, spacing and the spelling of
everything else stay as they are. New text follows the indentation and the line ends around it.
Pure functions on text.
"""

from __future__ import annotations

import json
from typing import Any

from .jsontext import WHITESPACE, JsonText, ObjectSpan, Path


def set_value(text: str, path: Path, value: Any) -> str:
    """The text with `value` at `path`; objects on the way are made where they are missing."""
    if not text.strip(WHITESPACE):
        for key in reversed(path):
            value = {key: value}
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    document = JsonText(text)
    depth = len(path) - 1
    while (parent := document.object_at(path[:depth])) is None:
        depth -= 1
    for key in reversed(path[depth + 1 :]):
        value = {key: value}
    found = parent.get(path[depth])
    if found is None:
        return _insert(document, parent, path[depth], value)
    rendered = _render(
        document, value, _indent_at(text, found.start), inline=_inline(document, parent)
    )
    return text[: found.value_start] + rendered + text[found.end :]


def remove(text: str, path: Path) -> str:
    """The text without the member at `path`.

    An object left empty by it goes too, when there is no comment in it: it was made for the
    member, or means nothing without it.
    """
    document = JsonText(text)
    parent = document.object_at(path[:-1])
    found = parent.get(path[-1]) if parent else None
    if parent is None or found is None:
        return text
    if len(parent.members) == 1 and len(path) > 1:
        holder = document.object_at(path[:-2])
        member = holder.get(path[-2]) if holder else None
        rest = text[parent.start + 1 : found.start] + text[found.end : parent.end - 1]
        lead = text[member.key_end : member.value_start] if member else ""
        if not (rest + lead).strip(WHITESPACE + ",:"):
            return remove(text, path[:-1])
    return _cut(document, parent, parent.members.index(found))


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indent_at(text: str, index: int) -> str:
    """The white space that begins the line of a position."""
    line = text[text.rfind("\n", 0, index) + 1 : index]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _own_line(text: str, index: int) -> bool:
    before = text[:index].rstrip(" \t")
    return before.endswith("\n")


def _unit(document: JsonText) -> str:
    """One step of indentation, as the outermost object uses it."""
    root = document.object_at(())
    if root and root.members and _own_line(document.text, root.members[0].start):
        return _indent_at(document.text, root.members[0].start) or "  "
    return "  "


def _inline(document: JsonText, parent: ObjectSpan) -> bool:
    """Whether the members of an object stand on one line."""
    text = document.text
    if not parent.members:
        bare = text.strip(WHITESPACE)
        return "\n" not in bare and bare != text[parent.start : parent.end]
    last = parent.members[-1]
    lead = text[parent.start : parent.members[0].start]
    tail = text[last.end if last.comma is None else last.comma : parent.end]
    return "\n" not in lead and "\n" not in tail


def _render(document: JsonText, value: Any, indent: str, *, inline: bool) -> str:
    if inline:
        return json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, ensure_ascii=False, indent=_unit(document)).split("\n")
    return (_newline(document.text) + indent).join(lines)


def _insert(document: JsonText, parent: ObjectSpan, key: str, value: Any) -> str:
    text = document.text
    close = parent.end - 1
    inline = _inline(document, parent)
    base = _indent_at(text, parent.start)
    last = parent.members[-1] if parent.members else None
    if last is None:
        behind, comma = parent.start + 1, False
    else:
        behind, comma = (last.end, False) if last.comma is None else (last.comma + 1, True)
    # Behind the last value, its comma and every comment: those belong to what is there already.
    point = behind + len(text[behind:close].rstrip(WHITESPACE))
    indent = base + _unit(document)
    if last is not None and _own_line(text, last.start):
        indent = _indent_at(text, last.start)
    lead = (" " if last else "") if inline else _newline(text) + indent
    member = f"{json.dumps(key, ensure_ascii=False)}: " + _render(
        document, value, indent, inline=inline
    )
    tail = text[point:]
    if not inline and "\n" not in text[point:close]:
        tail = _newline(text) + base + text[close:]
    head = text[:point]
    if last is not None and not comma:
        head = text[: last.end] + "," + text[last.end : point]
    return head + lead + member + ("," if comma else "") + tail


def _cut(document: JsonText, parent: ObjectSpan, index: int) -> str:
    text = document.text
    member = parent.members[index]
    head, tail = text[: member.start], text[member.end :]
    before: int | None = None
    if member.comma is not None:
        between = text[member.end : member.comma]
        tail = (between if between.strip(WHITESPACE) else "") + text[member.comma + 1 :]
    elif index > 0:
        # The last member goes: the comma in front of it would become a trailing one.
        before = parent.members[index - 1].comma
        if before is not None:
            head = text[:before] + text[before + 1 : member.start]
    kept = head.rstrip(WHITESPACE)
    gap = head[len(kept) :]
    following = tail[: len(tail) - len(tail.lstrip(WHITESPACE))]
    last = len(kept) - 1
    if before is not None and last >= before:
        last += 1
    after_comment = document.in_line_comment(last)
    if after_comment and "\n" not in following:
        tail = tail.lstrip(" \t")
    elif "\n" in gap or index > 0 or member.comma is None:
        head = kept
    else:
        tail = tail.lstrip(" \t")
    opening = head.rstrip(WHITESPACE)
    closing = tail.lstrip(WHITESPACE)
    if len(parent.members) == 1 and len(opening) == parent.start + 1 and closing.startswith("}"):
        return opening + closing
    return head + tail
