"""The emergency stop as one daemon carries it out: refuse, end, stay so, and begin again.

What holds is the file in the state folder (`hostwright_kit/panic.py`); here it is made to hold: the
gateway refuses every call from the moment the file is there, every server and all that came of it
is ended, and none is started until the owner lifts it. Only the guard's server is started anew,
without any of its work, so that `safety_status` still answers. A file that another process wrote is
found within a second; one that vanishes without the owner's PIN is written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, Field

from hostwright.keeper.keeper import Keeper
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.panic import (
    Panic,
    PanicError,
    Via,
    declare,
    panicking,
    put_back,
    read_panic,
    remove,
)

SAFETY_SERVER = "guard"
"""It answers while everything is stopped, with these tools of its and no others:"""
SAFETY_TOOLS = frozenset({"safety_status", "safety_panic"})
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""How long the server that stopped everything has for its own answer."""
RECORD_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Stopped(BaseModel, frozen=True):
    """What came of a panic."""

    panic: Panic
    new: bool = Field(description="False: everything was stopped already, by the one told here.")
    stopped: tuple[str, ...] = Field(description="Servers that ran, and have ended.")
    left: tuple[str, ...] = Field(default=(), description="Servers of which processes still run.")
    problems: tuple[str, ...] = Field(default=(), description="What did not go as it should.")


class Lifted(BaseModel, frozen=True):
    """What was lifted."""

    panic: Panic


