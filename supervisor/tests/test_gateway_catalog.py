"""What is offered under which name, and what becomes of a server's mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.catalog import MAX_ENTRIES, Catalog
from hostwright.gateway.codec import RpcError

ALL = {"tools": {}, "resources": {}, "prompts": {}}


class Lists:
    """A link that knows nothing but lists, a few entries per page."""

    def __init__(self, server: str, page: int = 2, **lists: Sequence[Any]) -> None:
        self.server = server
        self.page = page
        self.lists: dict[str, Sequence[Any]] = {"tools": (), **lists}
        self.error: Exception | None = None

    async def request(self, method: str, params: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        kind = {"resources/templates/list": "resourceTemplates"}.get(
            method, method.split("/", maxsplit=1)[0]
        )
        if kind not in self.lists:
            raise RpcError(-32601, "Method not found")
        every, start = self.lists[kind], int(params.get("cursor", 0))
        end = start + self.page
        return {kind: list(every[start:end]), **({"nextCursor": str(end)} if every[end:] else {})}


def tools(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "inputSchema": {"type": "object"}} for name in names]


async def catalog_of(*links: Lists, without: str = "", theirs: str = "") -> Catalog:
    catalog = Catalog(lambda server: server not in theirs.split(), lambda _, tool: tool != without)
    for link in links:
        await catalog.refresh(link, ALL)
    return catalog


def names(catalog: Catalog, *servers: str) -> list[str]:
    return [item.shown for item in catalog.listing("tools", servers)]


NAMES = st.lists(
    st.text("ab_2", min_size=1, max_size=6).map(lambda name: name or "a"), max_size=6, unique=True
)


@given(first=NAMES, second=NAMES, third=NAMES, theirs=st.sampled_from(["", "b", "b a--b"]))
async def test_every_tool_has_a_name_of_its_own_that_leads_back_to_it(
    first: list[str], second: list[str], third: list[str], theirs: str
) -> None:
    servers = {"a": first, "b": second, "a--b": third}
    links = (Lists(name, tools=tools(*own)) for name, own in servers.items())
    catalog = await catalog_of(*links, theirs=theirs)
    listed = catalog.listing("tools", list(servers))
    assert len({item.shown for item in listed}) == len(listed) == sum(map(len, servers.values()))
    for item in listed:
        found = catalog.owner("tools", item.shown, list(servers))
        assert found is not None
        assert (found.server, found.name) == (item.server, item.name)
        assert item.name in servers[item.server]
        assert item.entry["name"] == item.shown
    # Who comes first keeps every name.
    assert [item.shown for item in listed[: len(first)]] == first


async def test_a_strangers_tool_never_passes_for_another() -> None:
    both = Lists("a", tools=tools("x")), Lists("z", tools=tools("x", "y"))
    catalog = await catalog_of(*both, theirs="z")
    assert names(catalog, "a", "z") == ["x", "z__x", "z__y"]
    # Neither while the other one has not been seen yet, nor by its own order.
    alone = await catalog_of(both[1], theirs="z")
    assert names(alone, "a", "z") == ["z__x", "z__y"]
    assert alone.owner("tools", "x", ["a", "z"]) is None
    # On an endpoint of its own there is nothing to be confused with.
    assert names(catalog, "z") == ["x", "y"]


async def test_a_name_that_is_made_does_not_take_one_that_exists() -> None:
    catalog = await catalog_of(
        Lists("a", tools=tools("x", "b__x")), Lists("b", tools=tools("x", "y"))
    )
    assert names(catalog, "a", "b") == ["x", "b__x", "b2__x", "y"]
    assert names(catalog, "b") == ["x", "y"]
    assert catalog.owner("tools", "b__x", ["b"]) is None


async def test_resources_that_share_a_uri_stay_uris() -> None:
    note = {"name": "n", "uri": "note://one"}
    links = Lists("a", resources=[note]), Lists("b-c", resources=[note])
    catalog = await catalog_of(*links, theirs="b-c")
    shown = [item.shown for item in catalog.listing("resources", ["a", "b-c"])]
    assert shown == ["note://one", "b-c+note://one"]
    owned = catalog.owner("resources", "b-c+note://one", ["a", "b-c"])
    assert owned is not None
    assert (owned.server, owned.name) == ("b-c", "note://one")


async def test_what_the_owner_excluded_is_not_offered() -> None:
    catalog = await catalog_of(Lists("a", tools=tools("keep", "drop")), without="drop")
    assert names(catalog, "a") == ["keep"]
    assert catalog.owner("tools", "drop", ["a"]) is None
    assert catalog.count("a") == 1
    assert catalog.count("b") is None
    gone = Lists("b", tools=tools("x"))
    gone.error = LinkLostError("b")
    with pytest.raises(LinkLostError):
        await catalog.refresh(gone, ALL)
    assert catalog.count("b") is None


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "text",
        {},
        {"name": 7, "inputSchema": {"type": "object"}},
        {"name": "no_schema"},
        {"name": "list_schema", "inputSchema": []},
        {"name": "bad_hint", "inputSchema": {"type": "object"}, "annotations": "none"},
    ],
)
async def test_an_entry_that_is_none_is_left_out_alone(wrong: Any) -> None:
    catalog = await catalog_of(Lists("a", tools=[*tools("one"), wrong, *tools("two", "one")]))
    assert names(catalog, "a") == ["one", "two"]


async def test_lists_that_are_no_lists_are_empty_and_endless_ones_are_cut() -> None:
    class Odd(Lists):
        async def request(self, method: str, params: Mapping[str, Any], **_: Any) -> dict[str, Any]:
            if method == "tools/list":
                return {"tools": {"name": "x"}}
            entry = {"name": "p" + str(params.get("cursor", ""))}
            return {"prompts": [entry] * 1_000, "nextCursor": [1]}

    catalog = await catalog_of(Odd("a"))
    assert names(catalog, "a") == []
    assert catalog.count("a", "prompts") == 2

    many = Lists("b", page=1_000, tools=tools(*(f"t{number}" for number in range(7_000))))
    assert len(names(await catalog_of(many), "b")) == MAX_ENTRIES


async def test_what_was_known_stays_while_a_server_is_away() -> None:
    link = Lists("a", tools=tools("one"), prompts=[{"name": "p"}])
    catalog = await catalog_of(link)
    link.error = LinkLostError("a")
    with pytest.raises(LinkLostError):
        await catalog.refresh(link, ALL)
    assert names(catalog, "a") == ["one"]
    link.error = RpcError(-32603, "not now")
    # A server that does not tell its tools is not well, and a health check must see that.
    with pytest.raises(RpcError):
        await catalog.refresh(link, ALL, ("tools",))
    assert not await catalog.refresh(link, ALL, ("resources", "resourceTemplates", "prompts"))
    assert catalog.count("a", "prompts") == 1
    assert names(catalog, "a") == ["one"]


async def test_a_change_is_told_once_and_seen_at_once() -> None:
    link = Lists("a", tools=tools("one"))
    catalog = await catalog_of()
    assert await catalog.refresh(link, ALL)
    assert not await catalog.refresh(link, ALL)
    assert names(catalog, "a") == ["one"]
    link.lists["tools"] = tools("one", "two")
    assert await catalog.refresh(link, ALL)
    assert names(catalog, "a") == ["one", "two"]
    link.lists["tools"] = []
    assert await catalog.refresh(link, ALL)
    assert names(catalog, "a") == []
    # What a server does not declare is not asked for.
    assert not await catalog.refresh(Lists("b"), {})
