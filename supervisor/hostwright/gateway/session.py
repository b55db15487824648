"""A session of the handshake era. It lives in the gateway alone; no server knows of it.

It holds what `initialize` said, the requests that run, and the questions put to the client that
wait for its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import LATEST_LEGACY, LEGACY, Asker, Origin, asker
from hostwright.gateway.codec import ABSENT, Fields, Message, RpcError
from hostwright.gateway.peer import Peer
from hostwright.gateway.view import View
from hostwright_kit.errors import HostError

if TYPE_CHECKING:
    from hostwright.gateway.request import Request

MAX_OPEN_REQUESTS = 1_000
ROOTS_CHANGED = "notifications/roots/list_changed"
SUBSCRIBING = ("resources/subscribe", "resources/unsubscribe")
"""What changes `Session.subscribed`."""
Say = Callable[[bytes], None]


class Session:
    """What the gateway keeps of one client of the handshake era."""

    def __init__(self, view: View, client: Asker, version: str, say: Say) -> None:
        """`say` carries what belongs to no request; the client may hear it or not."""
        self.view = view
        self.client = client
        self.version = version
        self.say = say
        self.initialized = False
        self.log_level: str | None = None
        """From which level on it hears log messages."""
        self.requests: dict[str | int | None, Request] = {}
        self.hears = True
        """Whether what it is told arrives now, rather than when it comes back."""
        self.subscribed: set[str] = set()
        """Resources, by the names that the client knows them by."""
        self._asked: dict[int, asyncio.Future[Raw]] = {}
        # Not from one: the client may still answer what another daemon asked it in this session.
        self._numbers = itertools.count((secrets.randbelow(1 << 30) << 20) + 1)

    @property
    def peer(self) -> Peer:
        """The client that it is of."""
        who = self.client
        return Peer(self, who.origin, who.client, who.version, who.capabilities)

    def begin(self, request: Request) -> bool:
        """Note a request; False, and it is refused, when too many run already."""
        if len(self.requests) >= MAX_OPEN_REQUESTS:
            request.fail(
                RpcError(codec.INTERNAL_ERROR, f"{MAX_OPEN_REQUESTS} requests run already.")
            )
            return False
        self.requests[request.key] = request
        return True

    def end(self, request: Request) -> None:
        """It was answered."""
        if self.requests.get(request.key) is request:
            del self.requests[request.key]

    def cancel(self, params: Raw) -> None:
        """The client gives up on one of its requests (`notifications/cancelled`)."""
        if codec.first(params) == b"{":
            key = codec.request_id(codec.fields(params).get("requestId", ABSENT))
            if (request := self.requests.get(key)) is not None:
                request.cancel()

    def close(self) -> None:
        """The client is gone, and with it whoever waited for answers."""
        for request in list(self.requests.values()):
            request.cancel()
        self.requests.clear()
        for waiting in self._asked.values():
            waiting.cancel()

    async def ask(self, request: Request | None, method: str, params: bytes, seconds: float) -> Raw:
        """Put a question to the client, as part of one of its requests or of none."""
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        line = b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}'
        try:
            said = line % (number, method.encode(), params)
            if request is None:
                self.say(said)
            else:
                request.outlet.ask(request, said)
            async with asyncio.timeout(seconds):
                return await waiting
        finally:
            del self._asked[number]

    def answered(self, message: Message) -> None:
        """The client's answer to a question; one to no question is dropped."""
        number = codec.request_id(message.id)
        waiting = self._asked.get(number) if isinstance(number, int) else None
        if waiting is None or waiting.done():
            return
        if message.result is not ABSENT:
            waiting.set_result(message.result)
        else:
            waiting.set_exception(HostError("The client refused the question.", fix=""))


def open_session(view: View, origin: Origin, params: Fields, say: Say) -> Session:
    """The session that an `initialize` asks for; `RpcError` when it asks wrongly."""
    wanted = codec.text(params.get("protocolVersion"))
    info, capabilities = params.get("clientInfo"), params.get("capabilities")
    if wanted is None or info is None or capabilities is None:
        raise RpcError(
            codec.INVALID_PARAMS,
            "initialize needs protocolVersion, capabilities and clientInfo.",
        )
    try:
        client = asker(origin, info, capabilities)
    except ValueError as error:
        raise RpcError(codec.INVALID_PARAMS, f"initialize: {error}.") from None
    return Session(view, client, wanted if wanted in LEGACY else LATEST_LEGACY, say)
