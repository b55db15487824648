"""The official inspector's command line, in both protocol eras over every way to our tools."""

from __future__ import annotations

from typing import Any

import pytest

from .harness import Done, Endpoint, Room, client

pytestmark = pytest.mark.clients

TOOL_ERROR = 5
# Results of the stateless era name the server in their `_meta`.
ERA_MARK = "io.modelcontextprotocol/serverInfo"


@pytest.fixture(params=("legacy", "modern"))
def era(request: pytest.FixtureRequest) -> str:
    return request.param


def inspect(room: Room, endpoint: Endpoint, era: str, *options: str) -> Done:
    argv = [client("inspector", "mcp-inspector"), "--cli", "--format", "json"]
    argv += ["--protocol-era", era, "--stored-auth-only", *options]
    if endpoint.url:
        argv += ["--transport", "http", "--server-url", endpoint.url]
        for name, value in endpoint.headers.items():
            argv += ["--header", f"{name}: {value}"]
        return room.run(argv)
    for name, value in endpoint.env.items():
        argv += ["-e", f"{name}={value}"]
    return room.run([*argv, "--", *endpoint.argv])


def full_name(room: Room, endpoint: Endpoint, era: str, tool: str) -> str:
    """The tool's name as this endpoint offers it: where servers are joined it may have a prefix."""
    if endpoint.argv:
        return tool
    listed = inspect(room, endpoint, era, "--method", "tools/list").ok().json()
    names = [entry["name"] for entry in listed["result"]["tools"]]
    return next(name for name in names if name.endswith(tool))


def call(room: Room, endpoint: Endpoint, era: str, tool: str, arguments: str) -> Done:
    name = full_name(room, endpoint, era, tool)
    options = ["--method", "tools/call", "--tool-name", name, "--tool-args-json", arguments]
    return inspect(room, endpoint, era, *options)


def test_tools_are_listed_and_their_schemas_portable(
    room: Room, endpoint: Endpoint, era: str
) -> None:
    """`--strict` fails (exit 6) on a schema that one of the common model APIs refuses."""
    done = inspect(room, endpoint, era, "--strict", "--method", "tools/list").ok()
    tools: list[dict[str, Any]] = done.json()["result"]["tools"]
    assert any(tool["name"].endswith("system_health") for tool in tools)
    for tool in tools:
        assert tool["description"], tool["name"]
        assert tool["annotations"]["readOnlyHint"] is not None, tool["name"]


def test_a_read_tool_answers_with_structured_content(
    room: Room, endpoint: Endpoint, era: str
) -> None:
    result = call(room, endpoint, era, "system_health", "{}").ok().json()["result"]
    assert result["structuredContent"]["uptime_seconds"] > 0
    if era == "modern":
        assert ERA_MARK in result["_meta"]


def test_a_tool_error_is_one(room: Room, endpoint: Endpoint) -> None:
    done = call(room, endpoint, "modern", "file_read", '{"path": "/no/such/file"}')
    assert done.code == TOOL_ERROR, str(done)
    assert done.json()["result"]["isError"] is True


def test_without_its_token_the_gateway_refuses(room: Room, daemon: Any, era: str) -> None:
    done = inspect(room, Endpoint(url=daemon.url), era, "--method", "tools/list")
    assert done.code not in {0, TOOL_ERROR}, str(done)
    assert "tools" not in done.stdout
