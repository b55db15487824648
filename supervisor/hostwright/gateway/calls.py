"""A request on its way to a server and back.

Where the server is there, no task and no future is made for it: it is put on the link, and the
answer's bytes go to the client from the callback. What takes longer (a server that starts, a
question to the client, a look into the ledger) is a task of its own.

A server that ends under a call is restarted by the keeper. What only reads, or may be repeated, is
then asked once more; of everything else the client is told what is known (`lost.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from msgspec import Raw

from hostwright.gateway import codec, logs, metrics, results, tracing
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.base_link import BaseLink, Done, Progress
from hostwright.gateway.behind import Behind
from hostwright.gateway.bridge import MAX_QUESTIONS, put_questions
from hostwright.gateway.catalog import Owned
from hostwright.gateway.codec import ABSENT, Fields, RpcError
from hostwright.gateway.held import Held, same
from hostwright.gateway.peer import Peer
from hostwright.gateway.questions import Question, put_to_session
from hostwright.gateway.request import Request
from hostwright.telemetry import Span
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

SERVER_UNAVAILABLE = -32000
_ids = itertools.count(1)
_NUMBER_STARTS = frozenset({b"-", *(b"%d" % digit for digit in range(10))})


def _never(_: RpcError) -> bool:
    return False


class Call:
    """One request that a server answers."""

    __slots__ = (
        *("_again", "_asked", "_began", "_id", "_link", "_number", "_params", "_span", "_take"),
        *("_task", "behind", "otherwise", "owned", "request", "since"),
    )

    def __init__(self, behind: Behind, request: Request, owned: Owned, params: Fields) -> None:
        self.behind = behind
        self.request = request
        self.owned = owned
        self.since = time.time()
        self.otherwise: Callable[[RpcError], bool] = _never
        """Asked when the server refuses: whether somebody else answers instead."""
        self._params = params
        self._began = time.perf_counter()
        self._id = str(next(_ids))
        self._again = False
        self._asked = 0
        self._link: BaseLink | None = None
        self._take: Done | None = None
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        self._span: Span | None = None

    @property
    def is_tool(self) -> bool:
        """Whether errors are results that agents read."""
        return self.request.method == "tools/call"

    # -- for the link ----------------------------------------------------------------------------

    @property
    def hearer(self) -> object:
        """A session hears all its log messages, a request that stands alone only its own."""
        return self.request.session or self.request

    @property
    def log_level(self) -> str | None:
        """From which level on."""
        return self.request.log_level

    def logged(self, params: Raw) -> None:
        """The server logged this."""
        if self.request.open and logs.is_wanted(params, self.request.log_level):
            self.request.outlet.report(self.request, logs.line(params))

    attentive = True

    @property
    def peer(self) -> Peer:
        """Whose it is."""
        return self.request.peer

    def what(self) -> tuple[object, ...]:
        """What it asks of whom."""
        return self.owned.server, self.request.method, same(self._params)

    def asked(self, question: Question) -> None:
        """The server wants to know something before it answers."""
        request, link, take = self.request, self._link, self._take
        if not request.open or link is None or take is None:
            question.refuse("The client is gone.")
        elif request.session is not None:
            put_to_session(question, request.session, request)
        else:
            held = Held(self, link, self._number, question)
            if (asking := self.behind.held.keep(held)) is None:
                question.refuse("Too many questions are open.")
                return
            self._link = self._take = None
            take(Raw(asking), None)

    # -- the way there ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; the request is answered when it is done."""
        self.request.on_cancel = self._cancelled
        self._emit("request.accepted")
        if self.is_tool:
            metrics.begun(self.owned.server)
            if (tracer := self.behind.tracer) is not None:
                self._span = tracing.begin(tracer, self.request, self.owned)
                self._params = tracing.told(self._params, self._span)
        if self.request.interrupted is not None and not self._may_begin_again():
            self._run(self._tell_lost())
        elif self._is_guarded():
            self._run(self._guarded())
        else:
            self._go()

    def _is_guarded(self) -> bool:
        guard = self.behind.guard
        if guard is None or not self.is_tool or self.behind.is_ours(self.owned.server):
            return False
        return not guard.is_free(self)

    def _go(self) -> None:
        link = self.behind.ready(self.owned.server, self.request)
        if link is None:
            self._run(self._go_later())
        else:
            self._put(link)

    async def _go_later(self) -> None:
        self._put(await self.behind.link(self.owned.server, self.request))

    def _put(self, link: BaseLink) -> None:
        try:
            self._send(link, self._done)
        except (HostError, RpcError) as error:
            self._done(None, error)

    def _send(self, link: BaseLink, done: Done) -> None:
        """Put it to the server; or go on with the call that waits there for its client."""
        request = self.request
        self._take = done
        if "requestState" in self._params and self._go_on(done):
            return
        self._link = link
        self._number = link.send(
            request.method, self._params, request.asker, done, self._reports, self
        )

    def _go_on(self, done: Done) -> bool:
        if (found := self.behind.held.take(self, self._params)) is None:
            return False
        held, answer = found
        if held.outcome is None:
            self._link, self._number = held.link, held.number
            held.link.hand_over(held.number, done, self._reports, self)
        held.question.answer(answer)
        for question in held.further:
            held.link.desk.take(question)
        if held.outcome is not None:
            # The server did not wait for the answer, or asked for another call.
            done(*held.outcome)
        return True

    @property
    def _reports(self) -> Progress | None:
        return self._progress if self.request.progress is not None else None

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._task = asyncio.ensure_future(work)
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Future[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None or not self.request.open:
            return
        if isinstance(error, LinkLostError) and self.is_tool:
            self._run(self._tell_lost())
        else:
            self._failed(error)

    def _cancelled(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._link is not None:
            self._link.cancel(self._number)
        self._over("cancelled")

    # -- what comes back -------------------------------------------------------------------------

    def _progress(self, report: Fields) -> None:
        how_far, total = report.get("progress", ABSENT), report.get("total", ABSENT)
        token = self.request.progress
        if not self.request.open or token is None or not _is_number(how_far):
            return
        members = b'"progressToken":%b,"progress":%b' % (token, bytes(how_far))
        if _is_number(total):
            members += b',"total":' + bytes(total)
        if codec.first(message := report.get("message", ABSENT)) == b'"':
            members += b',"message":' + bytes(message)
        line = codec.notice("notifications/progress", b"{" + members + b"}")
        self.request.outlet.report(self.request, line)
        # A number whose text the codec took for one.
        self._emit("request.progress", progress=float(bytes(how_far)), total=_float(total))

    def _done(self, result: Raw | None, error: Exception | None) -> None:
        self._link = None
        if not self.request.open:
            return
        if result is not None:
            self._answered(result)
        elif isinstance(error, LinkLostError):
            if not self._again and self._may_repeat():
                self._again = True
                self._go()
            elif self.is_tool:
                self._run(self._tell_lost())
            else:
                self._failed(error)
        else:
            self._failed(error or LinkLostError(self.owned.server))

    def _may_repeat(self) -> bool:
        if not self.is_tool:
            return True  # nothing else changes anything
        hints = self.owned.entry.get("annotations")
        said = cast("Mapping[str, Any]", hints) if isinstance(hints, dict) else {}
        return said.get("readOnlyHint") is True or said.get("idempotentHint") is True

    def _may_begin_again(self) -> bool:
        """Whether what a daemon that is gone had begun does no harm a second time."""
        interrupted = self.request.interrupted
        if interrupted is None:
            return True
        self.since = interrupted.since
        return interrupted.whole and self._may_repeat()

    async def _tell_lost(self) -> None:
        raise await self.lost()

    def _answered(self, result: Raw) -> None:
        method = self.request.method
        try:
            seen = results.look(result)
        except ValueError:
            self._failed(_bad_answer(self.owned))
            return
        if seen.asks and not self.request.modern:
            self._run(self._ask(result))
        elif seen.asks:
            self._finish(bytes(result), "asked")
        elif not seen.is_whole(method):
            self._failed(_bad_answer(self.owned))
        else:
            body = results.for_client(result, seen, method, modern=self.request.modern)
            self._finish(body, "error" if seen.isError else "ok")

    def _finish(self, body: bytes, outcome: metrics.Outcome) -> None:
        self._over(outcome)
        self.request.succeed(body)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, RpcError) and self.otherwise(error):
            return
        self._over("failed")
        if isinstance(error, HostError) and self.is_tool:
            self.request.succeed(results.tool_error(error, modern=self.request.modern))
            return
        if isinstance(error, HostError):
            data = codec.encode(results.detail(error))
            error = RpcError(SERVER_UNAVAILABLE, str(error), data)
        elif not isinstance(error, RpcError):
            logger.error("a request failed", exc_info=error)
            error = RpcError(codec.INTERNAL_ERROR, "The gateway failed on this request.")
        self.request.fail(error)

    def _over(self, outcome: metrics.Outcome) -> None:
        took = time.perf_counter() - self._began
        if self.is_tool:
            metrics.observe(self.owned.server, self.owned.name, outcome, took)
        if self._span is not None:
            self._span.end(outcome)
        answered = outcome in ("ok", "error", "asked")
        kind = "request.completed" if answered else "request.failed"
        self._emit(kind, outcome=outcome, duration_ms=round(took * 1000, 3))

    def _emit(self, kind: str, **more: Any) -> None:
        if (events := self.behind.events) is not None:
            tool = self.is_tool
            events.emit(
                kind,
                id=self._id,
                server=self.owned.server,
                # What is read or asked for by name may be data; a tool's name is none.
                tool=self.owned.name if tool else None,
                method=None if tool else self.request.method,
                caller=self.request.asker.name,
                retried=1 if self._again else None,
                **more,
            )

    # -- questions to a client of the handshake era, and guarded calls ---------------------------

    async def _ask(self, result: Raw) -> None:
        """Put the server's questions to the client, then the request again with the answers."""
        await self._put_to_client(result)
        self._go()

    async def _put_to_client(self, result: Raw) -> None:
        self._asked += 1
        server = self.owned.server
        if self._asked > MAX_QUESTIONS:
            text = f"{server} asked more than {MAX_QUESTIONS} times in one call."
            raise RpcError(SERVER_UNAVAILABLE, text)
        self._params = {**self._params, **await put_questions(self.request, result, server)}

    async def _guarded(self) -> None:
        guard = self.behind.guard
        if guard is None:
            raise RuntimeError("a guarded call without a guard")
        self._answered(Raw(await guard(self)))

    async def act(self, changes: Fields, *, again: bool) -> bytes:
        """Ask the server, on behalf of a guard; its answer, at the end of what it asks first.

        `again`: whether what may be repeated is, should the server end under it.
        """
        params = {**self._params, **changes}
        self._params = {key: one for key, one in params.items() if one is not ABSENT}
        while True:
            result = await (self._exchange_twice() if again else self._exchange())
            if self.request.modern or not results.look(Raw(result)).asks:
                return result
            await self._put_to_client(Raw(result))

    async def lost(self) -> HostError:
        """What is known when the server ended under it."""
        return await self.behind.lost(self)

    async def _exchange_twice(self) -> bytes:
        try:
            return await self._exchange()
        except LinkLostError:
            if not self._may_repeat():
                raise
        return await self._exchange()

    async def _exchange(self) -> bytes:
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(result: Raw | None, error: Exception | None) -> None:
            self._link = None
            if waiting.done():
                return
            if result is not None:
                waiting.set_result(bytes(result))
            else:
                waiting.set_exception(error or LinkLostError(self.owned.server))

        self._send(await self.behind.link(self.owned.server, self.request), done)
        return await waiting


def _is_number(raw: Raw) -> bool:
    return codec.first(raw) in _NUMBER_STARTS


def _float(raw: Raw) -> float | None:
    return float(bytes(raw)) if _is_number(raw) else None


def _bad_answer(owned: Owned) -> HostError:
    return HostError(
        f"The server {owned.server} answered {owned.name} with something invalid.",
        fix="It is a fault of that server; look at its documentation and version.",
        code="bad_answer",
    )
