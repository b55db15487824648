"""The server name that a TLS client asks for, read from its first message.

Standards: TLS records and ClientHello (RFC 8446, 4.1.2 and 5.1), server_name (RFC 6066, 3),
encrypted_client_hello (its code point 0xfe0d). A hello may come in many records; they are put
together first, or a name could hide in the seam. Pure; takes bytes from whoever is in the sandbox.
"""

from __future__ import annotations

import struct

SERVER_NAME = 0
ENCRYPTED_CLIENT_HELLO = 0xFE0D
MAX_HELLO = 65_536
# With the records' own headers; a record may hold one byte.
MAX_BUFFERED = 2 * MAX_HELLO


class MoreNeeded(Exception):  # noqa: N818 - not an error: the rest is on its way
    """The hello is not complete yet."""


class BadHelloError(ValueError):
    """It is no hello that says unmistakably where it wants to go."""


def server_name(data: bytes) -> str:
    """The one name in a ClientHello, as it was sent. Raises `MoreNeeded` or `BadHelloError`."""
    hello = _handshake(data)
    try:
        return _name(hello)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise BadHelloError("the TLS hello is malformed") from None


def _handshake(data: bytes) -> bytes:
    """The body of the first handshake message, which must be a ClientHello."""
    if len(data) > MAX_BUFFERED:
        raise BadHelloError("the TLS hello is too long")
    message = bytearray()
    at = 0
    while True:
        if data[at : at + 1] not in (b"", b"\x16") or data[at + 1 : at + 2] not in (b"", b"\x03"):
            raise BadHelloError("it is not TLS")
        if len(data) < at + 5:
            raise MoreNeeded
        (length,) = struct.unpack_from(">H", data, at + 3)
        if not 0 < length <= 16_384:
            raise BadHelloError("it is not TLS")
        message += data[at + 5 : at + 5 + length]
        if message and message[0] != 1:
            raise BadHelloError("it does not begin with a TLS hello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                raise BadHelloError("the TLS hello is too long")
            if len(message) >= 4 + size:
                return bytes(message[4 : 4 + size])
        if len(data) < at + 5 + length:
            raise MoreNeeded
        at += 5 + length


def _name(body: bytes) -> str:
    at = 34  # version and random
    at += 1 + body[at]  # session id
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
    at += 1 + body[at]  # compression methods
    if at >= len(body):
        raise BadHelloError("the TLS hello names no server (SNI)")
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if end != len(body):
        raise BadHelloError("the TLS hello is malformed")
    at += 2
    found: str | None = None
    while at < end:
        kind, length = struct.unpack_from(">HH", body, at)
        content = body[at + 4 : at + 4 + length]
        if len(content) != length:
            raise BadHelloError("the TLS hello is malformed")
        at += 4 + length
        if kind == ENCRYPTED_CLIENT_HELLO:
            raise BadHelloError("the TLS hello is encrypted (ECH), so its server cannot be seen")
        if kind == SERVER_NAME:
            if found is not None:
                raise BadHelloError("the TLS hello names two servers")
            found = _one_name(content)
    if found is None:
        raise BadHelloError("the TLS hello names no server (SNI)")
    return found


def _one_name(content: bytes) -> str:
    """A ServerNameList with exactly one entry, a host name."""
    (listed,) = struct.unpack_from(">H", content, 0)
    kind, length = struct.unpack_from(">BH", content, 2)
    if kind != 0 or listed != 3 + length or len(content) != 5 + length:
        raise BadHelloError("the TLS hello does not name exactly one server")
    return content[5:].decode("ascii")
