"""Edits of TOML text change what they are told to; tomllib, not tomlkit, reads the results."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright.clients import tomltext
from hostwright.clients.jsontext import InvalidTextError

OURS = ("mcp_servers", "ours")
ENTRY: dict[str, Any] = {
    "command": "/opt/x/bin/hostwright",
    "args": ["connect", "system"],
    "env": {"A B": 'quote " and \\ slash'},
}

# Pieces of a file as people write them; every comment has a number so that it can be found again.
ROOT = ['model = "x" # c1\n', "# c2\n", "\n", "notify = [\n  'a', # c3\n  [\"b\"],\n]\n"]
TABLES = [
    "[tui]\n# c4\ntheme = 'dark'\n",
    "[[profiles]]\nname = 'p'\n\n",
    "[mcp_servers.other] # c5\ncommand = 'npx'\nargs = ['-y']\n# c6\n",
    "[mcp_servers.other.env]\nKEY = 'v'\n",
    '[notes]\ntext = """\n[mcp_servers.ours]\ncommand = 1\n"""\n# c7\n',
    "# c8\n[ mcp_servers . \"last one\" ]\nurl = 'http://x/mcp'\n\n\n",
]


@st.composite
def files(draw: Any) -> str:
    root = draw(st.lists(st.sampled_from(ROOT), unique=True))
    # A subtable may stand before its parent, and tables in any order.
    tables = draw(st.lists(st.sampled_from(TABLES), unique=True))
    text = "".join(root + tables)
    text = draw(st.sampled_from([text, text.rstrip("\n"), text + "\n"]))
    return draw(st.sampled_from([text, text.replace("\n", "\r\n")]))


def comments_in(text: str) -> list[str]:
    return [f"# c{number}" for number in range(1, 9) if f"# c{number}" in text]


@settings(max_examples=150, deadline=None)
@given(files())
def test_a_table_put_in_and_taken_out_leaves_the_file_as_it_was(text: str) -> None:
    before = tomllib.loads(text)
    put_in = tomltext.set_value(text, OURS, ENTRY)
    expected = {**before, "mcp_servers": {**before.get("mcp_servers", {}), "ours": ENTRY}}
    assert tomllib.loads(put_in) == expected
    assert put_in.startswith(text)
    if "\r\n" in text:
        assert put_in.count("\r\n") == put_in.count("\n")
    taken_out = tomltext.remove(put_in, OURS)
    # Only a last line end that was missing may be there now.
    assert taken_out in (text, text + "\n", text + "\r\n")


@settings(max_examples=100, deadline=None)
@given(files(), st.sampled_from(["env", "command", "new"]), st.sampled_from([5, "x", {"a": "b"}]))
def test_one_setting_of_a_table_can_be_set(text: str, key: str, value: Any) -> None:
    start = tomltext.set_value(text, OURS, ENTRY)
    result = tomltext.set_value(start, (*OURS, key), value)
    expected = tomllib.loads(start)
    expected["mcp_servers"]["ours"][key] = value
    assert tomllib.loads(result) == expected
    assert comments_in(result) == comments_in(text)
    gone = tomltext.remove(result, (*OURS, key))
    del expected["mcp_servers"]["ours"][key]
    assert tomllib.loads(gone) == expected
    assert comments_in(gone) == comments_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "mcp_servers = { other = { command = 'x' } } # c1\n",
        "mcp_servers.other.command = 'x'\n[a]\nb = 1\n",
        "[mcp_servers]\n# c1\n[mcp_servers.other]\ncommand = 'x'\n",
        "[mcp_servers]\nother = { command = 'x' }\n[z]\n",
        "[mcp_servers.other]\ncommand = 'x'\n[z]\ny = 1\n[mcp_servers.third]\ncommand = 'z'\n",
    ],
)
def test_every_way_to_write_the_servers(text: str) -> None:
    before = tomllib.loads(text)
    put_in = tomltext.set_value(text, OURS, ENTRY)
    before["mcp_servers"]["ours"] = ENTRY
    assert tomllib.loads(put_in) == before
    assert comments_in(put_in) == comments_in(text)
    taken_out = tomltext.remove(put_in, OURS)
    assert tomllib.loads(taken_out) == tomllib.loads(text)
    assert comments_in(taken_out) == comments_in(text)


def test_a_comment_above_the_next_table_belongs_to_it() -> None:
    text = "[mcp_servers.ours]\ncommand = 'x'\n# inside\nargs = []\n\n# about z\n[z]\ny = 1\n"
    assert tomltext.remove(text, OURS) == "\n# about z\n[z]\ny = 1\n"


def test_a_header_inside_a_string_is_not_taken_for_one() -> None:
    text = '[mcp_servers.ours]\nnote = """\n[z]\n"""\ncommand = "x"\n[y]\nb = 1\n'
    assert tomllib.loads(tomltext.remove(text, OURS)) == {"y": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", None), ("[x\n", 1), ("a = 'x\n", 1)],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int | None) -> None:
    with pytest.raises(InvalidTextError) as caught:
        tomltext.parse(text)
    if line is not None:
        assert caught.value.line == line
    assert caught.value.fix
