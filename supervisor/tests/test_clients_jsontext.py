"""Edits of JSON, JSONC and JSON5 text change what they are told to and nothing else.

The property tests write documents from a known value with random layout, comments and spelling, so
that the value to compare with does not come from the parser under test.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright.clients import jsonedit
from hostwright.clients.jsontext import InvalidTextError, JsonText

Level = Literal["json", "jsonc", "json5"]
ENTRY: dict[str, Any] = {
    "command": "/opt/x/bin/hostwright",
    "args": ["connect", "system"],
    "env": {"A": 'quote " and \\ slash'},
}

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=8
) | st.sampled_from(
    ["C:\\xampp\\u0041", "// no comment", "/* nor this */", 'a"b', "it's", "\u2028"]
)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(texts.filter(lambda key: key != "mcp"), values, max_size=4)


@dataclass
class Writer:
    """Writes a value as text with a random, valid layout."""

    draw: Any
    level: Level
    newline: str
    comments: int = 0
    parts: list[str] = field(default_factory=list[str])

    def gap(self) -> None:
        kinds = ["", " ", "\t", "nl", "nl  "]
        if self.level != "json":
            kinds += ["block", "line"]
        for kind in self.draw(st.lists(st.sampled_from(kinds), max_size=2)):
            if kind == "block":
                self.comments += 1
                self.parts.append(f'/*c{self.comments}, "{{"{self.newline}*/')
            elif kind == "line":
                self.comments += 1
                self.parts.append(f'//c{self.comments}, }} "x {self.newline}')
            else:
                self.parts.append(kind.replace("nl", self.newline))

    def string(self, value: str, *, key: bool = False) -> None:
        if self.level == "json5":
            style = self.draw(st.sampled_from(["double", "single", "bare"]))
            if style == "bare" and key and re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", value):
                self.parts.append(value)
                return
            if style == "single":
                inner = json.dumps(value)[1:-1].replace('\\"', '"').replace("'", "\\'")
                self.parts.append(f"'{inner}'")
                return
        ascii_only = self.draw(st.booleans())
        self.parts.append(json.dumps(value, ensure_ascii=ascii_only))

    def sequence(self, items: list[Any], brackets: str, write: Any) -> None:
        self.parts.append(brackets[0])
        self.gap()
        for index, item in enumerate(items):
            write(item)
            self.gap()
            trailing = self.level != "json" and self.draw(st.booleans())
            if index + 1 < len(items) or trailing:
                self.parts.append(",")
                self.gap()
        self.parts.append(brackets[1])

    def pair(self, item: tuple[str, Any]) -> None:
        self.string(item[0], key=True)
        self.gap()
        self.parts.append(":")
        self.gap()
        self.write(item[1])

    def write(self, value: Any) -> None:
        if isinstance(value, dict):
            self.sequence(list(value.items()), "{}", self.pair)
        elif isinstance(value, list):
            self.sequence(value, "[]", self.write)
        elif isinstance(value, str):
            self.string(value)
        elif self.level == "json5" and isinstance(value, int) and not isinstance(value, bool):
            sign = "-" if value < 0 else self.draw(st.sampled_from(["", "+"]))
            self.parts.append(sign + self.draw(st.sampled_from([str, hex]))(abs(value)))
        else:
            self.parts.append(json.dumps(value))


@st.composite
def written(draw: Any, value: Any = documents) -> tuple[dict[str, Any], str, int]:
    """A value, a text of it, and how many comments the text has (c1, c2, …)."""
    data = draw(value)
    writer = Writer(
        draw=draw,
        level=draw(st.sampled_from(["json", "jsonc", "json5"])),
        newline=draw(st.sampled_from(["\n", "\r\n"])),
    )
    writer.gap()
    writer.write(data)
    writer.gap()
    return data, "".join(writer.parts), writer.comments


def comments_in(text: str, count: int) -> list[int]:
    return [number for number in range(1, count + 1) if f"c{number}," in text]


def without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """The `mcp` table may have been made, or tidied away, by the edit."""
    return {key: item for key, item in value.items() if not (key == "mcp" and not item)}


def add_servers(data: dict[str, Any], servers: dict[str, Any] | None) -> dict[str, Any]:
    return {**data, "mcp": servers}


def has_servers(data: dict[str, Any]) -> bool:
    return bool(data.get("mcp"))


named = st.dictionaries(texts.filter(lambda key: key != "ours"), values, max_size=3)
with_servers = st.builds(add_servers, documents, st.none() | named)


@settings(max_examples=120, deadline=None)
@given(written(documents | with_servers))
def test_reading_gives_the_value_that_was_written(case: tuple[dict[str, Any], str, int]) -> None:
    data, text, _ = case
    assert JsonText(text).value == data


@settings(max_examples=150, deadline=None)
@given(written(documents | with_servers))
def test_an_entry_put_in_and_taken_out_leaves_everything_else(
    case: tuple[dict[str, Any], str, int],
) -> None:
    data, text, count = case
    put_in = jsonedit.set_value(text, ("mcp", "ours"), ENTRY)
    servers = data.get("mcp") or {}
    assert JsonText(put_in).value == {**data, "mcp": {**servers, "ours": ENTRY}}
    assert comments_in(put_in, count) == comments_in(text, count)
    # Nothing that was there is respelt: the old text is in the new one, with gaps.
    if data.get("mcp", {}) is not None:
        position = 0
        for character in re.sub(r"\s", "", text):
            position = put_in.index(character, position) + 1

    taken_out = jsonedit.remove(put_in, ("mcp", "ours"))
    after = JsonText(taken_out).value
    assert without_empty(after) == without_empty(data)
    assert comments_in(taken_out, count) == comments_in(text, count)


@settings(max_examples=120, deadline=None)
@given(written(with_servers.filter(has_servers)), st.data())
def test_any_member_can_go_and_only_it_goes(
    case: tuple[dict[str, Any], str, int], data: st.DataObject
) -> None:
    value, text, _ = case
    name = data.draw(st.sampled_from(sorted(value["mcp"])))
    result = JsonText(jsonedit.remove(text, ("mcp", name))).value
    expected = {**value, "mcp": {key: v for key, v in value["mcp"].items() if key != name}}
    assert without_empty(result) == without_empty(expected)


@settings(max_examples=80, deadline=None)
@given(written(with_servers.filter(has_servers)), st.data(), values)
def test_a_value_can_be_replaced(
    case: tuple[dict[str, Any], str, int], data: st.DataObject, new: Any
) -> None:
    value, text, _ = case
    name = data.draw(st.sampled_from(sorted(value["mcp"])))
    result = JsonText(jsonedit.set_value(text, ("mcp", name), new)).value
    assert result == {**value, "mcp": {**value["mcp"], name: new}}


@settings(max_examples=150, deadline=None)
@given(
    # An empty document has no layout to follow.
    (documents | with_servers.filter(has_servers)).filter(bool),
    st.sampled_from([2, 4, "\t", None]),
    st.sampled_from(["", "\n"]),
)
def test_a_file_as_programs_write_it_comes_back_to_the_byte(
    value: dict[str, Any], indent: Any, end: str
) -> None:
    text = json.dumps(value, indent=indent) + end
    put_in = jsonedit.set_value(text, ("mcp", "ours"), ENTRY)
    assert jsonedit.remove(put_in, ("mcp", "ours")) == text
    grown = {**value, "mcp": {**value.get("mcp", {}), "ours": ENTRY}}
    # What is put in looks as if the same program had written it.
    assert put_in == json.dumps(grown, indent=indent, ensure_ascii=True) + end


HAND_WRITTEN = """\
// my servers
{
\t// first
\t"a": 1, // one
\tmcp: { // here
\t\t'other': {command: 'x'}, /* mine */
\t\t// last words
\t},
}"""


def test_comments_of_others_stay_in_their_places() -> None:
    put_in = jsonedit.set_value(HAND_WRITTEN, ("mcp", "ours"), {"command": "y"})
    assert put_in == HAND_WRITTEN.replace(
        "// last words\n", '// last words\n\t\t"ours": {\n\t\t\t"command": "y"\n\t\t},\n'
    )
    assert jsonedit.remove(put_in, ("mcp", "ours")) == HAND_WRITTEN


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a":{"x":1,"y":2}}', '{"a":{"y":2}}'),
        ('{"a":{"y":2,"x":1}}', '{"a":{"y":2}}'),
        ('{"b":1,"a":{"x":1}}', '{"b":1}'),
        ('{"b":1,"a":{"x":1,/*k*/}}', '{"b":1,"a":{/*k*/}}'),
        ('{"a":{"y":2, // why\n"x":1}}', '{"a":{"y":2 // why\n}}'),
        ('{"a":{// why\n"x":1, "y":2}}', '{"a":{// why\n"y":2}}'),
        ('{"a":{"y":2,\n  "x":1 // mine\n}}', '{"a":{"y":2 // mine\n}}'),
        ('{"a":{"y":2, // his\n  "x":1, // mine\n}}', '{"a":{"y":2, // his\n  // mine\n}}'),
    ],
)
def test_commas_and_comments_around_a_cut(before: str, after: str) -> None:
    assert jsonedit.remove(before, ("a", "x")) == after


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "{true: 1, null: 2, Infinity: 3, NaN: 4}",
            {"true": 1, "null": 2, "Infinity": 3, "NaN": 4},
        ),
        ("{e2e: 1, E1: 2, e5_x: 3, a: 1e5}", {"e2e": 1, "E1": 2, "e5_x": 3, "a": 1e5}),
        (r'{"a": "C:\\xampp", /**/}', {"a": "C:\\xampp"}),
        (r'{"a": "\\u0041\u0041\x41", /**/}', {"a": "\\u0041AA"}),
        (r'{"a": "\ud83d\ude00", /**/}', {"a": "😀"}),
        ("{a: 'x\\\r\ny\\q\\0'}", {"a": "xyq\0"}),
        ("{a: [-Infinity, +1, -0x10, .5, 5.,]}", {"a": [float("-inf"), 1, -16, 0.5, 5.0]}),
    ],
)
def test_corners_of_json5(text: str, value: Any) -> None:
    assert JsonText(text).value == value


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a": 1\n "b": 2}', 2, 2),
        ('{\n  "a": 1,,\n}', 2, 9),
        ('{"a": tru}', 1, 7),
        ('{"a": 1', 1, 8),
        ("// only this\n", 2, 1),
        ('{"a": "x\ny"}', 1, 7),
        ('{"a": "x}', 1, 7),
        ("{a: '\\1'}", 1, 6),
        ('{"a": 1}}', 1, 9),
        ('{"a": §}', 1, 7),
        ("[1, 2]", 1, 1),
        ("\n 3 // x", 2, 2),
        ('{"a": 012}', 1, 7),
        ("{a: 1, // x\ry\n}", 1, 8),
        ('{"a":' * 100_000, 1, 1),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, line: int, column: int) -> None:
    with pytest.raises(InvalidTextError) as caught:
        JsonText(text).object_at(())
    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"line {line}, column {column}" in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize("text", ['{"a": {}, "a": {}}', '{"a": {}, /**/ "a": {}}', '{"a": [1]}'])
def test_a_place_that_is_not_one_object_is_not_edited(text: str) -> None:
    with pytest.raises(InvalidTextError):
        jsonedit.set_value(text, ("a", "x"), 1)
