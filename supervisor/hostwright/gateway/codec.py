"""JSON-RPC messages, read and rewritten without building what is inside them.

The envelope (id, method, params, result, error) is taken apart; arguments and results stay the
bytes that they came as (`msgspec.Raw`), and are put into the next envelope untouched. Whole
messages are checked as they are read: the grammar by msgspec, which walks over what it does not
build, the encoding by Python. A text that msgspec refuses although JSON allows it (a lone surrogate
escape, such as Python writes for a file name that is no UTF-8) takes a slower way with the standard
library, and comes out the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

ABSENT = Raw(b"")
"""A field that was not there."""
NULL = b"null"
Fields = dict[str, Raw]


class Message(Struct, gc=False):
    """The envelope of one message; every part as it came."""

    jsonrpc: Raw = ABSENT
    id: Raw = ABSENT
    method: Raw = ABSENT
    params: Raw = ABSENT
    result: Raw = ABSENT
    error: Raw = ABSENT


class RpcError(Exception):
    """An error that goes to the client as it is."""

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def body(self) -> bytes:
        """The error object."""
        data = b"" if self.data is None else b',"data":' + self.data
        return b'{"code":%d,"message":%b%b}' % (self.code, encode(self.message), data)


class BadMessageError(RpcError):
    """What came is no message; `request_id` is its id, where one could be read."""

    def __init__(self, code: int, message: str, request_id: bytes = NULL) -> None:
        super().__init__(code, message)
        self.request_id = request_id


_message = msgspec.json.Decoder(Message)
_fields = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)
_id = msgspec.json.Decoder(str | int)
_FIELD_NAMES = frozenset(Message.__struct_fields__)


def read(line: bytes, *, lenient: bool = False) -> Message:
    """Take a message apart; ValueError when it is not one JSON object.

    `lenient` is for what servers write: broken UTF-8 is replaced, and the NaN and Infinity that
    some encoders write become null, because a dropped answer would leave its caller waiting.
    """
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError:
            if not lenient:
                raise
            line = line.decode(errors="replace").encode()
    try:
        return _message.decode(line)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        slow = _load(line, lenient=lenient)
        if not isinstance(slow, dict):
            raise
        found = cast("dict[str, Any]", slow)
        known = {name: Raw(_dump(found[name])) for name in _FIELD_NAMES & found.keys()}
        return Message(**known)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse(line: bytes) -> Message:
    """A client's message; `BadMessageError` says what is wrong with it."""
    try:
        message = read(line)
        if b"\n" in line or b"\r" in line:
            # Inside a text no line break may stand (RFC 8259, 7), and the text was read: these are
            # all between tokens, where a blank says the same and does not end a server's line.
            message = read(line.replace(b"\n", b" ").replace(b"\r", b" "))
    except msgspec.ValidationError:
        raise BadMessageError(INVALID_REQUEST, "A message is one JSON object.") from None
    except (ValueError, RecursionError) as error:
        raise BadMessageError(PARSE_ERROR, f"Parse error: {str(error)[:200]}") from None
    if bytes(message.jsonrpc) != b'"2.0"' and value(message.jsonrpc) != "2.0":
        raise BadMessageError(INVALID_REQUEST, "Not a JSON-RPC 2.0 message.", _some_id(message))
    if message.method is not ABSENT:
        _check_request(message)
    elif message.id is ABSENT or (message.result is ABSENT and message.error is ABSENT):
        raise BadMessageError(INVALID_REQUEST, "Neither a request nor an answer.")
    return message


def _check_request(message: Message) -> None:
    if message.id is not ABSENT and request_id(message.id) is None:
        raise BadMessageError(INVALID_REQUEST, "An id is a text or a whole number.")
    if text(message.method) is None:
        raise BadMessageError(INVALID_REQUEST, "A method is a text.", _some_id(message))
    if first(message.params) not in (b"", b"{", b"n"):
        raise BadMessageError(INVALID_PARAMS, "Params are an object.", _some_id(message))


def first(raw: Raw) -> bytes:
    """The first byte, which says what kind of value it is."""
    return bytes(memoryview(raw)[:1])


def _some_id(message: Message) -> bytes:
    return bytes(message.id) if message.id and request_id(message.id) is not None else NULL


def request_id(raw: Raw) -> str | int | None:
    """The value of an id; None when it is not what an id may be."""
    try:
        return _id.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = value(raw)
    return found if isinstance(found, str) else None


def text(raw: Raw | None) -> str | None:
    """A text; None for everything else."""
    if raw is None or raw is ABSENT:
        return None
    try:
        return _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = value(raw)
    return found if isinstance(found, str) else None


def fields(raw: Raw | bytes) -> Fields:
    """The members of an object, each as it came (the last one where a name stands twice)."""
    try:
        return _fields.decode(raw)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = _load(bytes(raw), lenient=True)
        if not isinstance(found, dict):
            raise
        return {key: Raw(_dump(one)) for key, one in cast("dict[str, Any]", found).items()}


def value(raw: Raw | bytes) -> Any:
    """Everything built, for the few places that need it; None for what cannot be read."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return _load(bytes(raw), lenient=True)
        except (ValueError, RecursionError):
            return None


def encode(found: Any) -> bytes:
    """JSON on one line. `Raw` members are put in as they are."""
    try:
        return msgspec.json.encode(found)
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8; only the escape can carry it.
        return _dump(_built(found))


def answer(request: bytes, result: bytes) -> bytes:
    """The response to a request."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request, result)


def failure(request: bytes, error: RpcError) -> bytes:
    """The error response to a request."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request, error.body())


def notice(method: str, params: bytes | None = None) -> bytes:
    """A notification."""
    more = b"" if params is None else b',"params":' + params
    return b'{"jsonrpc":"2.0","method":"%b"%b}' % (method.encode(), more)


def with_members(body: bytes, members: bytes) -> bytes:
    """An encoded object with further `members`, none of which it has yet."""
    return b"{" + members + b"}" if body == b"{}" else b"%b,%b}" % (body[:-1], members)


def _built(found: Any) -> Any:
    if isinstance(found, Raw):
        return value(found)
    if isinstance(found, Mapping):
        members = cast("Mapping[str, Any]", found)
        return {key: _built(one) for key, one in members.items()}
    if isinstance(found, list):
        return [_built(one) for one in cast("list[Any]", found)]
    return found


def _load(line: bytes, *, lenient: bool) -> Any:
    def constant(name: str) -> None:
        if not lenient:
            raise ValueError(f"{name} is not JSON")

    return json.loads(line, parse_constant=constant)


def _dump(found: Any) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()
