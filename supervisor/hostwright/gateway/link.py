"""One connection to one server: JSON-RPC over its stdin and stdout, many callers on one pipe.

Inside, the revision 2026-07-28 is spoken: stateless, every request carries its client's identity
and capabilities in `_meta`, so calls of different clients interleave on one pipe. A server that
knows only the handshake era is initialized once, as the gateway itself, and then answers for all.

Requests are remapped to ids of our own; progress comes back by progress token, which is that id;
cancelling a request sends `notifications/cancelled`. Answers are handed to a callback as the bytes
they came as. What a server writes is not trusted to be well-formed, and no client's slowness and
no server's deafness may hold up anybody else: nothing here waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import Asker
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.base_link import (
    BaseLink,
    Done,
    Notified,
    Party,
    Progress,
    busy,
    rpc_error,
)
from hostwright.gateway.bridge import QUESTIONS
from hostwright.gateway.codec import ABSENT, Fields, Message, RpcError
from hostwright.gateway.lines import Lines, TooLong
from hostwright.gateway.logs import LOG_META, MESSAGE
from hostwright.gateway.questions import Question, Whom
from hostwright.gateway.tracing import onward
from hostwright_kit.errors import HostError
from hostwright_kit.vouching import MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)

# Two of the longest messages: what a server does not read is kept here, not what no server reads.
MAX_UNREAD_BYTES = 2 * MAX_MESSAGE_BYTES
READ_BYTES = 1 << 18
MAX_QUESTIONS = 100


class Link(BaseLink):
    """Speaks MCP to one server over a reader and a writer that somebody else opened."""

    def __init__(
        self,
        server: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        link_key: str | None = None,
        notified: Notified = lambda _method, _params: None,
        lost: Callable[[], None] = lambda: None,
        whom: Whom = "whoever calls",
    ) -> None:
        """`link_key` proves to a server of ours that the callers we name are checked."""
        super().__init__(server, whom)
        self.legacy = False
        """Whether it was initialized in the handshake era."""
        self._reader = reader
        self._writer = writer
        self._link_key = link_key
        self._notified = notified
        self._on_lost = lost
        self._lost = False
        self._complained = False
        self._lines = Lines(MAX_MESSAGE_BYTES)
        self._loop = asyncio.get_running_loop()
        self._questions: dict[bytes, Question] = {}
        self._out: list[bytes] = []
        self._unsent = 0
        self._reading = asyncio.create_task(self._read(), name=f"link {server}")

    @property
    def alive(self) -> bool:
        """Whether the server is still there."""
        return not self._lost

    async def check(self) -> None:
        """One round trip that asks for nothing."""
        # The new era has no ping.
        await self.request("ping" if self.legacy else "server/discover", {})

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
        number = self._admit(done, progress, asker, party)
        try:
            body = self._filled(params, asker, number)
            self.post(number, method, body)
        except BaseException:
            self._pending.pop(number, None)
            raise
        self._began(party)
        return number

    def handshake(self, method: str, params: Mapping[str, Any], done: Done) -> int:
        """Ask without the envelope of the inner era."""
        number = self._admit(done, None)
        self.post(number, method, codec.encode(params))
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for that answer any longer; the server is told."""
        pending = self._pending.pop(number, None)
        if pending is not None and pending.counts:
            self._active = time.monotonic()
        if pending is not None and not self._lost:
            told = b'{"requestId":%d,"reason":"the client cancelled"}' % number
            self._write(codec.notice("notifications/cancelled", told))

    def notify(self, method: str) -> None:
        """Tell the server something that has no answer."""
        self._write(codec.notice(method))

    async def close(self) -> None:
        """Stop reading; requests that wait fail. The pipes belong to whoever opened them."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._fail_all()

    # -- writing ---------------------------------------------------------------------------------

    def _filled(self, params: Fields, asker: Asker, number: int) -> bytes:
        """The params with the envelope of the inner era; what the client sent there is replaced."""
        rest = codec.encode({key: one for key, one in params.items() if key != "_meta"})
        members = [] if self.legacy else [asker.meta(self._link_key)]
        if self._pending[number].progress is not None:
            members.append(b'"progressToken":%d' % number)
        if not self.legacy and (level := self._level_for(number)) is not None:
            members.append(b'"%b":"%b"' % (LOG_META.encode(), level.encode()))
        if trace := onward(params):
            members.append(trace)
        meta = b",".join(members)
        return codec.with_members(rest, b'"_meta":{' + meta + b"}") if meta else rest

    def post(self, number: int, method: str, params: bytes) -> None:
        """Write one request; raises when it would be longer than servers accept."""
        line = b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}' % (
            number,
            method.encode(),
            params,
        )
        if self._lost:
            raise LinkLostError(self.server)
        if len(line) >= MAX_MESSAGE_BYTES:
            raise HostError(
                f"The request has {len(line)} bytes, the bound is {MAX_MESSAGE_BYTES}.",
                fix="Send less at a time.",
                code="request_too_large",
            )
        if self._unsent + self._buffered() > MAX_UNREAD_BYTES:
            raise busy(f"{self.server} does not read what it is sent.")
        self._write(line)

    def _buffered(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def _write(self, line: bytes) -> None:
        # What is asked within one turn of the loop leaves in one piece.
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += (line, b"\n")
        self._unsent += len(line)

    def _flush(self) -> None:
        data, self._out, self._unsent = b"".join(self._out), [], 0
        # What goes wrong here shows when reading.
        if not self._writer.is_closing():
            self._writer.write(data)

    # -- reading ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                for line in self._lines.feed(data):
                    if isinstance(line, TooLong):
                        if not self._refuse_long(line):
                            return
                        continue
                    try:
                        self._take(codec.read(line, lenient=True))
                    except (ValueError, TypeError, RecursionError) as error:
                        self._complain(f"wrote what is no message ({type(error).__name__})")
        except OSError as error:
            logger.warning("the connection to %s broke: %s", self.server, error)
        finally:
            self._fail_all()

    def _refuse_long(self, line: TooLong) -> bool:
        """Fail the request whose answer is too long; False when it cannot be told which it is."""
        number = line.answer_to()
        if number not in self._pending:
            logger.warning("%s wrote a line of more than %d bytes", self.server, MAX_MESSAGE_BYTES)
            return False
        refused = HostError(
            f"The answer of {self.server} is longer than {MAX_MESSAGE_BYTES} bytes.",
            fix="Ask for less at a time (limit, offset, cursor).",
            code="result_too_large",
        )
        self._settle(number, None, refused)
        return True

    def _complain(self, what: str) -> None:
        # Once: a server that prints its log to stdout must not fill ours.
        if not self._complained:
            self._complained = True
            logger.warning("%s %s; such lines are dropped", self.server, what)

    def _take(self, message: Message) -> None:
        if message.method is not ABSENT:
            self._take_incoming(message)
        elif codec.first(message.id).isdigit():
            self._take_answer(int(bytes(message.id)), message)
        elif codec.first(message.error) == b"{":
            # It could not read one of our messages, and does not know which.
            why = str(codec.value(message.error).get("message"))
            logger.warning("%s refused a message: %.300s", self.server, why)

    def _take_answer(self, number: int, message: Message) -> None:
        if codec.first(message.result) == b"{":
            self._settle(number, message.result, None)
        elif codec.first(message.error) == b"{":
            self._settle(number, None, rpc_error(message.error))
        else:
            text = f"The server {self.server} answered with neither a result nor an error."
            self._settle(number, None, RpcError(codec.INTERNAL_ERROR, text))

    def _take_incoming(self, message: Message) -> None:
        method = codec.text(message.method)
        if method is None:
            raise TypeError("a method that is no text")
        if message.id is not ABSENT:
            self._take_question(bytes(message.id), method, message.params)
        elif method == "notifications/progress":
            report = codec.fields(message.params)
            token = report.get("progressToken", ABSENT)
            pending = self._pending.get(int(bytes(token))) if codec.first(token).isdigit() else None
            if pending is not None:
                pending.seen = time.monotonic()
                if pending.progress is not None:
                    self._hand_on(pending.progress, report)
        elif method == "notifications/cancelled":
            self._withdrawn(message.params)
        elif method == MESSAGE and not self.legacy:
            self._logged(message.params)
        else:
            self._notified(method, message.params)

    def _take_question(self, number: bytes, method: str, params: Raw) -> None:
        """A server of the handshake era asks something."""
        if method == "ping":
            self._write(codec.answer(number, b"{}"))
        elif method not in QUESTIONS:
            refusal = RpcError(codec.METHOD_NOT_FOUND, f"No {method} behind a gateway")
            self._write(codec.failure(number, refusal))
        elif len(self._questions) >= MAX_QUESTIONS or number in self._questions:
            why = f"{len(self._questions)} questions of this server are open."
            self._write(codec.failure(number, RpcError(codec.INTERNAL_ERROR, why)))
        else:

            def reply(what: Raw | RpcError) -> None:
                del self._questions[number]
                if not self._lost:
                    self._write(
                        codec.failure(number, what)
                        if isinstance(what, RpcError)
                        else codec.answer(number, bytes(what))
                    )

            question = self._questions[number] = Question(method, params, reply)
            self.desk.take(question)

    def _withdrawn(self, params: Raw) -> None:
        said = codec.fields(params) if codec.first(params) == b"{" else {}
        question = self._questions.pop(bytes(said.get("requestId", ABSENT)), None)
        if question is not None:
            question.withdraw()

    def _fail_all(self) -> None:
        for question in self._questions.values():
            question.withdraw()
        self._questions.clear()
        self.desk.close()
        if not self._lost:
            self._lost = True
            self._on_lost()
        for number in list(self._pending):
            self._settle(number, None, LinkLostError(self.server))
