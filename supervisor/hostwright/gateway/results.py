"""A server's result, as a client of either era may read it.

Looked at as little as possible: whether it asks something, whether it is an error, whether it has
what its kind must have. Members are added or left out at the surface; what is in them stays bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.codec import ABSENT
from hostwright_kit.errors import HostError
from hostwright_kit.guard import error_detail
from hostwright_kit.vouching import ERROR_META

MODERN_MEMBERS = frozenset({"resultType", "ttlMs", "cacheScope"})
LISTS: Mapping[str, str] = {
    "tools/call": "content",
    "resources/read": "contents",
    "prompts/get": "messages",
}
"""What a complete result must have a list of."""


class Result(msgspec.Struct):
    """What is looked at."""

    resultType: str | None = None  # noqa: N815 - the protocol's name
    isError: bool | None = None  # noqa: N815
    content: Raw = ABSENT
    contents: Raw = ABSENT
    messages: Raw = ABSENT

    @property
    def asks(self) -> bool:
        """Whether it is a question to the user, and not the end."""
        return self.resultType == "input_required"

    def is_whole(self, method: str) -> bool:
        """Whether it has what its kind must have."""
        wanted = LISTS.get(method)
        return wanted is None or codec.first(getattr(self, wanted)) == b"["


_result = msgspec.json.Decoder(Result)


def look(result: Raw) -> Result:
    """What there is to see; ValueError when it is not of the protocol's shape."""
    try:
        return _result.decode(result)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Read over by the slower way; it holds what msgspec does not read.
        members = codec.fields(result)
        known = {name: members[name] for name in Result.__struct_fields__ if name in members}
        return _result.decode(codec.encode(known))


def for_client(result: Raw, seen: Result, method: str, *, modern: bool) -> bytes:
    """The result as the client's era has it."""
    if not modern:
        if seen.resultType is None:
            return bytes(result)
        rest = codec.fields(result)
        return codec.encode({key: one for key, one in rest.items() if key not in MODERN_MEMBERS})
    body = bytes(result)
    if seen.resultType is None:
        # A server of the handshake era does not say what the new era requires.
        body = codec.with_members(_without_nothing(body), b'"resultType":"complete"')
    return _cacheable(body) if method == "resources/read" else body


def made(result: dict[str, Any], *, modern: bool) -> bytes:
    """A result of our own making."""
    return codec.encode(
        {key: one for key, one in result.items() if modern or key not in MODERN_MEMBERS}
    )


def tool_error(error: HostError, *, modern: bool) -> bytes:
    """An error that agents read: a result with `isError`, like those of the servers."""
    return codec.encode(
        {
            **({"resultType": "complete"} if modern else {}),
            "content": [{"type": "text", "text": str(error)}],
            "isError": True,
            "_meta": {ERROR_META: detail(error)},
        }
    )


def detail(error: HostError) -> dict[str, str]:
    """An error for programs."""
    return dict(error_detail(error))


def _cacheable(body: bytes) -> bytes:
    had = codec.fields(body)
    for name, value in (("ttlMs", b"0"), ("cacheScope", b'"private"')):
        if name not in had:
            body = codec.with_members(body, b'"%b":%b' % (name.encode(), value))
    return body


def _without_nothing(body: bytes) -> bytes:
    """Without a `resultType` that is there and null."""
    if b"resultType" not in body or "resultType" not in codec.fields(body):
        return body
    return codec.encode(
        {key: one for key, one in codec.fields(body).items() if key != "resultType"}
    )
