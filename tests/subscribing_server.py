"""A server of both eras whose resources can be subscribed to, on the SDK's low-level server.

FastMCP has no `resources/subscribe`. Its tool `touch` changes a resource and tells whoever has
subscribed to it; `watched` says which are subscribed to in the handshake era.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import mcp_types as mcp
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError

Ctx = ServerRequestContext[Any]
VALUES = {"counter://a": 0, "counter://b": 0}
BUS = InMemorySubscriptionBus()
WATCHED: set[str] = set()


def _tool(name: str, **properties: Any) -> mcp.Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return mcp.Tool(name=name, description=f"{name} a counter", input_schema=schema)


async def list_tools(_: Ctx, __: Any) -> mcp.ListToolsResult:
    return mcp.ListToolsResult(tools=[_tool("touch", uri={"type": "string"}), _tool("watched")])


async def call_tool(ctx: Ctx, params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
    if params.name == "watched":
        words = json.dumps(sorted(WATCHED))
    else:
        uri = str((params.arguments or {})["uri"])
        VALUES[uri] += 1
        await BUS.publish(ResourceUpdated(uri=uri))
        if uri in WATCHED:
            await ctx.session.send_resource_updated(uri)
        words = str(VALUES[uri])
    return mcp.CallToolResult(content=[mcp.TextContent(text=words)])


async def list_resources(_: Ctx, __: Any) -> mcp.ListResourcesResult:
    return mcp.ListResourcesResult(
        resources=[mcp.Resource(uri=uri, name=uri, mime_type="text/plain") for uri in VALUES]
    )


async def read_resource(_: Ctx, params: mcp.ReadResourceRequestParams) -> mcp.ReadResourceResult:
    if params.uri not in VALUES:
        raise MCPError(mcp.INVALID_PARAMS, "Resource not found", {"uri": params.uri})
    found = mcp.TextResourceContents(uri=params.uri, text=str(VALUES[params.uri]))
    return mcp.ReadResourceResult(contents=[found])


async def subscribe(_: Ctx, params: mcp.SubscribeRequestParams) -> mcp.EmptyResult:
    WATCHED.add(params.uri)
    return mcp.EmptyResult()


async def unsubscribe(_: Ctx, params: mcp.UnsubscribeRequestParams) -> mcp.EmptyResult:
    WATCHED.discard(params.uri)
    return mcp.EmptyResult()


async def main() -> None:
    server: Server[Any] = Server(
        "subscribing",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_subscriptions_listen=ListenHandler(BUS),
    )
    options = server.create_initialization_options(NotificationOptions(resources_changed=True))
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


if __name__ == "__main__":
    anyio.run(main)
