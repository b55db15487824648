"""What stands between a client and the echo server: each front's start, its clients, its end."""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel

from bench.home import DEPS, ECHO, ECHO_STDIO, Home
from bench.peers import Peer
from bench.processes import clean_environment, end, free_port, start, tree
from bench.wire import Client, Era, HttpClient, PipeClient, WireError, tool_names

START_SECONDS = 30.0
Kind = Literal["direct", "peer", "ours"]


class Front(ABC):
    """One way to the echo server, for clients of either era."""

    name: str
    kind: Kind
    eras: tuple[Era, ...] = ("legacy", "modern")
    shared = False
    """Whether many clients have to share one connection, as a bare pipe has one other end."""

    async def start(self) -> None:  # noqa: B027 - some have nothing to begin
        """Begin; returns at once or when it is ready."""

    @abstractmethod
    async def open_client(self, era: Era = "legacy") -> Client:
        """One more client, initialized where its era has that."""

    @abstractmethod
    def processes(self) -> list[psutil.Process]:
        """The front and the servers behind it."""

    def alone(self) -> list[psutil.Process]:
        """The front's own process without the servers behind it; none where it is the server."""
        return []

    async def end(self) -> None:  # noqa: B027 - or to end
        """End it and what is behind it."""


class HttpFront(Front):
    """A program that listens on a port."""

    def __init__(self, name: str, kind: Kind, argv: Callable[[int], list[str]]) -> None:
        self.name = name
        self.kind: Kind = kind
        self._argv = argv
        self._port = 0
        self._root: psutil.Process | None = None

    async def start(self) -> None:
        """Start it and wait until `tools/list` names tools."""
        self._port = free_port()
        root = start(self._argv(self._port), env=clean_environment(), log=log_file())
        self._root = root
        await wait_for_tools(self.open_client, root)

    async def open_client(self, era: Era = "legacy") -> Client:
        url = f"http://127.0.0.1:{self._port}/mcp"
        return await HttpClient(url, era=era).open()

    def processes(self) -> list[psutil.Process]:
        return tree(self._root) if self._root else []

    def alone(self) -> list[psutil.Process]:
        return [self._root] if self._root and self.kind != "direct" else []

    async def end(self) -> None:
        if self._root is not None:
            await end(self._root)
            self._root = None


class StdioFront(Front):
    """The server itself, at the other end of a pipe."""

    shared = True

    def __init__(self) -> None:
        self.name = "direct stdio"
        self.kind: Kind = "direct"
        self._clients: list[PipeClient] = []

    async def open_client(self, era: Era = "legacy") -> Client:
        client = PipeClient(ECHO_STDIO, env=clean_environment(), era=era)
        self._clients.append(await client.open(log_file()))
        return client

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(client.pid) for client in self._clients]


class Gateway(Front):
    """Our daemon over HTTP with a token, or over the `connect` command."""

    def __init__(self, home: Home, how: Literal["HTTP", "connect"], server: str = "echo") -> None:
        self.name = f"hostwright {how}"
        self._server = server
        self.kind: Kind = "ours"
        self._home = home
        self._how = how
        self._bridges: list[psutil.Process] = []

    async def open_client(self, era: Era = "legacy") -> Client:
        if self._how == "HTTP":
            return await self._home.http(self._server, era).open()
        client = await self._home.connect(self._server, era).open(self._home.log)
        self._bridges.append(psutil.Process(client.pid))
        return client

    def processes(self) -> list[psutil.Process]:
        """The daemon and its servers; what `connect` adds per client counts as ours too."""
        return [*self._home.processes(), *self._bridges]

    def alone(self) -> list[psutil.Process]:
        """The daemon, and what the client has to start."""
        return [*([self._home.daemon] if self._home.daemon else []), *self._bridges]


class Missing(BaseModel, frozen=True):
    """A front that is not measured, and why."""

    name: str
    why: str


def direct_http(server: str = ECHO) -> HttpFront:
    """The echo server serving HTTP itself."""

    def argv(port: int) -> list[str]:
        return [sys.executable, server, "http", str(port)]

    return HttpFront("direct HTTP", "direct", argv)


def fastmcp_proxy(server: str = ECHO) -> HttpFront:
    """FastMCP's proxy, `create_proxy`."""
    script = str(Path(__file__).with_name("fastmcp_proxy.py"))

    def argv(port: int) -> list[str]:
        return [sys.executable, script, str(port), server]

    return HttpFront("FastMCP proxy", "peer", argv)


def mcp_proxy(peer: Peer, server: str = ECHO) -> HttpFront | Missing:
    """mcp-proxy from PyPI; it knows the handshake era only."""
    if peer.problem:
        return Missing(name="mcp-proxy", why=peer.problem)

    def argv(port: int) -> list[str]:
        options = ["--port", str(port), "--log-level", "WARNING", "--pass-environment"]
        return [peer.program, *options, "--", sys.executable, server, "stdio"]

    front = HttpFront("mcp-proxy", "peer", argv)
    front.eras = ("legacy",)
    return front


async def wait_for_tools(
    open_client: Callable[[], Awaitable[Client]], root: psutil.Process
) -> None:
    """Ask for the tools until there are some."""
    deadline = time.monotonic() + START_SECONDS
    why = "nothing answered"
    while time.monotonic() < deadline:
        try:
            client = await open_client()
            try:
                if await tool_names(client):
                    return
                why = "it lists no tools"
            finally:
                await client.close()
        except (OSError, WireError, asyncio.IncompleteReadError) as error:
            why = str(error) or type(error).__name__
        if not root.is_running() or root.status() == psutil.STATUS_ZOMBIE:
            raise WireError(f"{' '.join(root.cmdline())} ended: see {log_file()}")
        await asyncio.sleep(0.005)
    raise WireError(f"not ready after {START_SECONDS:.0f} s: {why}")


def log_file() -> Path:
    """Where the fronts write what they have to say."""
    DEPS.mkdir(parents=True, exist_ok=True)
    return DEPS / "fronts.log"
