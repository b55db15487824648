"""The daemon: keeper, links and gateway in one event loop.

`Daemon.run` is its whole life. Ready means that every listener is open; servers become ready on
their own, and calls to one that is not wait, bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

from starlette.applications import Starlette

from hostwright import __version__
from hostwright.control import control_routes, probe_routes
from hostwright.control_safety import safety_routes
from hostwright.events import sse
from hostwright.events.bus import Events
from hostwright.gateway import metrics
from hostwright.gateway.gateway import Gateway
from hostwright.guarded.at_gateway import GatewayGuard
from hostwright.keeper.keeper import Keeper
from hostwright.keeper.reload import Reloaded
from hostwright.keeper.status import ServerEvent
from hostwright.listeners import HandedListeners, tcp_listener, unix_listeners
from hostwright.manifest import own_manifest
from hostwright.panicking import Panicking
from hostwright.policing import Policing
from hostwright.reloading import Reloader, ReloadResult
from hostwright.rescue import after_start
from hostwright.rotation import Rotation
from hostwright.secrets_at_start import SecretsAtStart
from hostwright.servers import Servers
from hostwright.settings import GatewaySettings
from hostwright.status import DaemonStatus, Replacement
from hostwright.succession import Estate, ask_successor
from hostwright.telemetry import TelemetrySettings, open_tracer
from hostwright_kit.call import working_folder
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_line import SOCKET_FILE, LedgerSocket
from hostwright_kit.notifying import notify_problems
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.runtime import LEDGER_FILE, TOKENS_FILE, Runtime
from hostwright_kit.served import GATEWAY, Served, publish
from hostwright_kit.sockets import unix_listener
from hostwright_kit.tokens import Tokens


class Daemon:
    """Composed of its parts here, nowhere else."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        on_event: Callable[[ServerEvent], None] = lambda _: None,
        on_replacing: Callable[[], None] = lambda: None,
        estate: Estate | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`on_replacing` is called when the daemon begins to make way for its successor.

        `estate` is what another daemon left to go on with, `environ` what the process began with:
        from `os.environ` is taken what no server may inherit.
        """
        self.runtime = runtime
        self._inherited = estate
        self._environ = dict(os.environ if environ is None else environ)
        self.estate: Estate | None = None
        """Set when `run` returns because a new program is to go on in this process."""
        self._grace: float | None = None
        self._on_replacing = on_replacing
        self.settings = runtime.table("gateway", GatewaySettings)
        # A manifest that is wrong must not take the other servers down; it is shown instead.
        # The supervisor's own tools are a server like any other.
        self.reloader = Reloader.of(runtime.paths, own_manifest())
        self._on_event = on_event
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[ReloadResult]] = set()
        self._port = self.settings.port
        self.ready = asyncio.Event()
        """Every listener is open."""
        self.settled = asyncio.Event()
        """Every server has answered or failed once."""
        manifests = self.reloader.manifests
        self._tracer, self._untraced = open_tracer(runtime.table("telemetry", TelemetrySettings))
        self.events = Events(runtime.ledger)
        self._rotation = Rotation(runtime.ledger.path, runtime.config.ledger.keep_entries)
        self._tokens = Tokens(runtime.paths.state_dir / TOKENS_FILE)
        self._secrets = SecretsAtStart(runtime.paths.state_dir, runtime.ledger)
        self._policing = Policing(runtime.guard, manifests, self._tokens)
        self.servers = Servers(
            manifests,
            runtime.paths.state_dir / LEDGER_FILE,
            guard=GatewayGuard(self._policing),
            events=self.events,
            tracer=self._tracer,
        )
        self.keeper = Keeper(
            manifests,
            runtime_dir=runtime.paths.runtime_dir,
            state_dir=runtime.paths.state_dir,
            probe=self.servers.probe,
            canary=self.servers.canary,
            activity=self.servers.activity,
            prepare=self.servers.prepare,
            secrets=self._secrets,
            on_event=self._record,
            locks=estate.locks if estate is not None else None,
        )
        self.servers.keeper = self.keeper
        self.panicking = self.servers.panic = Panicking(runtime.paths.state_dir, runtime.ledger)
        self.panicking.serve(self.keeper)
        self.reloader.serve(self.keeper, self._reloaded)
        self._begun_with = after_start.read_config(runtime.paths.config_dir)
        self._unkept: list[str] = []
        self._gateway: Gateway | None = None
        self._pin = OperatorPin(runtime.paths.state_dir)

    def stop(self) -> None:
        """End; `run` returns when everything is gone. No successor comes, if one was to."""
        self._grace = None
        self._stop.set()

    async def replace(self, grace_seconds: float) -> Replacement:
        """Make way for a new program in this process, if that would come up.

        What runs has `grace_seconds` to end; see `succession.py`.
        """
        version = await asyncio.to_thread(ask_successor, self.settings, self._environ)
        if self._stop.is_set():
            raise HostError(
                "The daemon ends, or is being replaced already.",
                fix="`hostwright status` shows what comes of it.",
                code="ending",
            )
        self._grace = grace_seconds
        self._on_replacing()
        self._stop.set()
        return Replacement(pid=os.getpid(), version=version, replaced=self._replaced + 1)

    def _has_successor(self) -> bool:
        """Unless somebody said meanwhile that all is to end."""
        return self._grace is not None

    @property
    def _replaced(self) -> int:
        return self._inherited.replaced if self._inherited is not None else 0

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
        untold = await asyncio.to_thread(notify_problems, self.runtime.paths.state_dir)
        return DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            uptime_seconds=round(time.monotonic() - self._started, 1),
            replaced=self._replaced,
            url=self.url,
            require_token=self.settings.require_token,
            profile=self.runtime.policy.current().profile,
            terminal_approval=pin_set,
            pending_approvals=len(pending),
            ledger_problem=self.runtime.ledger.health(),
            problems=[
                *(str(problem) for problem in self.reloader.problems),
                *(str(problem) for problem in self.runtime.policy.problems),
                *([self._untraced] if self._untraced else []),
                *self._ledger_problems(),
                *untold,
                *self._unkept,
            ],
            servers=self.keeper.status(),
            panic=self.panicking.now,
        )

    async def run(self) -> None:
        """Serve until `stop` or `replace`.

        Raises `HostError` when it cannot begin; then nothing is left.
        """
        self._publish()
        settings, paths, before = self.settings, self.runtime.paths, self._inherited
        sockets = before.listeners if before is not None else None
        probes = probe_routes(self.keeper, self._metrics)
        control = (
            *control_routes(self, self.runtime.ledger),
            *safety_routes(self.panicking, self._pin),
        )
        events = sse.routes(self.events, self._policing.sees)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._tokens.close)
            stack.callback(self._secrets.close)
            if self._tracer is not None:
                stack.push_async_callback(asyncio.to_thread, self._tracer.close)
            # The port is taken before anything is started: the commonest reason to fail.
            listener = stack.enter_context(tcp_listener(settings, sockets))
            self._port = listener.getsockname()[1]
            # Before there is a server that has something to write.
            await stack.enter_async_context(self._writing_for_all())
            await stack.enter_async_context(self._rotation.running())
            await stack.enter_async_context(self.keeper)
            stack.push_async_callback(self.servers.close)
            gateway = self._gateway = Gateway(self.servers, paths.state_dir, self._policing)
            self.servers.watches = gateway
            # Begun before the first client can ask, so that it finds them starting.
            self.keeper.begin_all()
            starting = asyncio.create_task(self._start_all())
            stack.callback(starting.cancel)
            local = await stack.enter_async_context(
                unix_listeners(paths.runtime_dir, sockets, keep=lambda: self.estate is not None)
            )
            public = gateway.tcp(
                self._tokens,
                Starlette(routes=[*probes, *events]),
                required=settings.require_token,
                hosts=settings.allowed_hosts,
            )
            private = gateway.local(Starlette(routes=[*probes, *events, *control]))
            fronts = ((public, listener), (private, local.gateway))
            clients = before.clients if before is not None else None
            serving = await stack.enter_async_context(
                gateway.serving(fronts, local.connect, paths.runtime_dir, clients)
            )
            await stack.enter_async_context(self.reloader.watching())
            await stack.enter_async_context(self.panicking.watching())
            self.ready.set()
            await self._stop.wait()
            self.events.close()
            if self._grace is not None:
                sockets = HandedListeners(
                    settings.host,
                    settings.port,
                    *(os.dup(one.fileno()) for one in (listener, local.gateway, local.connect)),
                )
                handed = await serving.hand_over(self._grace)
                if self._has_successor():
                    locks = self.keeper.hand_over()
                    self.estate = Estate(locks, sockets, handed, self._replaced + 1)

    @contextlib.asynccontextmanager
    async def _writing_for_all(self) -> AsyncGenerator[None]:
        """Take the ledger entries of every process of this installation."""
        ledger = self.runtime.ledger
        async with unix_listener(self.runtime.paths.runtime_dir / SOCKET_FILE) as listener:
            taking = LedgerSocket(listener, ledger.path, ledger.take)
            try:
                yield
            finally:
                taking.close()

    def _ledger_problems(self) -> Iterator[str]:
        if problem := self._rotation.problem:
            yield f"The ledger could not be rotated: {problem}"
        if problem := self.runtime.ledger.unsigned():
            yield f"The ledger's checkpoints: {problem}"

    async def _metrics(self) -> bytes:
        pending = await asyncio.to_thread(self.runtime.approvals.pending)
        return metrics.render(
            metrics.Snapshot(
                servers=self.keeper.status(),
                pending_approvals=len(pending),
                ledger_ok=self.runtime.ledger.health() is None,
                panic=self.panicking.now is not None,
            )
        )

    async def _start_all(self) -> None:
        await self.keeper.start_all()
        self.settled.set()
        well = not self.reloader.problems and not self.runtime.policy.problems
        well = well and all(row.state not in ("broken", "failing") for row in self.keeper.status())
        paths, ledger = self.runtime.paths, self.runtime.ledger
        self._unkept = await asyncio.to_thread(
            after_start.started,
            *(paths.config_dir, paths.state_dir, ledger, self._begun_with),
            well=well,
        )

    def _reloaded(self, done: Reloaded) -> None:
        """Other manifests hold: what clients see follows at once."""
        before = self.servers.names()
        self.servers.adopt(self.reloader.manifests)
        self._policing.adopt(self.reloader.manifests)
        self._publish()
        if self._gateway is not None:
            self._gateway.reloaded(before, (*done.added, *done.changed, *done.removed))

    def tokens_changed(self) -> None:
        """Tokens were changed by another process: whoever is connected sees it at once."""
        if self._gateway is not None:
            self._gateway.tokens_changed()

    def _publish(self) -> None:
        """Tell who asks for an approval in advance what is guarded here, and in which folder."""
        names = (manifest.name for manifest in self.reloader.manifests)
        guarded = tuple(name for name in names if self._policing.guard_rules(name) is not None)
        served = Served(server=GATEWAY, folder=working_folder(), servers=guarded)
        publish(self.runtime.paths.state_dir, served)

    def _record(self, event: ServerEvent) -> None:
        metrics.happened(event.name, event.type)
        detail = event.model_dump(mode="json", exclude={"name", "type"}, exclude_none=True)
        self.events.emit(event.type, server=event.name, **detail)
        self._on_event(event)
