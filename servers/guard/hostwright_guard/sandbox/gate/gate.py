"""The gate itself: connections from inside a sandbox, judged, dialled and carried.

Its listeners stand in the sandbox's own network, in which every address is local; its loop runs
here, outside. So a program needs no proxy setting and cannot go round: whatever it connects to
arrives here, or nowhere. What decides is the name in the connection: the server name of a TLS hello
(`hello.py`), the Host of an HTTP request (`requests.py`).

    read until the name is known → judge it → resolve it once, here → vet the addresses
    → dial one of exactly those → carry bytes, counted, until an end or the budget

A name is resolved after it was judged and dialled as resolved: there is no second answer for a
resolver to change. Every connection goes to `record` when it begins and when it has ended, and
every refusal, up to a number: a program that tries for ever does not fill the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

from hostwright_guard.sandbox.gate import answers, names, requests
from hostwright_guard.sandbox.gate.hello import BadHelloError, MoreNeeded, server_name
from hostwright_guard.sandbox.gate.rules import Attempt, RefusedError, Rules
from hostwright_guard.sandbox.hiding import Hiding

HELLO_SECONDS = 10.0
DIAL_SECONDS = 10.0
# A connection on which nothing moves for so long is given up.
IDLE_SECONDS = 300.0
CHUNK = 256 * 1024
MAX_CONNECTIONS = 64
MAX_DIALLED = 3
MAX_RECORDED_REFUSALS = 200

T = TypeVar("T")
Record = Callable[[Attempt], Awaitable[None]]
Lookup = Callable[[str, int], Awaitable[list[str]]]


class Gate:
    """The gate of one sandbox. Made for it, closed with it."""

    def __init__(
        self,
        rules: Rules,
        record: Record,
        *,
        pinned: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """`pinned`: addresses that the owner gave names in the configuration, also private ones.

        `lookup` answers for all other names; by default the system's resolver does.
        """
        self._rules = rules
        self._record = record
        self._pinned = pinned or {}
        self._tls = tls
        self._lookup = lookup or _system_lookup
        self._servers: list[asyncio.Server] = []
        self._datagrams: asyncio.DatagramTransport | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._records: set[asyncio.Task[None]] = set()
        self._refused_names: set[str] = set()
        self._refusals = 0

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Serve on the sandbox's sockets: one per port of `rules.ports`, then the one for names."""
        loop = asyncio.get_running_loop()
        for port, listener in zip(self._rules.ports, listeners[:-1], strict=True):
            listener.setblocking(False)
            self._servers.append(
                await asyncio.start_server(
                    functools.partial(self._accept, port), sock=listener, limit=CHUNK
                )
            )
        listeners[-1].setblocking(False)
        self._datagrams, _ = await loop.create_datagram_endpoint(
            lambda: _Names(self._answer), sock=listeners[-1]
        )

    async def close(self) -> None:
        """End every connection; returns when all of them are recorded."""
        for server in self._servers:
            server.close()
        if self._datagrams is not None:
            self._datagrams.close()
        self.cut()
        while self._connections:
            await asyncio.wait(self._connections)
        if (more := self._refusals - MAX_RECORDED_REFUSALS) > 0:
            self._refusals = 0
            reason = "not recorded one by one"
            self._keep(Attempt("more", f"{more} more attempts", "refused", reason))
        while self._records:
            await asyncio.wait(self._records)

    def cut(self) -> None:
        """End what is being carried now (the budget is gone, the token was revoked)."""
        for connection in self._connections:
            connection.cancel()

    # -- names -----------------------------------------------------------------------------------

    def _answer(self, question: bytes) -> bytes | None:
        given = answers.answer(question, self._rules.knows)
        # Once per name: a program asks twice for two families, and again with every search domain.
        if given.name and not given.allowed and len(self._refused_names) < 100:
            shown = given.name[:255]
            if shown not in self._refused_names:
                self._refused_names.add(shown)
                self._note(Attempt("name", shown, "refused", "no such name in this sandbox"))
        return given.message

    # -- connections -----------------------------------------------------------------------------

    def _accept(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            kind = "http" if port == names.HTTP else "tls"
            reason = f"{MAX_CONNECTIONS} connections are open"
            self._note(Attempt(kind, _destination(writer, port), "refused", reason))
            writer.close()
            return
        task = asyncio.create_task(self._serve(port, reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        shown = _destination(writer, port)
        plain = port == names.HTTP
        carried = _Carried(self._rules, "http" if plain else "tls")
        try:
            carry = self._http if plain else self._through_tls
            await carry(port, reader, writer, carried)
        except (RefusedError, BadHelloError, TimeoutError) as error:
            carried.reason = str(error) or "nothing came in time"
            if plain:
                with contextlib.suppress(ConnectionError):
                    writer.write(requests.refusal(carried.reason))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError) as error:
            # Once it is carried, either side may hang up as it likes.
            if carried.address is None or not isinstance(error, ConnectionError):
                carried.reason = f"the connection failed: {error}"
        except asyncio.CancelledError:
            carried.reason = self._rules.closed or "the sandbox ended"
        finally:
            writer.close()
            if carried.upstream is not None:
                carried.upstream.close()
        target = carried.target or shown
        if not shown.startswith(answers.GATE_ADDRESS) and target != shown:
            # It did not ask for the name's address: worth knowing.
            target = f"{target} (at {shown})"
        self._note(
            Attempt(
                carried.kind,
                target,
                "allowed" if carried.address else "refused",
                carried.reason,
                carried.address,
                carried.sent,
                carried.received,
            )
        )

    async def _through_tls(
        self,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        carried: _Carried,
    ) -> None:
        """What is inside the TLS connection stays between its two ends."""
        hello, name = await _within(HELLO_SECONDS, _read_hello(reader))
        carried.target = f"{name[:253]}:{port}"
        host = self._rules.admit(name, port)
        upstream, up = await self._dial(host, port, carried)
        await carried.count_sent(len(hello))
        up.write(hello)
        await _both(
            carried.pump(reader, up, carried.count_sent),
            carried.pump(upstream, writer, carried.count_received),
        )

    async def _http(
        self,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        carried: _Carried,
    ) -> None:
        """One request per connection, so that every request is judged by its own Host."""
        head = await _within(HELLO_SECONDS, requests.read_head(reader))
        request = requests.parse(head)
        carried.target = f"{request.host[:253]}:{port}"
        host = self._rules.admit(request.host, port)
        credential = self._rules.credentials.get(host)
        secure = credential is not None
        upstream, up = await self._dial(
            host, credential.port if credential else port, carried, secure
        )
        # A server that repeats what it was sent would tell the credential.
        hiding = Hiding([credential.secret], same_length=True) if credential else None
        forwarded = request.forwarded(host, credential)
        await carried.count_sent(len(forwarded))
        up.write(forwarded)
        await _both(
            requests.forward_body(request, reader, up, carried.count_sent),
            carried.pump(upstream, writer, carried.count_received, hiding),
            until_second=True,
        )

    async def _dial(
        self, host: str, port: int, carried: _Carried, secure: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self._rules.allowance.take_request()
        failure: OSError | None = None
        for address in (await self._resolve(host, port))[:MAX_DIALLED]:
            try:
                opened = await _within(
                    DIAL_SECONDS,
                    asyncio.open_connection(
                        address,
                        port,
                        limit=CHUNK,
                        ssl=(self._tls or ssl.create_default_context()) if secure else None,
                        server_hostname=host if secure else None,
                    ),
                )
            except OSError as error:  # TimeoutError is one
                failure = error
                continue
            carried.address, carried.upstream = address, opened[1]
            self._keep(Attempt(carried.kind, f"{host}:{port}", "opened", "", address))
            return opened
        raise failure or OSError("it has no address")

    async def _resolve(self, host: str, port: int) -> list[str]:
        """The addresses that may be dialled; asked for once per connection."""
        if host in self._pinned:
            return [self._pinned[host]]
        try:
            addresses = await self._lookup(host, port)
        except socket.gaierror as error:
            raise RefusedError(f"{host} cannot be resolved: {error.strerror}") from error
        public = [address for address in addresses if names.is_public(address)]
        if not public:
            raise RefusedError(f"{host} leads to {', '.join(addresses)}, which is not public")
        return public

    def _note(self, attempt: Attempt) -> None:
        self._rules.keep(attempt)
        if attempt.verdict == "refused":
            self._refusals += 1
            if self._refusals > MAX_RECORDED_REFUSALS:
                return
        self._keep(attempt)

    def _keep(self, attempt: Attempt) -> None:
        # The loop keeps only a weak reference to a task.
        task = asyncio.create_task(_awaited(self._record(attempt)))
        self._records.add(task)
        task.add_done_callback(self._records.discard)


class _Carried:
    """What went over one connection; both directions draw on the one allowance."""

    def __init__(self, rules: Rules, kind: Literal["tls", "http"]) -> None:
        self._rules = rules
        self.kind: Literal["tls", "http"] = kind
        self.target: str | None = None
        self.reason = ""
        self.address: str | None = None
        self.upstream: asyncio.StreamWriter | None = None
        self.sent = 0
        self.received = 0

    async def count_sent(self, count: int) -> None:
        await self._count(count)
        self.sent += count

    async def count_received(self, count: int) -> None:
        await self._count(count)
        self.received += count

    async def _count(self, count: int) -> None:
        if self._rules.closed:
            raise RefusedError(self._rules.closed)
        await self._rules.allowance.take_bytes(count)

    async def pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: requests.Count,
        hiding: Hiding | None = None,
    ) -> None:
        """Counted before it is written: what is over the budget is not sent."""
        while data := await _within(IDLE_SECONDS, reader.read(CHUNK)):
            await count(len(data))
            writer.write(hiding.feed(data) if hiding else data)
            await writer.drain()
        if hiding:
            writer.write(hiding.rest())
        if writer.can_write_eof():
            writer.write_eof()


class _Names(asyncio.DatagramProtocol):
    """The sandbox's name server."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer
        self._transport: asyncio.DatagramTransport | None = None
        self._minute = time.monotonic()
        self._asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        now = time.monotonic()
        if now - self._minute > 1:
            self._minute, self._asked = now, 0
        self._asked += 1
        # A flood of questions costs the server no more than this.
        if self._asked <= 500 and self._transport and (message := self._answer(data)):
            self._transport.sendto(message, addr)


async def _system_lookup(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


async def _read_hello(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    data = b""
    while True:
        part = await reader.read(65_536)
        if not part:
            raise BadHelloError("it said nothing" if not data else "the TLS hello is incomplete")
        data += part
        with contextlib.suppress(MoreNeeded):
            return data, server_name(data)


async def _both(
    first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None], until_second: bool = False
) -> None:
    """Both directions; a failure of one ends the other. `until_second`: its end ends the first."""
    tasks = [asyncio.create_task(first), asyncio.create_task(second)]
    try:
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if until_second and tasks[1] in done:
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _within(seconds: float, what: Awaitable[T]) -> T:
    """As `asyncio.wait_for`, which makes a task of each wait."""
    async with asyncio.timeout(seconds):
        return await what


async def _awaited(what: Awaitable[None]) -> None:
    await what


def _destination(writer: asyncio.StreamWriter, port: int) -> str:
    """Where the program meant to connect to: every address is local inside, so the kernel knows."""
    address = str(writer.get_extra_info("sockname")[0]).removeprefix("::ffff:")
    return f"{address}:{port}"
