"""What every request of the revision 2026-07-28 carries in `_meta`, and whether it is right.

The order of the checks is that of the specification's own words: the envelope's presence, then that
HTTP's headers repeat it (`headers.py`), then that its revision is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import (
    CAPABILITIES_META,
    CLIENT_META,
    MODERN,
    VERSION_META,
    Asker,
    Origin,
    asker,
)
from hostwright.gateway.codec import ABSENT, Fields, Message, RpcError
from hostwright.gateway.logs import LEVELS, LOG_META

UNSUPPORTED_VERSION = -32022
HEADER_MISMATCH = -32020
NAME_BEARING: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}
"""Which parameter of a method HTTP's `Mcp-Name` repeats."""


class Envelope(NamedTuple):
    """A request of the new era that may be worked on."""

    params: Fields
    asker: Asker
    progress: bytes | None
    log_level: str | None
    """From which level on it hears log messages."""


def params_of(message: Message) -> Fields:
    """The members of a message's params."""
    return codec.fields(message.params) if codec.first(message.params) == b"{" else {}


def meta_of(params: Fields) -> Fields | None:
    """The members of `_meta`; None when it is not there."""
    raw = params.get("_meta", ABSENT)
    return codec.fields(raw) if codec.first(raw) == b"{" else None


def is_enveloped(message: Message) -> bool:
    """Whether a message claims to be of the new era."""
    return VERSION_META in (meta_of(params_of(message)) or {})


def progress_token(meta: Fields | None) -> bytes | None:
    """The client's progress token, as it came."""
    raw = (meta or {}).get("progressToken")
    if raw is None or bytes(raw) == codec.NULL:
        return None
    if codec.request_id(raw) is None:
        raise RpcError(codec.INVALID_PARAMS, "A progress token is a text or a whole number.")
    return bytes(raw)


def _log_level(meta: Fields) -> str | None:
    raw = meta.get(LOG_META)
    if raw is None or bytes(raw) == codec.NULL:
        return None
    if (level := codec.text(raw)) not in LEVELS:
        raise RpcError(codec.INVALID_PARAMS, f"{LOG_META} is one of {', '.join(LEVELS)}.")
    return level


def unsupported(requested: str) -> RpcError:
    """The refusal of a revision, with those that are served."""
    data = codec.encode({"supported": [MODERN], "requested": requested})
    return RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)


def open_envelope(
    method: str, params: Fields, origin: Origin, headers: Mapping[str, str] | None = None
) -> Envelope:
    """Check a request's envelope, against HTTP's headers where there are some."""
    meta = meta_of(params)
    if meta is None:
        raise RpcError(
            codec.INVALID_PARAMS,
            f"params._meta is to be an object with {VERSION_META!r} and {CAPABILITIES_META!r}.",
        )
    missing = [key for key in (VERSION_META, CAPABILITIES_META) if key not in meta]
    if missing:
        raise RpcError(codec.INVALID_PARAMS, f"params._meta is without {', '.join(missing)}.")
    version = codec.text(meta[VERSION_META])
    if headers is not None:
        _check_headers(headers, version, method, params)
    if version is None:
        raise RpcError(codec.INVALID_PARAMS, f"{VERSION_META} is a text.")
    if version != MODERN:
        raise unsupported(version)
    progress = progress_token(meta)
    try:
        who = asker(origin, meta.get(CLIENT_META), meta[CAPABILITIES_META])
    except ValueError as error:
        raise RpcError(codec.INVALID_PARAMS, f"params._meta: {error}.") from None
    return Envelope(params, who, progress, _log_level(meta))


def _check_headers(
    headers: Mapping[str, str], version: str | None, method: str, params: Fields
) -> None:
    shown = headers.get("mcp-protocol-version")
    if shown is None or shown != version:
        raise _mismatch("mcp-protocol-version", "the envelope's protocol version")
    if headers.get("mcp-method") != method:
        raise _mismatch("mcp-method", "the body's method")
    key = NAME_BEARING.get(method)
    named: Raw | None = params.get(key) if key else None
    if named is not None and decoded(headers.get("mcp-name")) != codec.value(named):
        raise _mismatch("mcp-name", f"the body's {key!r} parameter")


def _mismatch(header: str, what: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"{header} header does not match {what}")


def decoded(shown: str | None) -> str | None:
    """A header's value, unwrapped from `=?base64?…?=`; None when the wrapping is broken."""
    if shown is None or not (shown.startswith("=?base64?") and shown.endswith("?=")):
        return shown
    import base64  # noqa: PLC0415 - few names need it
    import binascii  # noqa: PLC0415

    payload = shown[len("=?base64?") : -len("?=")]
    try:
        plain = base64.b64decode(payload, validate=True)
        return plain.decode() if base64.b64encode(plain).decode() == payload else None
    except (binascii.Error, UnicodeDecodeError):
        return None