class Panicking:
    """The stop of one daemon. Event-loop thread only."""

    def __init__(self, state_dir: Path, ledger: Ledger) -> None:
        self._state_dir = state_dir
        self._ledger = ledger
        self.now: Panic | None = read_panic(state_dir)
        """The stop that holds."""
        self._keeper: Keeper | None = None
        self._one = asyncio.Lock()
        self._after: set[asyncio.Task[None]] = set()

    def serve(self, keeper: Keeper) -> None:
        """Before the keeper starts anything: a stop that holds from before holds on."""
        self._keeper = keeper
        if self.now is not None:
            keeper.halt_from_start(_why(self.now), spared=(SAFETY_SERVER,))

    def refusal(
        self, *, caller: str, server: str | None = None, tool: str | None = None
    ) -> HostError | None:
        """Why this is not done now; None while nothing is stopped."""
        if self.now is None:
            return None
        if server == SAFETY_SERVER and tool in SAFETY_TOOLS:
            return None
        reason = {"denied_by": f"the panic of {self.now.by}"}
        self._ledger.note(
            Entry(
                type="call.denied",
                caller=caller,
                server=server,
                tool=tool,
                outcome="denied",
                detail=reason,
            )
        )
        return PanicError(self.now)

    async def panic(self, *, by: str, via: Via, reason: str, answering: bool) -> Stopped:
        """Stop everything; returns when what ran has ended.

        `answering`: the guard's server asks, and has to answer before it is ended itself.
        """
        declared = await asyncio.to_thread(declare, self._state_dir, by=by, via=via, reason=reason)
        # Refused from here on, before anything is ended.
        known, self.now = self.now, declared.panic
        problems: list[str] = []
        if why := declared.undurable:
            problems.append(f"It holds until this daemon ends: {why}")
        async with self._one:
            recording = asyncio.ensure_future(self._record(None if known else declared.panic))
            stopped = await self._halt(spared=(SAFETY_SERVER,) if answering else ())
            if problem := await recording:
                problems.append(problem)
        if answering:
            self._renew()
        return Stopped(
            panic=declared.panic,
            new=declared.new,
            stopped=tuple(name for name, gone in stopped.items() if gone),
            left=tuple(name for name, gone in stopped.items() if not gone),
            problems=tuple(problems),
        )

    async def lift(self, pin: str, owner: OperatorPin) -> Lifted:
        """End it; raises when the PIN is wrong, or when that cannot be put on record."""
        await asyncio.to_thread(owner.verify, pin)
        async with self._one:
            panic = self.now
            if panic is None:
                raise not_stopped()
            await self._ledger.append_async(lifted_entry(panic))
            await asyncio.to_thread(remove, self._state_dir)
            self.now = None
            self._running.resume()
        return Lifted(panic=panic)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """See, while inside, what other processes do to the file."""
        task = asyncio.create_task(self._watch(), name="panic")
        try:
            yield
        finally:
            for one in (task, *self._after):
                one.cancel()
            await asyncio.wait([task, *self._after])

    @property
    def _running(self) -> Keeper:
        if self._keeper is None:
            raise RuntimeError("a panic before there is a keeper")
        return self._keeper

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            holds = panicking(self._state_dir)
            if holds and self.now is None:
                async with self._one:
                    self.now = await asyncio.to_thread(read_panic, self._state_dir)
                    if self.now is not None:
                        recording = asyncio.ensure_future(self._record(self.now))
                        # The guard's server may have written it, and may be about to ask for this.
                        await self._halt(spared=(SAFETY_SERVER,))
                        self._renew()
                        if problem := await recording:
                            _log.warning("%s", problem)
            elif not holds and self.now is not None:
                await self._put_back()

    async def _put_back(self) -> None:
        """The file is gone, and the owner has not lifted it."""
        async with self._one:
            if self.now is None or panicking(self._state_dir):
                return
            await asyncio.to_thread(put_back, self._state_dir, self.now)
            detail = {"reason": "the record of the panic was removed without the owner's PIN"}
            self._ledger.note(Entry(type="safety.panic", caller="supervisor", detail=detail))
            _log.warning("The panic's record was removed without the owner's PIN; it is back.")

    async def _halt(self, spared: tuple[str, ...]) -> dict[str, bool]:
        assert self.now is not None  # noqa: S101 - whoever calls has set it
        keeper = self._running
        found = await keeper.halt(_why(self.now), spared=spared)
        if not spared:
            self._spare()
        return found

    def _spare(self) -> None:
        """The guard's server may run again, with none of the work that it had."""
        self._running.spare(SAFETY_SERVER)

    def _renew(self) -> None:
        """Start the guard's server anew, once it has answered."""
        if not self._after:
            task = asyncio.create_task(self._renew_when_answered())
            self._after.add(task)
            task.add_done_callback(self._after.discard)

    async def _renew_when_answered(self) -> None:
        keeper = self._running
        if SAFETY_SERVER not in keeper.names:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_SECONDS
        # A link tells nobody when it becomes idle.
        while loop.time() < until and keeper.busy(SAFETY_SERVER):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        result = await keeper.restart(SAFETY_SERVER)
        if not result.ok:
            _log.warning("After the panic: %s", result.message)

    async def _record(self, panic: Panic | None) -> str | None:
        """Put it on record; why not, when that was not possible in a while."""
        if panic is None:
            return None
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await self._ledger.append_async(panic_entry(panic))
        except HostError as error:
            return f"It is not on record: {error.message}"
        except TimeoutError:
            return "It is not on record yet: the ledger did not answer."
        return None


def panic_entry(panic: Panic) -> Entry:
    """As the ledger keeps it."""
    detail = {"panic": panic.id, "via": panic.via, "reason": panic.reason}
    return Entry(type="safety.panic", caller=panic.by, detail=detail)


def lifted_entry(panic: Panic) -> Entry:
    """The owner's word, as the ledger keeps it."""
    detail = {"panic": panic.id, "by": panic.by, "since": panic.since}
    return Entry(type="safety.lifted", caller="owner", detail=detail)


def not_stopped() -> HostError:
    """There is nothing to lift."""
    return HostError(
        "Nothing is stopped.", fix="`hostwright status` shows how it is.", code="no_panic"
    )


def _why(panic: Panic) -> str:
    return f"{panic.sentence()}; the owner lifts it with hostwright lift"
