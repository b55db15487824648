"""Further processes of one server, each for one client (`session = "per-client"`).

They are started like the server's own process, with its limits, its log and a record on disk, and
are ended as exactly. They are not restarted: who needs one opens another. They exist only while
the server itself runs or comes back by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from hostwright.keeper.around import Surroundings, Target
from hostwright.keeper.child import Child
from hostwright.keeper.groups import Group
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.machine import State
from hostwright.keeper.opening import open_target
from hostwright.keeper.server import Server
from hostwright.keeper.status import Exit
from hostwright.manifest import Manifest
from hostwright_kit.errors import HostError

ALLOWED = frozenset(
    {State.STARTING, State.READY, State.UNHEALTHY, State.FAILING, State.BACKING_OFF}
)
_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class SessionProcess:
    """What runs for one client: a process, or nothing but the address of a remote server."""

    def __init__(
        self, server: Server, target: Target, group: Group | None, around: Surroundings
    ) -> None:
        self.server = server
        self.target = target
        self._manifest: Manifest = server.manifest
        self._log: ServerLog = server.log
        self._group = group
        self._around = around
        self._ending: asyncio.Task[None] | None = None

    @property
    def child(self) -> Child | None:
        """The process, if there is one."""
        return self.target if isinstance(self.target, Child) else None

    def clean(self, text: str) -> str:
        """`text` fit to be kept and shown."""
        return self._log.clean(text)

    def note(self, what: str) -> None:
        """Something that the log of its server should tell."""
        self._log.note(what)

    async def end(self) -> None:
        """End it and all that came of it; it goes on if the caller is cancelled."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if (child := self.child) is None:
            return
        result = await child.stop(timeout_seconds=self._manifest.stop_timeout_seconds)
        left = result.left
        if self._group:
            left = (*left, *await asyncio.to_thread(self._group.end))
        self._log.note(f"session ended, pid {child.pid}: {result.exit or 'not ended'}")
        if left:
            _log.warning("Processes of a session of %s could not be ended: %s", child.name, left)
            return
        try:
            await self._around.records.ended(child.family.mark)
        except HostError as error:
            # The next start finds nothing under this mark.
            _log.warning("%s", error)


class SessionProcesses:
    """All of them, of all servers."""

    def __init__(self) -> None:
        self._open: set[SessionProcess] = set()
        self._opening: set[asyncio.Task[SessionProcess]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def children(self) -> list[Child]:
        """The processes that run."""
        found = (one.child for one in self._open)
        return [child for child in found if child is not None and child.exit is None]

    def of(self, server: Server) -> list[SessionProcess]:
        """Those of one server."""
        return [one for one in self._open if one.server is server]

    async def open(self, server: Server, around: Surroundings) -> SessionProcess:
        """Start one more; a `HostError` says why that cannot be.

        Half a start cannot be taken back: when the caller is cancelled, what comes of it is ended.
        """
        opening = asyncio.ensure_future(self._started(server, around))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._unwanted)
            raise

    def _unwanted(self, opening: asyncio.Task[SessionProcess]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._begin_end(opening.result())

    async def _started(self, server: Server, around: Surroundings) -> SessionProcess:
        made = await open_target(server.manifest, around, server.log, instance=f".{next(_numbers)}")
        found = SessionProcess(server, made.target, made.group, around)
        self._open.add(found)
        if (child := found.child) is not None:
            server.log.note(f"session started, pid {child.pid}")
            child.on_exit(lambda _child, _exit: self._exited(found, _exit))
        if server.state not in ALLOWED:
            await self.end(found)
            raise HostError(
                f"{server.manifest.name} was stopped while a session of it was being opened.",
                fix=f"`hostwright start {server.manifest.name}`.",
                code="server_unavailable",
            )
        return found

    async def end(self, one: SessionProcess) -> None:
        """End it."""
        self._open.discard(one)
        await one.end()

    def look(self) -> None:
        """Servers are in other states: those that do not run have no sessions."""
        for one in list(self._open):
            if one.server.state not in ALLOWED:
                self._begin_end(one)

    async def close(self) -> None:
        """End all."""
        if self._opening:
            await asyncio.wait(self._opening)
        for one in list(self._open):
            self._begin_end(one)
        if self._ending:
            await asyncio.wait(self._ending)

    def _exited(self, one: SessionProcess, ended: Exit) -> None:
        if one in self._open:
            one.server.log.note(f"a session's process ended by itself: {ended}")
            self._begin_end(one)

    def _begin_end(self, one: SessionProcess) -> None:
        self._open.discard(one)
        task = asyncio.ensure_future(one.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
