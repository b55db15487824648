"""A server of both eras whose resources can be subscribed to, on the SDK's low-level server.

    subscribing_server.py [http PORT]

FastMCP has no `resources/subscribe`. Its tool `touch` changes a resource and tells whoever has
subscribed to it; `watched` says which are subscribed to, one list for every subscription that is
open, and one for all of the handshake era; `hang_up` ends those of the new era; `add` lists one
resource more, which only those hear of who listen.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
import mcp_types as mcp
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
)
from mcp.shared.exceptions import MCPError

Ctx = ServerRequestContext[Any]
VALUES = {"counter://a": 0, "counter://b": 0}
BUS = InMemorySubscriptionBus()
WATCHED: set[str] = set()


class Listening(ListenHandler):
    """Knows who listens to what."""

    def __init__(self) -> None:
        super().__init__(BUS)
        self.open: list[list[str]] = []

    async def __call__(
        self, ctx: Ctx, params: mcp.SubscriptionsListenRequestParams
    ) -> mcp.SubscriptionsListenResult:
        uris = sorted(params.notifications.resource_subscriptions or ())
        self.open.append(uris)
        try:
            return await super().__call__(ctx, params)
        finally:
            self.open.remove(uris)


LISTENING = Listening()


def _tool(name: str, **properties: Any) -> mcp.Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return mcp.Tool(name=name, description=f"{name} a counter", input_schema=schema)


async def list_tools(_: Ctx, __: Any) -> mcp.ListToolsResult:
    return mcp.ListToolsResult(
        tools=[
            *(_tool(name, uri={"type": "string"}) for name in ("touch", "add")),
            *(_tool(name) for name in ("watched", "hang_up")),
        ]
    )


async def call_tool(ctx: Ctx, params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
    words = params.name
    if params.name == "watched":
        words = json.dumps([*LISTENING.open, sorted(WATCHED)])
    elif params.name == "hang_up":
        LISTENING.close()
    elif params.name == "add":
        VALUES[str((params.arguments or {})["uri"])] = 0
        await BUS.publish(ResourcesListChanged())
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
        on_subscriptions_listen=LISTENING,
    )
    options = server.create_initialization_options(NotificationOptions(resources_changed=True))
    if sys.argv[1:2] == ["http"]:
        app = server.streamable_http_app(stateless_http=True)
        config = uvicorn.Config(app, port=int(sys.argv[2]), log_level="error")
        await uvicorn.Server(config).serve()
        return
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


if __name__ == "__main__":
    anyio.run(main)
