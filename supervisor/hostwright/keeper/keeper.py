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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from hostwright.keeper import logs, processes
from hostwright.keeper.child import Child
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.machine import State
from hostwright.keeper.pidfile import DaemonLock
from hostwright.keeper.processes import Family, ProcessId
from hostwright.keeper.records import Records, Survivors
from hostwright.keeper.server import Action, Prepare, Probe, Server, Surroundings, Target
from hostwright.keeper.status import ActionResult, Extras, ServerEvent, ServerReady, ServerStatus
from hostwright.manifest import Manifest, fork_for
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


def _no_listener(_: ServerEvent) -> None:
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
        environ: Mapping[str, str] | None = None,
        dice: random.Random | None = None,
    ) -> None:
        """`probe` asks a server for a sign of life and raises when there is none.

        `prepare` gives one start its further variables and descriptors; they may be closed when
        its context ends, right after the process was started.
        """
        self._manifests = manifests
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._probe = probe
        self._on_event = on_event
        self._redact = redact
        self._prepare = prepare
        self._environ = dict(os.environ if environ is None else environ)
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._lock = DaemonLock(runtime_dir, state_dir)
        self._servers: dict[str, Server] = {}
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
        around = Surroundings(
            records,
            self._environ,
            self._probe,
            self._prepare,
            self._tell,
            self._dice,
            by_fork=self.zygote.start if self.zygote else None,
        )
        for manifest in self._manifests:
            log = ServerLog(self.log_path(manifest.name), self._redact)
            self._servers[manifest.name] = Server(manifest, around, log)
        self._looking = asyncio.create_task(self._look_on(records), name="keeper look")
        return survivors

    async def close(self) -> list[ActionResult]:
        """End every server's processes, then let the next daemon in."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        try:
            return await asyncio.gather(*(server.act("stop") for server in self._servers.values()))
        finally:
            if self.zygote is not None:
                await self.zygote.close()
            for server in self._servers.values():
                server.log.close()
            self._lock.release()

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
        """What runs for it now: a process, a remote address, or nothing."""
        return self._server(name).target

    async def start_all(self) -> list[ActionResult]:
        """Start every enabled server; returns when each has answered or failed once."""
        wanted = [one for one in self._servers.values() if one.state is not State.DISABLED]
        return await asyncio.gather(*(server.act("start") for server in wanted))

    async def start(self, name: str) -> ActionResult:
        """Start it (a broken or disabled one too) and wait for its first answer or failure."""
        return await self._act(name, "start")

    async def stop(self, name: str) -> ActionResult:
        """End it and everything that came of it."""
        return await self._act(name, "stop")

    async def restart(self, name: str) -> ActionResult:
        """End it, then start it; closes the breaker."""
        return await self._act(name, "restart")

    async def wait_ready(self, name: str, *, timeout_seconds: float) -> Target:
        """Wait, bounded, until it can be used; a `HostError` says why it cannot."""
        return await self._server(name).wait_ready(timeout_seconds)

    def status(self) -> list[ServerStatus]:
        """One row per server, at once; memory is as of the last look, seconds ago at most."""
        return [server.status() for server in self._servers.values()]

    def log_path(self, name: str) -> Path:
        """Its stderr log."""
        return self._state_dir / "logs" / f"{name}.log"

    async def tail(self, name: str, lines: int = 100) -> list[str]:
        """The last lines of its log, oldest first."""
        return await asyncio.to_thread(logs.tail, self._server(name).log.path, lines)

    def follow(self, name: str) -> AsyncIterator[str]:
        """Lines of its log from now on."""
        return logs.follow(self._server(name).log.path)

    def _nursery(self, records: Records) -> Nursery | None:
        """It warms up at once when a server that will be started can be forked."""
        forks = [(one, fork) for one in self._manifests if (fork := fork_for(one)) is not None]
        if not forks or not processes.LINUX:
            return None
        names = [fork.target for one, fork in forks if fork.kind == "entry_point" and one.enabled]
        log = ServerLog(self._state_dir / "logs" / ZYGOTE_LOG, self._redact)
        nursery = Nursery(records, log, self._environ, names)
        if any(one.enabled for one, _ in forks):
            nursery.wake()
        return nursery

    async def _act(self, name: str, action: Action) -> ActionResult:
        return await self._server(name).act(action)

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
                found = await asyncio.to_thread(self._look, list(children))
                for child, memory in found.items():
                    if (server := children[child]).child is child:
                        server.memory = memory
                await records.saw([child.family for child in children])
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
