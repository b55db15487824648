"""The guard's own tests: server processes over one installation, and the owner's side of it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from mcp_types import CallToolResult, Implementation

from hostwright_kit.approvals import Approvals
from hostwright_kit.audit import Event, EventFilter, list_events
from hostwright_kit.ledger import Ledger
from hostwright_kit.policy import Effect
from hostwright_kit.runtime import APPROVALS_FILE, LEDGER_FILE
from hostwright_kit.served import Served, ToolTraits, publish
from hostwright_kit.vouching import ERROR_META

Era = Literal["legacy", "2026-07-28"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")


class World:
    """The folders of one installation. Servers run alone in it, as without a supervisor."""

    path = os.environ["PATH"]

    def __init__(self, folder: Path) -> None:
        self.state, self.config, self.runtime, self.work = (
            folder / name for name in ("state", "config", "run", "work")
        )
        for path in (self.state, self.config, self.runtime, self.work):
            path.mkdir(mode=0o700)

    @property
    def env(self) -> dict[str, str]:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith("HOSTWRIGHT_")
        }
        return {
            **inherited,
            "PATH": self.path,
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.config),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }

    def configure(self, text: str) -> None:
        (self.config / "config.toml").write_text(text)

    def served(self) -> None:
        """As if the system server had served here, without its start."""
        tools = {
            "system_health": ToolTraits(effect=Effect.READ, open_world=False),
            "file_write": ToolTraits(open_world=False, overwrites=("path",)),
            "shell_exec": ToolTraits(),
        }
        publish(self.state, Served(server="system", folder=str(self.work), tools=tools))

    @asynccontextmanager
    async def client(
        self,
        server: str = "guard",
        *,
        name: str = "agent",
        era: Era = "2026-07-28",
        cwd: Path | None = None,
        elicit: Any = None,
    ) -> AsyncGenerator[Client[Any]]:
        """A client with a server process of its own."""
        transport = StdioTransport(
            sys.executable,
            ["-m", "hostwright_kit.run", server],
            env=self.env,
            cwd=str(cwd or self.work),
            keep_alive=False,
        )
        info = Implementation(name=name, version="1")
        async with Client(
            transport, mode=era, client_info=info, elicitation_handler=elicit
        ) as client:
            await client.list_tools()  # it serves now, and has written down what
            yield client

    @contextmanager
    def approvals(self) -> Generator[Approvals]:
        """As the owner's terminal opens them."""
        ledger = Ledger(self.state / LEDGER_FILE)
        approvals = Approvals(self.state / APPROVALS_FILE, ledger, lifetime_seconds=600)
        try:
            yield approvals
        finally:
            approvals.close()
            ledger.close()

    def decide(self, approval_id: str, *, grant: bool = True) -> None:
        with self.approvals() as approvals:
            act = approvals.grant if grant else approvals.deny
            act(approval_id, via="terminal", by="owner")

    def events(self, **wanted: str) -> list[Event]:
        """The ledger, oldest first."""
        page = list_events(self.state / LEDGER_FILE, EventFilter(**wanted), limit=500)
        return page.events[::-1]


async def call(client: Client[Any], tool: str, /, **arguments: Any) -> dict[str, Any]:
    """What a tool that succeeds gives back."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    assert not result.is_error, result
    assert result.structured_content is not None
    return result.structured_content


async def failed(client: Client[Any], tool: str, /, **arguments: Any) -> dict[str, Any]:
    """How a tool that fails fails."""
    result: CallToolResult | Any = await client.call_tool(tool, arguments, raise_on_error=False)
    assert result.is_error, result
    return (result.meta or {})[ERROR_META]
