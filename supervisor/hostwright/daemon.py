"""The daemon: keeper, links, gateway and the supervisor's own tools in one event loop.

`Daemon.run` is its whole life. Ready means that every listener is open; servers become ready on
their own, and calls to one that is not wait, bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hostwright import __version__, tools
from hostwright.gateway import metrics
from hostwright.gateway.edge import Edge
from hostwright.gateway.ending import Ending
from hostwright.gateway.link import Link
from hostwright.gateway.listeners import ALL, ConnectSocket, Endpoints, Probes, tcp_app, unix_app
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.reload import Reloaded
from hostwright.keeper.status import ActionResult, ServerEvent
from hostwright.policing import Policing
from hostwright.reloading import Reloader, ReloadResult
from hostwright.secrets_at_start import SecretsAtStart
from hostwright.servers import Servers
from hostwright.settings import GatewaySettings
from hostwright.status import CONNECT_SOCKET, GATEWAY_SOCKET, DaemonStatus
from hostwright_kit.errors import HostError
from hostwright_kit.http import make_server
from hostwright_kit.ledger import Entry
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.runtime import TOKENS_FILE, Runtime
from hostwright_kit.server import HostServer
from hostwright_kit.sockets import bind_tcp, unix_listener
from hostwright_kit.stdio import MAX_LINE_BYTES, LineWire
from hostwright_kit.tokens import Tokens


class Daemon:
    """Composed of its parts here, nowhere else."""

    def __init__(
        self, runtime: Runtime, *, on_event: Callable[[ServerEvent], None] = lambda _: None
    ) -> None:
        self.runtime = runtime
        self.settings = runtime.table("gateway", GatewaySettings)
        # A manifest that is wrong must not take the other servers down; it is shown instead.
        self.reloader = Reloader.of(runtime.paths)
        self._on_event = on_event
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[ReloadResult]] = set()
        self._port = self.settings.port
        self.ready = asyncio.Event()
        """Every listener is open."""
        self.settled = asyncio.Event()
        """Every server has answered or failed once."""
        self.servers = Servers(self.reloader.manifests, self._offer_changed)
        self._secrets = SecretsAtStart(runtime.paths.state_dir, runtime.ledger)
        self.keeper = Keeper(
            self.reloader.manifests,
            runtime_dir=runtime.paths.runtime_dir,
            state_dir=runtime.paths.state_dir,
            probe=self.servers.probe,
            canary=self.servers.canary,
            prepare=self.servers.prepare,
            secrets=self._secrets,
            on_event=self._record,
        )
        self.servers.keeper = self.keeper
        self.reloader.serve(self.keeper, self._reloaded)
        self._pin = OperatorPin(runtime.paths.state_dir)
        self._tokens = Tokens(runtime.paths.state_dir / TOKENS_FILE)
        self._policing = Policing(runtime.guard, self.reloader.manifests, self._tokens)
        self._edges = self._make_edges()

    def stop(self) -> None:
        """End; `run` returns when everything is gone."""
        self._stop.set()

    def reload(self) -> None:
        """Read the manifests again, in the background."""
        task = asyncio.create_task(self.reloader.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    @property
    def url(self) -> str:
        """The gateway's address for HTTP clients."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self._port}/mcp"

    async def status(self) -> DaemonStatus:
        """Everything at a glance."""
        # The database in a thread; the servers here, because their state is this loop's.
        pending = await asyncio.to_thread(self.runtime.approvals.pending)
        pin_set = await asyncio.to_thread(self._pin.is_set)
        return DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            uptime_seconds=round(time.monotonic() - self._started, 1),
            url=self.url,
            require_token=self.settings.require_token,
            profile=self.runtime.config.policy.profile,
            terminal_approval=pin_set,
            pending_approvals=len(pending),
            ledger_problem=self.runtime.ledger.health(),
            problems=[str(problem) for problem in self.reloader.problems],
            servers=self.keeper.status(),
        )

    async def run(self) -> None:
        """Serve until `stop`. Raises `HostError` when it cannot begin; then nothing is left."""
        runtime_dir = self.runtime.paths.runtime_dir
        endpoints = Endpoints(self._edges)
        tokens = self._tokens
        probes = Probes(ready=self._readiness, metrics=lambda: metrics.render(self.keeper.status()))
        settings = self.settings
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(tokens.close)
            stack.callback(self._secrets.close)
            # The port is taken before anything is started: the commonest reason to fail.
            listener = stack.enter_context(
                contextlib.closing(bind_tcp(settings.host, settings.port))
            )
            self._port = listener.getsockname()[1]
            await stack.enter_async_context(self.keeper)
            stack.push_async_callback(self.servers.close)
            await stack.enter_async_context(self._own_tools())
            await stack.enter_async_context(endpoints.run())
            # Begun before the first client can ask, so that it finds them starting.
            starting = asyncio.create_task(self._start_all())
            stack.callback(starting.cancel)
            apps = (
                Ending(
                    tcp_app(
                        endpoints,
                        probes,
                        tokens,
                        require_token=settings.require_token,
                        hosts=settings.allowed_hosts,
                    )
                ),
                Ending(unix_app(endpoints, probes, self._control())),
            )
            local = await stack.enter_async_context(unix_listener(runtime_dir / GATEWAY_SOCKET))
            for app, sock in zip(apps, (listener, local), strict=True):
                await stack.enter_async_context(_serving(app, sock))
            connect = await stack.enter_async_context(unix_listener(runtime_dir / CONNECT_SOCKET))
            await stack.enter_async_context(ConnectSocket(endpoints).listen(connect))
            await stack.enter_async_context(self.reloader.watching())
            self.ready.set()
            await self._stop.wait()
            await asyncio.gather(*(app.end() for app in apps))

    async def _start_all(self) -> None:
        await self.keeper.start_all()
        self.settled.set()

    def _make_edges(self) -> dict[str, Edge]:
        own = [tools.NAME, *(one.name for one in self.reloader.manifests)]
        return {
            ALL: Edge("hostwright", self.servers, self.servers.names, self._policing),
            **{name: self._edge(name) for name in own},
        }

    def _edge(self, name: str) -> Edge:
        return Edge(f"hostwright-{name}", self.servers, lambda: (name,), self._policing)

    @asynccontextmanager
    async def _own_tools(self) -> AsyncGenerator[None]:
        """The supervisor's tools on a socket pair, so that they are a server like any other."""
        app = tools.build(self.runtime, self.keeper)
        self.runtime.link_key = secrets.token_hex(32)
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs, limit=MAX_LINE_BYTES)
        serving = asyncio.create_task(_serve_lines(app, reader, writer))
        link_reader, link_writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        link = Link(tools.NAME, link_reader, link_writer, link_key=self.runtime.link_key)
        capabilities = await link.open("modern")
        await self.servers.catalog.refresh(link, capabilities)
        self.servers.add_local(link)
        try:
            yield
        finally:
            link_writer.close()
            serving.cancel()
            await asyncio.wait([serving])

    def _reloaded(self, done: Reloaded) -> None:
        """Other manifests hold: what clients see follows at once."""
        self.servers.adopt(self.reloader.manifests)
        self._policing.adopt(self.reloader.manifests)
        for name in done.added:
            self._edges[name] = self._edge(name)
        for name in (*done.added, *done.changed, *done.removed):
            self._offer_changed(name)

    def _offer_changed(self, server: str) -> None:
        for name in (ALL, server):
            if (edge := self._edges.get(name)) is not None:
                edge.announce()

    def _record(self, event: ServerEvent) -> None:
        detail = event.model_dump(mode="json", exclude={"name", "type"}, exclude_none=True)
        self.runtime.ledger.note(
            Entry(type=event.type, caller="supervisor", server=event.name, detail=detail)
        )
        self._on_event(event)

    def _readiness(self) -> tuple[bool, Mapping[str, str]]:
        states = {status.name: status.state for status in self.keeper.status()}
        settled = {State.READY, State.DISABLED, State.STOPPED, State.HIBERNATED}
        return all(state in settled for state in states.values()), {
            name: state.value for name, state in states.items()
        }

    def _control(self) -> Sequence[BaseRoute]:
        """What the command line asks over the unix socket."""
        actions: Mapping[str, Callable[[str], Coroutine[Any, Any, ActionResult]]] = {
            "start": self.keeper.start,
            "stop": self.keeper.stop,
            "restart": self.keeper.restart,
        }

        async def status(_: Request) -> Response:
            try:
                found = await self.status()
            except HostError as error:
                return _error(error)
            return JSONResponse(found.model_dump(mode="json"))

        async def act(request: Request) -> Response:
            name, action = request.path_params["name"], request.path_params["action"]
            if action not in actions:
                known = ", ".join(actions)
                error = HostError(f"There is no action {action!r}.", fix=f"Use one of: {known}.")
                return _error(error)
            try:
                result = await self._by_owner(f"server_{action}", name, actions[action](name))
            except HostError as error:
                return _error(error)
            return JSONResponse(result.model_dump(mode="json"))

        async def reload(_: Request) -> Response:
            try:
                result = await self._by_owner("reload", None, self.reloader.reload())
            except HostError as error:
                return _error(error)
            return JSONResponse(result.model_dump(mode="json"))

        async def shutdown(_: Request) -> Response:
            # Not waited for: with a full disk the owner must still be able to end everything.
            self.runtime.ledger.note(Entry(type="owner.shutdown", caller="owner"))
            self.stop()
            return JSONResponse({"stopping": True})

        return [
            Route("/control/status", status),
            Route("/control/servers/{name}/{action}", act, methods=["POST"]),
            Route("/control/reload", reload, methods=["POST"]),
            Route("/control/shutdown", shutdown, methods=["POST"]),
        ]

    async def _by_owner(self, what: str, server: str | None, work: Coroutine[Any, Any, Any]) -> Any:
        """An act of the owner at the command line, on record before it begins."""
        entry = Entry(type=f"owner.{what}", caller="owner", server=server)
        try:
            await self.runtime.ledger.append_async(entry)
        except HostError:
            work.close()
            raise
        return await work


@asynccontextmanager
async def _serving(app: Any, listener: socket.socket) -> AsyncGenerator[None]:
    server = make_server(app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task])


async def _serve_lines(
    app: HostServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with app._lifespan_manager(), LineWire(reader, writer).streams() as (read, write):
        await app._mcp_server.run(read, write, app._mcp_server.create_initialization_options())


def _error(error: HostError) -> Response:
    body = {"error": {"code": error.code, "message": error.message, "fix": error.fix}}
    return JSONResponse(body, 404 if error.code == "not_found" else 409)
