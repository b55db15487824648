"""Ends the requests of an HTTP application before its server is ended.

An MCP client keeps a stream open for as long as it lives. Left to the HTTP server, each would be
waited for and then torn down in the middle of its work, with a traceback in the owner's terminal.
"""

from __future__ import annotations

import asyncio

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GRACE_SECONDS = 1.0


class Ending:
    """Passes requests on until `end` is called; then lets them finish, bounded, and no more in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ending = False
        self._requests: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """Close the streams at once; give the requests a moment, then close them too."""
        self._ending = True
        for stream in self._streams:
            stream.cancel()
        if self._requests:
            await asyncio.wait(self._requests, timeout=GRACE_SECONDS)
        for request in self._requests:
            request.cancel()
        if left := self._streams | self._requests:
            await asyncio.wait(left, timeout=GRACE_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._ending:
            await _refuse(scope, receive, send)
            return
        answer = _Answer(send)
        task = asyncio.ensure_future(self._pass_on(scope, receive, answer.send))
        running = self._streams if scope["method"] == "GET" else self._requests
        running.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not self._ending or not task.cancelled():
                raise
            if answer.begun and not answer.done:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not answer.begun:
                await _refuse(scope, receive, send)
        finally:
            running.discard(task)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Answer:
    """How far the answer to one request has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.done = False

    async def send(self, message: Message) -> None:
        self.begun = True
        self.done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    answer = PlainTextResponse("The gateway is ending. Fix: connect again.\n", 503)
    await answer(scope, receive, send)
