"""The bus over HTTP: `GET /events` as server-sent events (the WHATWG HTML standard, §9.2).

`cursor` is the id of the last event that was seen (`Last-Event-ID` says the same, and wins), or
`now`, or `recent`; `filter`, `server`, `tool` and `caller` choose; `follow=false` ends when all
that there is was sent. A stream that is silent gets a comment now and then, with the cursor, so
that a reader whose filter lets little through is not far behind when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hostwright.events.bus import Events, Reader, Start, take_all
from hostwright.events.cursor import Cursor, parse_cursor
from hostwright.events.filters import Filter, parse_filter
from hostwright_kit.errors import HostError
from hostwright_kit.vouching import TOKEN_SCOPE

HEARTBEAT_SECONDS = 15.0
GATHER_SECONDS = 0.02
"""What comes within this time is sent together."""
RETRY_MILLISECONDS = 1_000
PARAMETERS = frozenset({"cursor", "filter", "server", "tool", "caller", "follow"})
STARTS = {"now": Start.NOW, "recent": Start.RECENT}
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def routes(
    bus: Events,
    sees: Callable[[str | None, str | None, str | None], bool] = lambda _token, _server, _tool: (
        True
    ),
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> list[BaseRoute]:
    """What both listeners mount. `sees` tells what the holder of a token may know of."""

    async def events(request: Request) -> Response:
        try:
            wanted, start, follow = _asked(request)
        except HostError as error:
            return _error(error, 400)
        # Asked for every event: a token may be changed while its holder listens.
        seen = partial(sees, request.scope.get(TOKEN_SCOPE))
        wanted = wanted.model_copy(update={"sees": seen})
        return _Stream(bus, wanted, start, follow=follow, heartbeat_seconds=heartbeat_seconds)

    return [Route("/events", events, methods=["GET"])]


def _asked(request: Request) -> tuple[Filter, Start | Cursor, bool]:
    query = request.query_params
    if unknown := sorted(set(query) - PARAMETERS):
        raise HostError(
            f"There is no parameter {unknown[0][:60]!r}.",
            fix=f"Use these: {', '.join(sorted(PARAMETERS))}.",
            code="bad_parameter",
        )
    wanted = parse_filter(
        query.getlist("filter"),
        servers=query.getlist("server"),
        tools=query.getlist("tool"),
        callers=query.getlist("caller"),
    )
    text = request.headers.get("last-event-id") or query.get("cursor") or "now"
    return wanted, STARTS.get(text) or parse_cursor(text), _follow(query)


def _follow(query: QueryParams) -> bool:
    word = query.get("follow", "true")
    if word not in ("true", "false"):
        raise HostError(
            f"follow={word[:20]!r} is neither true nor false.",
            fix="Leave it out, or say follow=false.",
            code="bad_parameter",
        )
    return word == "true"


class _Stream(Response):
    """One listener's answer, for as long as it lasts."""

    def __init__(
        self,
        bus: Events,
        wanted: Filter,
        start: Start | Cursor,
        *,
        follow: bool,
        heartbeat_seconds: float,
    ) -> None:
        super().__init__()
        self._bus = bus
        self._wanted = wanted
        self._start = start
        self._follow = follow
        self._heartbeat = heartbeat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(
                    self._bus.listen(self._wanted, self._start)
                )
            except HostError as error:
                await _error(error, 503)(scope, receive, send)
                return
            gone = asyncio.create_task(_gone(receive), name="events: is the listener still there")
            stack.callback(gone.cancel)
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await _send(send, self._hello(reader))
            await self._pass_on(reader, gone, send)
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _hello(self, reader: Reader) -> bytes:
        # Whoever came with a cursor keeps it until it has what was missed.
        given = isinstance(self._start, Cursor) or self._start is Start.RECENT
        where = "" if given else f"id: {reader.cursor}\n"
        return f"retry: {RETRY_MILLISECONDS}\n{where}: listening\n\n".encode()

    async def _pass_on(self, reader: Reader, gone: asyncio.Task[None], send: Send) -> None:
        """Until the listener has gone, the bus is closed, or all was sent that it asked for.

        `send` waits while the listener does not read, and nothing is kept for it meanwhile.
        """
        while not gone.done():
            if sent := await reader.take():
                await _send(send, take_all(sent))
                continue
            if self._bus.closed or not self._follow:
                return
            changed = self._bus.changed()
            done, _ = await asyncio.wait(
                (changed, gone),
                timeout=self._heartbeat,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                await _send(send, f": still here\nid: {reader.cursor}\n\n".encode())
            elif changed in done and not self._bus.closed:
                await asyncio.sleep(GATHER_SECONDS)


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(error: HostError, status: int) -> Response:
    body = {"error": {"code": error.code, "message": error.message, "fix": error.fix}}
    return JSONResponse(body, status)
