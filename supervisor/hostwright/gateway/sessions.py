"""Sessions of the handshake era, so that they hear when the offer changes.

A client of the new era asks to be told (`subscriptions/listen`); one of the old era was promised
`notifications/*/list_changed` in the answer to `initialize` and gets them over its session.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import mcp_types as mcp
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession

TELL_SECONDS = 2.0
CHANGES: tuple[mcp.ServerNotification, ...] = (
    mcp.ToolListChangedNotification(),
    mcp.ResourceListChangedNotification(),
    mcp.PromptListChangedNotification(),
)


class AnnouncingServer(Server[Any]):
    """The SDK's server, promising to say when lists change on every transport."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """The options of `initialize`; the HTTP transport asks for them without arguments."""
        changes = NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(
            notification_options or changes, experimental_capabilities, extensions
        )


class Sessions:
    """The open sessions of one endpoint."""

    def __init__(self) -> None:
        self._open: dict[object, ServerSession] = {}

    async def notice(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Middleware: remember the session that has just been opened, until it ends."""
        if ctx.method == "notifications/initialized":
            connection = ctx.session._connection
            if connection not in self._open:
                self._open[connection] = ctx.session
                connection.exit_stack.callback(self._open.pop, connection, None)
        return await call_next(ctx)

    async def tell_all(self) -> None:
        """Tell each that lists changed. One that does not read holds up no other."""
        await asyncio.gather(*(self._tell(session) for session in list(self._open.values())))

    async def _tell(self, session: ServerSession) -> None:
        with anyio.move_on_after(TELL_SECONDS):
            for change in CHANGES:
                await session.send_notification(change)
