"""One HTTP/1.1 request through the gate: read, judged by its Host, written anew, carried.

Standard: RFC 9112. Nothing of the head is passed on as it came: it is parsed by httptools (the
parser of Node and uvicorn) and written from what was understood, so that the server cannot
understand something else (request smuggling). Each request has a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httptools

from hostwright_guard.sandbox.gate.rules import Credential, RefusedError

MAX_HEAD = 65_536
CHUNK = 65_536
Count = Callable[[int], Awaitable[None]]
_END = b"\r\n\r\n"
# They speak about this connection (RFC 9110, 7.6.1), or would be ours to say.
_OWN = frozenset(
    (
        b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade",
        b"proxy-authorization", b"host", b"transfer-encoding", b"content-length", b"expect",
    )
)  # fmt: skip
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))


@dataclass
class Request:
    """A request's head as it was understood."""

    method: bytes = b""
    target: bytes = b""
    host: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    length: int = 0
    chunked: bool = False

    def forwarded(self, host: str, credential: Credential | None) -> bytes:
        """The head that is sent on; a credential replaces whatever the sandbox gave."""
        lines = [self.method + b" " + self.target + b" HTTP/1.1", b"Host: " + host.encode()]
        own = credential.header.lower().encode() if credential else b""
        # Where the answer is searched for the credential, it must come as it is.
        left_out = {own, b"accept-encoding"} if credential else set[bytes]()
        lines += [n + b": " + value for n, value in self.headers if n.lower() not in left_out]
        if credential:
            lines.append(f"{credential.header}: {credential.prefix}{credential.secret}".encode())
            lines.append(b"Accept-Encoding: identity")
        if self.chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.length:
            lines.append(b"Content-Length: " + str(self.length).encode())
        lines.append(b"Connection: close")
        return b"\r\n".join(lines) + _END


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """Up to and with the empty line."""
    try:
        head = await reader.readuntil(_END)
    except asyncio.LimitOverrunError:
        raise RefusedError("the request's head is too long") from None
    except asyncio.IncompleteReadError:
        raise RefusedError("it is no HTTP request") from None
    if len(head) > MAX_HEAD:
        raise RefusedError("the request's head is too long")
    return head


def parse(head: bytes) -> Request:
    """Understand a head, or refuse it."""
    request = Request()
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []

    class Listener:
        def on_url(self, url: bytes) -> None:
            request.target += url

        def on_header(self, name: bytes, value: bytes) -> None:
            lower = name.lower()
            kept = {b"host": hosts, b"content-length": lengths, b"transfer-encoding": codings}
            if lower in kept:
                kept[lower].append(value.strip())
            elif lower not in _OWN:
                request.headers.append((name, value))

    parser = httptools.HttpRequestParser(Listener())
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        raise RefusedError("a change of protocol is not carried") from None
    except httptools.HttpParserError as error:
        raise RefusedError(f"it is no HTTP request: {error}") from None
    request.method = parser.get_method()
    _judge(request, hosts, lengths, codings)
    return request


def _judge(
    request: Request, hosts: list[bytes], lengths: list[bytes], codings: list[bytes]
) -> None:
    if request.method not in _METHODS:
        raise RefusedError(f"the method {request.method[:20].decode('latin-1')} is not carried")
    if not (request.target.startswith(b"/") or request.target == b"*"):
        raise RefusedError("a request for a proxy is not carried; ask the server itself")
    if len(hosts) != 1:
        raise RefusedError("the request does not name exactly one Host")
    name, _, port = hosts[0].decode("latin-1").partition(":")
    if port not in ("", "80"):
        raise RefusedError("the request's Host names another port")
    request.host = name
    if codings:
        if lengths or [coding.lower() for coding in codings] != [b"chunked"]:
            raise RefusedError("the length of the request's body is ambiguous")
        request.chunked = True
    elif lengths:
        if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 15:
            raise RefusedError("the length of the request's body is ambiguous")
        request.length = int(lengths[0])


async def forward_body(
    request: Request,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    count: Count,
) -> None:
    """The body and not a byte more; chunks are measured and written anew."""
    if not request.chunked:
        await _copy(reader, writer, count, request.length)
        return
    while True:
        line = await reader.readuntil(b"\r\n")
        digits = line[:-2].partition(b";")[0].strip()
        try:
            size = int(digits, 16) if digits.isalnum() and len(digits) <= 12 else -1
        except ValueError:
            size = -1
        if size < 0:
            raise RefusedError("a chunk of the request's body has no length")
        if size == 0:
            await count(5)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return
        head = b"%x\r\n" % size
        await count(len(head) + 2)
        writer.write(head)
        await _copy(reader, writer, count, size)
        if await reader.readexactly(2) != b"\r\n":
            raise RefusedError("a chunk of the request's body is longer than it says")
        writer.write(b"\r\n")


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    count: Count,
    length: int,
) -> None:
    while length:
        data = await reader.read(min(CHUNK, length))
        if not data:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        await count(len(data))
        writer.write(data)
        await writer.drain()


def refusal(reason: str) -> bytes:
    """What the program is told."""
    body = f"hostwright egress gate: {reason}\n".encode("ascii", "replace")
    return (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        b"Content-Length: " + str(len(body)).encode() + _END + body
    )
