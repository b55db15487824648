"""All servers of one daemon: one lock, one record, one look at the process table for all.

    async with Keeper(manifests, …) as keeper:     # locks; ends what a killed daemon left
        await keeper.start_all()                   # concurrently; each settles on its own
        keeper.status()
                                                   # leaving: ends every process, releases the lock

Asyncio; run it on the thread that will live as long as the servers (see `child.py`). Writes to the
runtime folder (`daemon.pid`, `children.json`) and the state folder (`daemon.lock`, `logs/`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from hostwright.keeper import logs, needs, processes
from hostwright.keeper.around import AskCanary, Prepare, Probe, Secrets, Surroundings, Target
from hostwright.keeper.child import Child
from hostwright.keeper.groups import Groups
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.machine import AT_REST, WITH_PROCESS, State
from hostwright.keeper.needs import Block, Level
from hostwright.keeper.pidfile import DaemonLock
from hostwright.keeper.processes import Family, ProcessId
from hostwright.keeper.records import Records, Survivors
from hostwright.keeper.reload import Reloaded, apply
from hostwright.keeper.server import Server
from hostwright.keeper.sessions import SessionProcess, SessionProcesses
from hostwright.keeper.status import (
    ActionResult,
    Activity,
    Extras,
    ServerEvent,
    ServerReady,
    ServerStatus,
)
from hostwright.manifest import Manifest, fork_for
from hostwright.zygote import early
from hostwright.zygote.nursery import Nursery
from hostwright_kit.errors import HostError
from hostwright_kit.paths import ensure_private
from hostwright_kit.redact import redact_text

ZYGOTE_LOG = "_zygote.log"
"""Beside the servers' logs; no server can have this name."""
LOOK_SECONDS = 5.0
LOOK_PAUSE_SECONDS = 0.2

_log = logging.getLogger(__name__)


def _nothing_extra(_: Manifest) -> AbstractContextManager[Extras]:
    return contextlib.nullcontext(Extras())


async def _no_secrets(_: Manifest) -> Mapping[str, str]:
    return {}


def _no_listener(_: ServerEvent) -> None:
    return None


def _nothing_known(_: str) -> Activity:
    return Activity()


def _nobody() -> None:
    return None


