"""Views: what is shown is what can be called, whatever the rules and the names are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostwright.toolsearch.index import Document, ToolIndex, words
from hostwright.toolsearch.tools import MAX_RESULT_CHARS, answer
from hostwright.views import View, Views, settle
from hostwright_kit.token_rules import TokenRules


class Tool(NamedTuple):
    server: str
    name: str
    shown: str
    entry: Mapping[str, Any]


def listing(*shown: str) -> list[Tool]:
    """As the catalog gives it: SERVER__NAME is a third-party tool, a bare name one of `ours`."""
    tools: list[Tool] = []
    for one in shown:
        server, separator, name = one.partition("__")
        owner, own = (server, name) if separator else ("ours", one)
        entry = {"name": one, "description": f"does {own}", "inputSchema": {"type": "object"}}
        tools.append(Tool(owner, own, one, entry))
    return tools


SHOWN = st.sampled_from(["a", "b", "c", "x__a", "x__b", "y__a", "y__b", "a_b", "x__a_b"])
GLOB = st.sampled_from(["*", "a", "b", "x__*", "*_b", "ours__a", "?", "y__a", "[ab]", "z*"])
NEW = st.sampled_from(["a", "b", "c", "new", "other", "x_a"])
RULES = st.builds(
    TokenRules,
    servers=st.lists(st.sampled_from(["*", "ours", "x", "y"]), max_size=2).map(tuple),
    not_servers=st.lists(st.sampled_from(["ours", "x", "y", "q"]), max_size=2).map(tuple),
    tools=st.lists(GLOB, max_size=3).map(tuple),
    not_tools=st.lists(GLOB, max_size=2).map(tuple),
    rename=st.dictionaries(SHOWN, NEW, max_size=4).filter(
        lambda renames: len(set(renames.values())) == len(renames)
    ),
)


@given(shown=st.lists(SHOWN, unique=True, max_size=9), rules=RULES)
def test_shown_and_callable_are_the_same(shown: list[str], rules: TokenRules) -> None:
    tools = listing(*shown)
    view = View(tools, rules)
    names = list(view.names())
    assert len(set(names)) == len(names)
    found = [view.lookup(name) for name in names]
    assert [item for _, item in view.items()] == found
    assert all(view.entry(name)["name"] == name for name in names)
    # Nothing that is hidden can be reached by any name, old or new.
    hidden = [tool for tool in tools if tool not in found]
    for name in [*shown, *rules.rename.values(), *(f"{t.server}__{t.name}" for t in tools)]:
        assert view.lookup(name) not in hidden
    for tool in hidden:
        assert not rules.sees_tool(tool.server, tool.shown, f"{tool.server}__{tool.name}")
    # A name that a visible tool has without any rule stays its own, or is given up by a rename of
    # its owner: it never comes to mean another one while its owner still bears it.
    for tool in tools:
        bearer = view.lookup(tool.shown)
        if bearer is not None and bearer is not tool and tool in found:
            owns = [name for name, item in view.items() if item is tool]
            assert owns != [tool.shown]


@given(
    names=st.lists(st.sampled_from("abcdef"), unique=True),
    wanted=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcxyz")),
)
def test_settling_names_is_one_to_one(names: list[str], wanted: dict[str, str]) -> None:
    settled = settle(names, wanted)
    assert list(settled) == names
    assert len(set(settled.values())) == len(names)
    assert all(new in (old, wanted.get(old)) for old, new in settled.items())


def test_renames_that_collide_are_not_applied_and_others_are() -> None:
    view = View(listing("a", "b", "x__a"), TokenRules(rename={"a": "b", "x__a": "shop_a"}))
    assert list(view.names()) == ["a", "b", "shop_a"]
    swapped = View(listing("a", "b"), TokenRules(rename={"a": "b", "b": "a"}))
    assert [(name, item.name) for name, item in swapped.items()] == [("b", "a"), ("a", "b")]
    # What is hidden has no name to be taken.
    free = View(listing("a", "b"), TokenRules(not_tools=("b",), rename={"a": "b"}))
    assert [(name, item.name) for name, item in free.items()] == [("b", "a")]


@pytest.mark.parametrize("new", ["", "a b", "x__y", "é", "a" * 65, "a\n", "a.b"])
def test_a_new_name_is_one_that_every_client_takes(new: str) -> None:
    with pytest.raises(ValidationError):
        TokenRules(rename={"a": new})


def test_two_tools_cannot_be_given_one_name() -> None:
    with pytest.raises(ValidationError, match="cannot both be called"):
        TokenRules(rename={"a": "new", "b": "new"})


def test_views_are_made_again_only_when_something_changed() -> None:
    views: Views[Tool] = Views()
    rules = TokenRules(tools=("a",))
    one = views.view(listing("a", "b"), 1, rules, endpoint="all")
    assert views.view(listing("a", "b"), 1, rules, endpoint="all") is one
    assert views.view(listing("a"), 2, rules, endpoint="all") is not one
    assert list(views.view(listing("a", "b"), 1, TokenRules(), endpoint="all").names()) == [
        "a",
        "b",
    ]
    searched = views.view(listing("a"), 1, rules, endpoint="all", mode="search")
    assert (searched.mode, one.mode) == ("search", "full")


# -- the search over a view ------------------------------------------------------------------------


@given(text=st.text(max_size=300))
def test_any_text_can_be_searched_for(text: str) -> None:
    index = ToolIndex([Document.of("list_ports", "net", {"description": "Open ports"}, "")])
    assert index.search(text, 5) in ([], ["list_ports"])
    assert "_" not in words(text)


@given(
    entry=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["inputSchema", "properties", "items", "description", "title", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_a_listing_of_any_shape_can_be_indexed_and_told(entry: Any) -> None:
    fields = entry if isinstance(entry, dict) else {"inputSchema": entry}
    view = View([Tool("x", "tool_one", "x__tool_one", fields)], TokenRules())
    assert view.index.search("tool one", 5) == ["x__tool_one"]
    assert answer("tool_search", {"query": "one"}, view)["structuredContent"]["tools"]
    assert answer("tool_describe", {"names": ["x__tool_one"]}, view)["structuredContent"]["tools"]


def test_words_are_found_in_whatever_way_they_are_written() -> None:
    entries = {
        "listOpenPorts": {"description": "Sockets"},
        "HTTPServerStatus": {"description": "Überprüft den Zustand"},
        "note_add": {"inputSchema": {"properties": {"dueDate": {"description": "when"}}}},
        "検索": {"description": "ファイルを検索する"},
    }
    index = ToolIndex(Document.of(name, "s", entry, "") for name, entry in entries.items())
    for query, wanted in {
        "open ports": "listOpenPorts",
        "port": "listOpenPorts",
        "server status": "HTTPServerStatus",
        "uberpruft": "HTTPServerStatus",
        "due date": "note_add",
        "ファイル": "検索",
    }.items():
        assert index.search(query, 1) == [wanted], query


def test_results_are_bounded() -> None:
    prose = "word " * 20_000
    tools = [
        Tool("x", f"t{n}", f"x__t{n}", {"name": f"t{n}", "description": prose}) for n in range(25)
    ]
    view = View(tools, TokenRules())
    found = answer("tool_search", {"query": "word", "limit": 25}, view)
    assert len(found["content"][0]["text"]) <= MAX_RESULT_CHARS + 1_000
    told = answer("tool_describe", {"names": [f"x__t{n}" for n in range(10)]}, view)
    assert len(told["content"][0]["text"]) <= MAX_RESULT_CHARS + 2_000
    assert "Ask for fewer" in told["structuredContent"]["note"]


def test_hidden_tools_are_not_found() -> None:
    view = View(listing("secret_tool", "open_tool"), TokenRules(not_tools=("secret*",)))
    assert view.index.search("secret tool", 5) == ["open_tool"]
