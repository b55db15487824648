"""The supervisor's own MCP tools, offered in the same gateway under the same guard."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

from hostwright import __version__
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.status import ActionResult, ServerStatus
from hostwright_kit.errors import HostError
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

NAME = "hostwright"
Server = Annotated[str, Field(min_length=1, max_length=63, description="Name from mcp_servers.")]

INSTRUCTIONS = "The supervisor: which MCP servers run here, how they are, and their logs."


class ServerList(BaseModel, frozen=True):
    """All servers of this daemon."""

    servers: list[ServerStatus]
    terminal_approval: bool = Field(
        description="Whether the owner can grant calls from the terminal (a PIN is set)."
    )
    ledger_problem: str | None = Field(description="What could not be recorded, if anything.")


class LogTail(BaseModel, frozen=True):
    """The end of a server's log, oldest line first."""

    server: str
    lines: list[str]


def build(runtime: Runtime, keeper: Keeper) -> HostServer:
    """The server object; it runs inside the daemon."""
    app = HostServer(NAME, version=__version__, instructions=INSTRUCTIONS, runtime=runtime)
    pin = OperatorPin(runtime.paths.state_dir)

    @app.read_tool(title="MCP servers")
    async def mcp_servers() -> ServerList:
        """Every MCP server here: state, pid, tools, health and its age, latency, restarts,
        memory, uptime and last error.

        `health` is `ok` only when a real MCP round trip passed within the interval of its
        manifest; `health_age_seconds` says how long ago.
        """
        # Not in a thread as a whole: the keeper's state belongs to this event loop.
        return ServerList(
            servers=keeper.status(),
            terminal_approval=await asyncio.to_thread(pin.is_set),
            ledger_problem=runtime.ledger.health(),
        )

    @app.write_tool(destructive=False, idempotent=True, title="Start a server")
    async def mcp_server_start(name: Server) -> ActionResult:
        """Start a stopped, disabled or broken MCP server and wait for its first answer."""
        return _succeeded(await keeper.start(name))

    @app.write_tool(destructive=True, idempotent=True, title="Stop a server")
    async def mcp_server_stop(name: Server) -> ActionResult:
        """End an MCP server and all of its processes. Its calls in flight fail; it stays stopped
        until it is started again."""
        return _succeeded(await keeper.stop(name))

    @app.write_tool(destructive=True, title="Restart a server")
    async def mcp_server_restart(name: Server) -> ActionResult:
        """End an MCP server and start it anew, for example when it misbehaves or its breaker is
        open. Its calls in flight fail."""
        return _succeeded(await keeper.restart(name))

    @app.read_tool(title="Server logs")
    async def mcp_server_logs(
        name: Server = "system",
        lines: Annotated[int, Field(ge=1, le=1_000, description="From the end.")] = 100,
    ) -> LogTail:
        """The last lines that a server wrote to stderr, with secrets removed."""
        return LogTail(server=name, lines=await keeper.tail(name, lines))

    return app


def _succeeded(result: ActionResult) -> ActionResult:
    if not result.ok:
        raise HostError(
            result.message,
            fix=f"mcp_server_logs name={result.name} shows what it said.",
            code=f"{result.action}_failed",
        )
    return result
