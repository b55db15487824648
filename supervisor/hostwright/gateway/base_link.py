"""What links over pipes and links over HTTP have in common: which requests wait, and for whom.

A link knows of whoever waits only what `Party` says: whose call it is, so that what a server says
beside its answers (log messages) reaches nobody else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import msgspec
from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import SUPERVISOR, Asker
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.codec import ABSENT, Fields, RpcError
from hostwright.gateway.peer import Peer, Site
from hostwright.gateway.questions import Asked, Desk, Whom
from hostwright.keeper.status import Activity
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1_000

Done = Callable[[Raw | None, Exception | None], None]
"""Called once: with the result, or with why there is none."""
Progress = Callable[[Fields], None]
Notified = Callable[[str, Raw], None]

# One count for all links: a late answer to a link that was given up must not be taken for an
# answer to the next one.
_ids = itertools.count(1)


class Party(Asked, Protocol):
    """Whoever waits for an answer, as far as a link is concerned."""

    @property
    def hearer(self) -> object:
        """Who hears log messages: the same for all that may hear each other's."""
        ...

    @property
    def log_level(self) -> str | None:
        """From which level on; None: not at all."""
        ...

    def logged(self, params: Raw) -> None:
        """The server logged this, maybe for this request."""
        ...


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Raw = ABSENT


_error = msgspec.json.Decoder(_Error)


class _Pending:
    """A request that was sent and not answered yet."""

    __slots__ = ("counts", "done", "logs", "party", "progress", "seen")

    def __init__(
        self, done: Done, progress: Progress | None, party: Party | None, *, counts: bool
    ) -> None:
        self.done = done
        self.progress = progress
        self.party = party
        self.counts = counts
        self.logs = False
        self.seen = time.monotonic()


class BaseLink:
    """What links over pipes and links over HTTP have in common."""

    legacy: bool
    """Whether it was initialized in the handshake era."""

    def __init__(self, server: str, whom: Whom = "whoever calls") -> None:
        """`whom`: who is asked what a server of the handshake era asks."""
        self.server = server
        self.site = Site(server, whom if isinstance(whom, Peer) else None)
        self.desk = Desk(server, whom, lambda: self.parties)
        self._pending: dict[int, _Pending] = {}
        self._active = time.monotonic()

    def activity(self) -> Activity:
        """How busy it is now."""
        now = time.monotonic()
        calls = [one.seen for one in self._pending.values() if one.counts]
        return Activity(
            in_flight=len(calls),
            idle_seconds=0 if calls else now - self._active,
            silent_seconds=now - min(calls) if calls else 0,
        )

    @property
    def parties(self) -> list[Party]:
        """Who waits now, the latest last."""
        return [one.party for one in self._pending.values() if one.party is not None]

    def _admit(
        self,
        done: Done,
        progress: Progress | None,
        asker: Asker = SUPERVISOR,
        party: Party | None = None,
    ) -> int:
        if len(self._pending) >= MAX_IN_FLIGHT:
            raise busy(f"{MAX_IN_FLIGHT} calls to {self.server} are running already.")
        number = next(_ids)
        # What the supervisor asks on its own is no use of the server.
        self._pending[number] = _Pending(done, progress, party, counts=asker is not SUPERVISOR)
        return number

    def hand_over(self, number: int, done: Done, progress: Progress | None, party: Party) -> None:
        """Somebody else waits for that answer from now on."""
        if (pending := self._pending.get(number)) is not None:
            pending.done, pending.progress, pending.party = done, progress, party

    def _began(self, party: Party | None) -> None:
        """A request of somebody's is on its way."""
        if party is not None and self.desk.waits:
            asyncio.get_running_loop().call_soon(self.desk.again)

    def _level_for(self, number: int) -> str | None:
        """The level to ask the server for with this request; None: it must not log for it.

        No log message says which request it belongs to. So a server of the new era, which logs
        only for requests that ask for it, is asked on behalf of one hearer at a time.
        """
        pending = self._pending[number]
        if (party := pending.party) is None or (level := party.log_level) is None:
            return None
        for other in self._pending.values():
            if other.logs and other.party is not None and other.party.hearer is not party.hearer:
                return None
        pending.logs = True
        return level

    def _logged(self, params: Raw) -> None:
        """A server of the new era logged: to the one hearer that asked."""
        for one in reversed(self._pending.values()):
            if one.logs and one.party is not None:
                self._hand_on(one.party.logged, params)
                return

    def _settle(self, number: int, result: Raw | None, error: Exception | None) -> None:
        pending = self._pending.pop(number, None)
        if pending is not None:
            if pending.counts:
                self._active = time.monotonic()
            self._hand_on(pending.done, result, error)

    def _hand_on(self, take: Callable[..., None], *what: object) -> None:
        try:
            take(*what)
        except Exception:
            # A fault of ours in one caller's affair; the others still wait for their answers.
            logger.exception("what %s said could not be handed on", self.server)

    def send(
        self,
        method: str,
        params: Fields,
        asker: Asker,
        done: Done,
        progress: Progress | None = None,
        party: Party | None = None,
    ) -> int:
        """Ask; returns what `cancel` takes. Raises when the question cannot be put."""
        raise NotImplementedError

    def cancel(self, number: int) -> None:
        """Nobody waits for that answer any longer."""
        raise NotImplementedError

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask as the supervisor; raises `RpcError` when the server refuses or ends."""
        ready = {key: Raw(codec.encode(one)) for key, one in params.items()}
        return await self.awaited(
            lambda done: self.send(method, ready, SUPERVISOR, done), self.cancel
        )

    async def awaited(
        self, ask: Callable[[Done], int], cancel: Callable[[int], None]
    ) -> dict[str, Any]:
        """The built result of a question, for those who can wait for it."""
        waiting: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()

        def done(result: Raw | None, error: Exception | None) -> None:
            if waiting.done():
                return
            if result is not None:
                waiting.set_result(result)
            else:
                waiting.set_exception(error or LinkLostError(self.server))

        number = ask(done)
        try:
            found = codec.value(await waiting)
        except asyncio.CancelledError:
            cancel(number)
            raise
        return cast("dict[str, Any]", found)


def rpc_error(raw: Raw) -> RpcError:
    """A server's error object, made to be what the protocol says."""
    try:
        found = _error.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        odd = cast("dict[str, Any]", codec.value(raw) or {})
        code, data = odd.get("code"), odd.get("data")
        if not isinstance(code, int) or isinstance(code, bool):
            code = codec.INTERNAL_ERROR
        return RpcError(
            code,
            str(odd.get("message", "")),
            None if data is None else codec.encode(data),
        )
    return RpcError(found.code, found.message, None if found.data is ABSENT else bytes(found.data))


def busy(what: str) -> HostError:
    return HostError(what, fix="Wait for some of them to end, then try again.", code="busy")