class Keeper:
    """Starts, watches, restarts and ends servers."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        *,
        runtime_dir: Path,
        state_dir: Path,
        probe: Probe,
        on_event: Callable[[ServerEvent], None] = _no_listener,
        redact: Callable[[str], str] = redact_text,
        prepare: Prepare = _nothing_extra,
        secrets: Secrets = _no_secrets,
        environ: Mapping[str, str] | None = None,
        dice: random.Random | None = None,
        canary: AskCanary | None = None,
        activity: Callable[[str], Activity] = _nothing_known,
        on_all_asleep: Callable[[], None] = _nobody,
        locks: Sequence[int] | None = None,
    ) -> None:
        """`probe` asks a server for a sign of life and raises when there is none.

        `prepare` gives one start its further variables and descriptors; they may be closed when
        its context ends, right after the process was started. `canary` makes a manifest's call.
        `activity` tells how busy a server is. `on_all_asleep` is called when the last process has
        ended and at least one server hibernates.
        `secrets` opens what a manifest names in the vault, anew at each start. `locks` are
        descriptors that hold the daemon's lock already (`hand_over` of an earlier program).
        """
        self._manifests = manifests
        self._canary = canary
        self._activity = activity
        self._on_all_asleep = on_all_asleep
        self._asleep = False
        self._going: set[str] = set()
        """Those that the owner is stopping."""
        self._resting: asyncio.Task[None] | None = None
        self._reconsidering: asyncio.Handle | None = None
        self._reloading = asyncio.Lock()
        self._groups = Groups()
        self._around: Surroundings | None = None
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._probe = probe
        self._on_event = on_event
        self._redact = redact
        self._prepare = prepare
        self._secrets = secrets
        self._environ = dict(os.environ if environ is None else environ)
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._lock = DaemonLock(runtime_dir, state_dir, locks)
        self._handed_over = False
        self._servers: dict[str, Server] = {}
        self._sessions = SessionProcesses()
        self._halted: str | None = None
        """Why nothing may run now, but for those that are spared."""
        self._spared: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        self._strays: dict[ProcessId, float] = {}
        self.zygote: Nursery | None = None
        """What starts servers by fork, where there are such and the system can; see its `rest`."""

    async def open(self) -> Survivors:
        """Become the one daemon on these folders, and end what an earlier one left running."""
        ensure_private(self._runtime_dir)
        ensure_private(self._state_dir)
        await asyncio.to_thread(self._lock.acquire)
        try:
            processes.become_subreaper()
            records = Records(self._runtime_dir)
            survivors = await records.recover()
            await asyncio.to_thread(self._groups.remove_stale)
            ensure_private(self._state_dir / "logs")
        except BaseException:
            self._lock.release()
            raise
        if survivors.ended or survivors.left:
            _log.warning(
                "Ended %d processes that an earlier daemon left of %s%s.",
                survivors.ended,
                ", ".join(survivors.servers),
                f"; these could not be ended: {survivors.left}" if survivors.left else "",
            )
        self.zygote = self._nursery(records)
        self._around = Surroundings(
            records=records,
            environ=self._environ,
            probe=self._probe,
            canary=self._canary,
            prepare=self._prepare,
            secrets=self._secrets,
            tell=self._tell,
            dice=self._dice,
            activity=self._activity,
            blocked=self._blocked,
            changed=self._changed,
            groups=self._groups,
            by_fork=self.zygote.start if self.zygote else None,
        )
        for manifest in self._manifests:
            self._servers[manifest.name] = self._make(manifest)
        self._looking = asyncio.create_task(self._look_on(records), name="keeper look")
        return survivors

    async def close(self) -> list[ActionResult]:
        """End every server's processes, then let the next daemon in."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        results: list[ActionResult] = []
        try:
            if self.zygote is not None:
                # First, so that no server that is being started waits for it to get warm.
                await self.zygote.close()
            await self._sessions.close()
            # A reload in progress still has servers in its hands.
            async with self._reloading:
                for layer in reversed(needs.layers(self._all_manifests())):
                    results += await asyncio.gather(*(self._servers[n].act("stop") for n in layer))
            return results
        finally:
            if self._reconsidering:
                self._reconsidering.cancel()
            for server in self._servers.values():
                await asyncio.to_thread(server.log.close)
            if self._handed_over:
                self._lock.leave()
            else:
                self._lock.release()

    def hand_over(self) -> list[int]:
        """Descriptors that hold the lock; from here on `close` does not give it up."""
        self._handed_over = True
        return self._lock.copies()

    async def __aenter__(self) -> Keeper:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def names(self) -> list[str]:
        """Every server, running or not."""
        return list(self._servers)

    def manifest(self, name: str) -> Manifest:
        """How it is run."""
        return self._server(name).manifest

    def target(self, name: str) -> Target | None:
        """What of it can be talked to now: a process, a remote address, or nothing."""
        return self._server(name).usable

    def begin_all(self) -> None:
        """Begin to start every enabled server: from here on, who asks for one waits for it."""
        for server in self._servers.values():
            if server.manifest.enabled:
                server.begin("start")

    async def start_all(self) -> list[ActionResult]:
        """Start every enabled server; returns when each has answered or failed once.

        All at once: whoever needs another one waits for it by itself.
        """
        wanted = [one for one in self._servers.values() if one.manifest.enabled]
        results = await asyncio.gather(*(server.act("start") for server in wanted))
        if self.zygote is not None:
            self.zygote.settled()
        return results

    async def start(self, name: str) -> ActionResult:
        """Start it (a broken or disabled one too), and whatever it requires and nobody runs.

        Waits for its first answer or failure.
        """
        server = self._server(name)
        for one in needs.closure([name], self._requires):
            if one in self._servers and (needed := self._servers[one]).state in (
                State.STOPPED,
                State.DISABLED,
                State.BROKEN,
            ):
                needed.begin("start")
        return await server.act("start")

    async def stop(self, name: str) -> ActionResult:
        """End it and everything that came of it; before it, whoever requires it."""
        server = self._server(name)
        dependants = needs.closure([name], self._required_by)
        # Until it is stopped it still runs, and those that have let go of it would come back.
        self._going.add(name)
        try:
            for layer in reversed(needs.layers(self._all_manifests())):
                holds = (
                    self._servers[n].hold(f"needs {name}, which was stopped")
                    for n in layer
                    if n in dependants
                )
                await asyncio.gather(*holds)
            return await server.act("stop")
        finally:
            self._going.discard(name)
            self._changed()

    async def restart(self, name: str) -> ActionResult:
        """End it, then start it; closes the breaker. Whoever requires it stays."""
        return await self._server(name).act("restart")

    def halt_from_start(self, reason: str, *, spared: Collection[str] = ()) -> None:
        """Nothing may be started, but for these; whoever wants to waits until `resume`."""
        self._halted, self._spared = reason, set(spared)

    async def halt(self, reason: str, *, spared: Collection[str] = ()) -> dict[str, bool]:
        """End everything but these, all at once, and keep it so until `resume`.

        Returns, when nothing runs any more, which servers ran, and whether all of each is gone.
        """
        self.halt_from_start(reason, spared=spared)
        ran = [
            server
            for name, server in self._servers.items()
            if name not in spared and server.state in (*WITH_PROCESS, State.BACKING_OFF)
        ]
        await asyncio.gather(*(server.halt(reason) for server in ran), self._sessions.close())
        return {
            server.manifest.name: not (server.last_stop and server.last_stop.left) for server in ran
        }

    def spare(self, name: str) -> None:
        """This one may run all the same."""
        self._spared.add(name)
        self._changed()

    def resume(self) -> None:
        """What was ended by `halt` is started again; what rested for other reasons goes on to."""
        self._halted = None
        self._changed()

    def busy(self, name: str) -> bool:
        """Whether a call of it runs."""
        return self._activity(name).in_flight > 0

    async def reload(self, manifests: Sequence[Manifest]) -> Reloaded:
        """Make these the manifests, touching only the servers that differ in what they need."""
        async with self._reloading:
            result = await apply(self._servers, manifests, self._make)
            self._changed()
            return result

    async def wait_ready(self, name: str, *, timeout_seconds: float) -> Target:
        """Wait, bounded, until it can be used; a `HostError` says why it cannot."""
        return await self._server(name).wait_ready(timeout_seconds)

    async def open_session(self, name: str) -> SessionProcess:
        """One more process of a server that runs, for one client; `end_session` ends it."""
        if self._around is None:
            raise RuntimeError("sessions are opened before the keeper is open")
        return await self._sessions.open(self._server(name), self._around)

    async def end_session(self, session: SessionProcess) -> None:
        """End it and all that came of it."""
        await self._sessions.end(session)

    def status(self) -> list[ServerStatus]:
        """One row per server, at once; memory is as of the last look, seconds ago at most."""
        return [self._status(server) for server in self._servers.values()]

    def _status(self, server: Server) -> ServerStatus:
        row = server.status()
        if server.manifest.session == "shared":
            return row
        return row.model_copy(update={"sessions": len(self._sessions.of(server))})

    def log_path(self, name: str) -> Path:
        """Its stderr log."""
        return self._state_dir / "logs" / f"{name}.jsonl"

    async def tail(self, name: str, lines: int = 100) -> list[str]:
        """The last lines of its log, oldest first."""
        log = self._server(name).log
        await asyncio.to_thread(log.flush)
        return await asyncio.to_thread(logs.tail, log.path, lines)

    def follow(self, name: str) -> AsyncIterator[str]:
        """Lines of its log from now on."""
        return logs.follow(self._server(name).log.path)

    def _make(self, manifest: Manifest) -> Server:
        if self._around is None:
            raise RuntimeError("servers are made before the keeper is open")
        log = ServerLog(self.log_path(manifest.name), self._redact, rules=manifest.log)
        return Server(manifest, self._around, log)

    def _all_manifests(self) -> dict[str, Manifest]:
        return {name: server.manifest for name, server in self._servers.items()}

    def _requires(self, name: str) -> Sequence[str]:
        return self._servers[name].manifest.requires if name in self._servers else ()

    def _required_by(self, name: str) -> Sequence[str]:
        return [n for n, one in self._servers.items() if name in one.manifest.requires]

    def _blocked(self, manifest: Manifest) -> Block | None:
        if self._halted is not None and manifest.name not in self._spared:
            return Block(Level.DOWN, self._halted)
        if not manifest.requires and not manifest.after:
            return None
        states = {
            name: State.STOPPING if name in self._going else server.state
            for name, server in self._servers.items()
        }
        return needs.block_of(manifest, self._all_manifests(), states)

    def _changed(self) -> None:
        """Some server is in another state; looked at once for all changes of this turn."""
        if self._reconsidering is None:
            self._reconsidering = asyncio.get_running_loop().call_soon(self._reconsider)

    def _reconsider(self) -> None:
        self._reconsidering = None
        self._sessions.look()
        for server in list(self._servers.values()):
            server.reconsider(self._blocked(server.manifest))
        states = {server.state for server in self._servers.values()}
        asleep = State.HIBERNATED in states and states <= AT_REST
        if asleep and not self._asleep:
            if self.zygote is not None:
                self._resting = asyncio.create_task(self.zygote.rest())
            try:
                self._on_all_asleep()
            except Exception:  # noqa: BLE001 - and logged, as in `_tell`
                _log.exception("A listener failed on everything being asleep")
        self._asleep = asleep

    def _nursery(self, records: Records) -> Nursery | None:
        """It warms up at once for many servers; for a few, once they run."""
        forks = [(one, fork) for one in self._manifests if (fork := fork_for(one)) is not None]
        if not forks or not processes.LINUX:
            early.take(None)
            return None
        names = [fork.target for one, fork in forks if fork.kind == "entry_point" and one.enabled]
        log = ServerLog(self._state_dir / "logs" / ZYGOTE_LOG, self._redact)
        enabled = sum(one.enabled for one, _ in forks)
        # One that was begun before we were is as good as warm.
        patient = early.begun() or enabled > (os.cpu_count() or 1)
        nursery = Nursery(records, log, self._environ, names, patient=patient)
        if patient:
            nursery.wake()
        return nursery

    def _server(self, name: str) -> Server:
        try:
            return self._servers[name]
        except KeyError:
            known = ", ".join(self._servers) or "none"
            raise HostError(
                f"There is no server {name!r}.",
                fix=f"Known here: {known}. A new one needs a manifest.",
                code="not_found",
            ) from None

    def _tell(self, event: ServerEvent) -> None:
        if isinstance(event, ServerReady):
            self._look_now.set()
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001 - and logged
            # A listener's fault must not leave a server half-way between two states.
            _log.exception("A listener failed on %s", event.type)

    async def _look_on(self, records: Records) -> None:
        """Every few seconds: memory, descendants, ended orphans."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look_now.wait()
            self._look_now.clear()
            children = {
                child: server
                for server in self._servers.values()
                if (child := server.child) is not None and child.exit is None
            }
            try:
                everyone = [*children, *self._sessions.children]
                found = await asyncio.to_thread(self._look, everyone)
                for child, server in children.items():
                    if server.child is child:
                        own = {one.child for one in self._sessions.of(server)} | {child}
                        server.memory = _sum([found[one] for one in own if one in found])
                await records.saw([child.family for child in everyone])
            except (OSError, HostError) as error:
                _log.warning("Looking at the processes failed: %s", error)
            # Many servers becoming ready at once are one reason to look, not many.
            await asyncio.sleep(LOOK_PAUSE_SECONDS)

    def _look(self, children: list[Child]) -> dict[Child, processes.Memory]:
        rows = processes.table()
        families: list[Family] = [child.family for child in children]
        processes.reap_orphans(rows, families, self._strays)
        return {
            child: processes.memory_bytes(
                set(processes.members(child.family, rows, search_marks=False))
            )
            for child in children
        }


def _sum(parts: list[processes.Memory]) -> processes.Memory:
    """The worse kind of figure names the sum."""
    kinds = {kind for _, kind in parts}
    return sum(size for size, _ in parts), "pss" if kinds == {"pss"} else "rss"
