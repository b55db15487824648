"""Search mode at the front door: what is found, and that calling over it changes nothing.

The labelled requests are worded as users word them, not as the tools do; they hold the search to
finding the right tool among the first five nine times out of ten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from hostwright.toolsearch.index import Document, ToolIndex

from .daemon_harness import ERAS, SUITE, Daemon, Era, Installation, failure, over_socket, structured

REQUESTS = {
    "how much memory is free": "system_health",
    "is the machine overloaded right now": "system_health",
    "which processes use the most cpu": "system_query",
    "list installed packages": "system_query",
    "what is listening on port 8080": "system_discover",
    "show open ports": "system_query",
    "what is my ip address": "network_info",
    "which dns servers are configured": "network_info",
    "kill the process 4711": "process_signal",
    "send SIGTERM to a program": "process_signal",
    "show me the contents of a file": "file_read",
    "what is inside this folder": "directory_list",
    "list files in a directory": "directory_list",
    "grep for TODO in the source code": "file_search",
    "find all files named *.py": "file_search",
    "create a new text file": "file_write",
    "replace a word in a file": "file_edit",
    "rename a file": "file_move",
    "delete a folder": "file_delete",
    "undelete something from the trash": "file_restore",
    "which backups do I have": "backup_list",
    "what is in the trash": "trash_list",
    "restart nginx": "service_control",
    "is the ssh daemon running": "service_status",
    "read the systemd journal": "journal_logs",
    "show logs of a service since yesterday": "journal_logs",
    "run a shell command": "shell_exec",
    "execute a command in the background": "shell_start",
    "has the long running job finished": "job_status",
    "show the output of a job": "job_output",
    "stop a running job": "job_cancel",
    "who approved what in the audit log": "event_log",
    "what did you change on my machine": "receipt_list",
    "disable a systemd unit at boot": "service_control",
    "how hot is the processor": "system_health",
    "restart a server of the supervisor": "mcp_server_restart",
    "why did the mcp server crash, show its log": "mcp_server_logs",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("search"))
    made.third_party("shop", "--tool", "listOpenOrders", "--tool", "cancel_order")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def daemon(home: Installation) -> Iterator[Daemon]:
    with home.up() as running:
        yield running


def searching(daemon: Daemon, era: Era = "2026-07-28") -> Client[Any]:
    """A client of the owner's socket with `?tools=search`."""
    way = over_socket(daemon.home.runtime / "gateway.sock")
    transport = StreamableHttpTransport("http://gateway/mcp?tools=search", httpx_client_factory=way)
    return Client(transport, mode=era)


async def test_the_right_tool_is_among_the_first_five(daemon: Daemon) -> None:
    async with daemon.client("socket") as client:
        tools = [tool.model_dump(by_alias=True) for tool in await client.list_tools()]
    index = ToolIndex(Document.of(tool["name"], "", tool, "") for tool in tools)
    found = {request: index.search(request, 5) for request in REQUESTS}
    missed = {one: found[one] for one, tool in REQUESTS.items() if tool not in found[one]}
    assert len(missed) <= len(REQUESTS) // 10, missed
    first = [one for one, tool in REQUESTS.items() if found[one][:1] == [tool]]
    assert len(first) >= len(REQUESTS) * 0.6, {one: found[one] for one in set(REQUESTS) - {*first}}


@pytest.mark.parametrize("era", ERAS)
async def test_three_tools_stand_for_all(daemon: Daemon, era: Era) -> None:
    async with searching(daemon, era) as client:
        listed = {tool.name: tool for tool in await client.list_tools()}
        assert set(listed) == {"tool_search", "tool_describe", "tool_call"}
        hints = listed["tool_call"].annotations
        assert hints
        assert (hints.read_only_hint, hints.destructive_hint) == (False, True)
        found = await client.call_tool("tool_search", {"query": "open orders", "limit": 3})
        names = [one["name"] for one in structured(found)["tools"]]
        assert names[0] == "shop__listOpenOrders"
        assert len(names) <= 3
        told = await client.call_tool("tool_describe", {"names": ["file_read"]})
        (entry,) = structured(told)["tools"]
        assert "path" in entry["inputSchema"]["properties"]
        assert entry["annotations"]["readOnlyHint"] is True
        call = {"name": "shop__listOpenOrders", "arguments": {"day": "today"}}
        result = await client.call_tool("tool_call", call)
        assert 'shop.listOpenOrders {"day": "today"}' in str(result.content)
        # By its own name as well: the model has it from the search.
        await client.call_tool("shop__cancel_order", {})


async def test_a_search_within_one_server_and_for_nothing(daemon: Daemon) -> None:
    async with searching(daemon) as client:
        query = {"query": "cancel or list something", "server": "shop", "limit": 25}
        found = await client.call_tool("tool_search", query)
        assert {one["server"] for one in structured(found)["tools"]} == {"shop"}
        for nothing in ("zzzqqq", "§$%&", '"'):
            found = await client.call_tool("tool_search", {"query": nothing})
            assert structured(found)["tools"] == []
            assert "other words" in structured(found)["note"]


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "told"),
    [
        ("tool_call", {"name": "file_reed"}, "unknown_tool", "file_read"),
        ("tool_describe", {"names": ["cancel order"]}, "unknown_tool", "shop__cancel_order"),
        ("tool_call", {"name": "tool_call", "arguments": {}}, "unknown_tool", "tool_search"),
        ("tool_search", {}, "bad_arguments", "query"),
        ("tool_search", {"query": "x", "limit": 10_000}, "bad_arguments", "limit"),
        ("tool_describe", {"names": ["x"] * 11}, "bad_arguments", "names"),
        ("no_such", {}, "unknown_tool", "tool_search"),
    ],
)
async def test_mistakes_are_answered_with_the_way_out(
    daemon: Daemon, tool: str, arguments: dict[str, Any], code: str, told: str
) -> None:
    async with searching(daemon) as client:
        result = await client.call_tool(tool, arguments, raise_on_error=False)
    error = failure(result)
    assert error["code"] == code
    assert told in error["message"] + error["fix"]


async def test_a_call_over_the_search_is_guarded_like_any_other(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = Installation(tmp_path_factory.mktemp("observe"), profile="observe")
    home.without_suite()
    home.third_party("shop", "--tool", "buy")
    try:
        with home.up() as daemon:
            async with searching(daemon) as client:
                call = {"name": "shop__buy", "arguments": {"token": "s3cret-t0ken"}}
                result = await client.call_tool("tool_call", call, raise_on_error=False)
            assert failure(result)["code"] == "denied"
        (denied,) = home.events(type="call.denied")
        assert (denied.server, denied.tool) == ("shop", "buy")
        assert "s3cret" not in str(denied)
    finally:
        home.close()


def test_what_the_listing_costs_is_told(home: Installation, daemon: Daemon) -> None:
    costs = json.loads(home.cli("tools", "--cost", "--json").stdout)
    assert {one["server"] for one in costs["servers"]} == {*SUITE, "hostwright", "shop"}
    assert costs["full_tokens"] == sum(one["tokens"] for one in costs["tools"])
    assert costs["search_tokens"] < costs["full_tokens"] / 5
    assert "/ 3.6" in costs["method"]
    shown = home.cli("tools", "shop", "--cost").stdout
    assert "cancel_order" in shown
    assert "Approximate" in shown
    assert "file_read" not in shown
