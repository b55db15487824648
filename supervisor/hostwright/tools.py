"""The supervisor's own MCP tools: a server process like any other, under the same guard.

It asks the daemon over the daemon's unix socket, so the daemon itself carries no MCP library.
"""

from __future__ import annotations

import asyncio
from http.client import HTTPException
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from hostwright import __version__
from hostwright.keeper.status import ActionResult, ServerStatus
from hostwright.local_http import exchange
from hostwright.manifest import SUPERVISOR
from hostwright.status import GATEWAY_SOCKET, DaemonStatus
from hostwright_kit.errors import HostError
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

# Stopping waits for processes to end; nothing the daemon does takes longer.
TIMEOUT_SECONDS = 90.0
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


class Control:
    """The daemon of this user, asked without waiting for anything else meanwhile."""

    def __init__(self, runtime: Runtime) -> None:
        self._socket = runtime.paths.runtime_dir / GATEWAY_SOCKET

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        """Put a question; errors of the daemon come back as they were."""
        try:
            body = await asyncio.to_thread(exchange, self._socket, method, path, TIMEOUT_SECONDS)
        except (OSError, HTTPException, ValueError) as error:
            raise HostError(
                f"The daemon did not answer ({type(error).__name__}).",
                fix="The owner sees how it is with `hostwright status`.",
                code="daemon_silent",
            ) from error
        if "error" in body:
            found = body["error"]
            raise HostError(found["message"], fix=found["fix"], code=found["code"])
        return body

    async def act(self, name: str, action: str) -> ActionResult:
        """Start, stop or restart. On record already: the guard of this server has seen to it."""
        path = f"/control/servers/{quote(name, safe='')}/{action}?recorded=true"
        return _succeeded(ActionResult.model_validate(await self.ask("POST", path)))


def build(runtime: Runtime) -> HostServer:
    """The server object."""
    app = HostServer(SUPERVISOR, version=__version__, instructions=INSTRUCTIONS, runtime=runtime)
    control = Control(runtime)

    @app.read_tool(title="MCP servers")
    async def mcp_servers() -> ServerList:
        """Every MCP server here: state, pid, tools, health and its age, latency, restarts,
        memory, uptime and last error.

        `health` is `ok` only when a real MCP round trip passed within the interval of its
        manifest; `health_age_seconds` says how long ago.
        """
        status = DaemonStatus.model_validate(await control.ask("GET", "/control/status"))
        return ServerList(
            servers=status.servers,
            terminal_approval=status.terminal_approval,
            ledger_problem=status.ledger_problem,
        )

    @app.write_tool(destructive=False, idempotent=True, title="Start a server")
    async def mcp_server_start(name: Server) -> ActionResult:
        """Start a stopped, disabled or broken MCP server and wait for its first answer."""
        return await control.act(name, "start")

    @app.write_tool(destructive=True, idempotent=True, title="Stop a server")
    async def mcp_server_stop(name: Server) -> ActionResult:
        """End an MCP server and all of its processes. Its calls in flight fail; it stays stopped
        until it is started again."""
        return await control.act(name, "stop")

    @app.write_tool(destructive=True, title="Restart a server")
    async def mcp_server_restart(name: Server) -> ActionResult:
        """End an MCP server and start it anew, for example when it misbehaves or its breaker is
        open. Its calls in flight fail."""
        return await control.act(name, "restart")

    @app.read_tool(title="Server logs")
    async def mcp_server_logs(
        name: Server = "system",
        lines: Annotated[int, Field(ge=1, le=1_000, description="From the end.")] = 100,
    ) -> LogTail:
        """The last lines that a server wrote to stderr, with secrets removed."""
        path = f"/control/servers/{quote(name, safe='')}/logs?lines={lines}"
        return LogTail.model_validate(await control.ask("GET", path))

    return app


def main() -> None:
    """Run it on its own; it needs a daemon to ask."""
    serve(SUPERVISOR, build, version=__version__)


def _succeeded(result: ActionResult) -> ActionResult:
    if not result.ok:
        raise HostError(
            result.message,
            fix=f"mcp_server_logs name={result.name} shows what it said.",
            code=f"{result.action}_failed",
        )
    return result
