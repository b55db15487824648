"""One byte string for one value: RFC 8785 (JSON Canonicalization Scheme) and digests over it.

RFC 8785 covers what I-JSON covers. Values beyond it that JSON-RPC can still carry (integers over
2^53, NaN, lone surrogates) are wrapped in a one-key object `{"$…": …}`, and real objects of that
shape are wrapped too, so that two different values never share an encoding.

Most values need none of that, and for those a sorting encoder in C gives the same bytes a hundred
times faster (`_is_plain` says which).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import rfc8785

_MAX_SAFE_INT = 2**53 - 1
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def canonical(value: Any) -> bytes:
    """The canonical encoding of a JSON-like value."""
    return _encode_sorted(value) if _is_plain(value) else rfc8785.dumps(_injective(value))


def is_canonical(encoded: bytes) -> bool:
    """Whether these bytes are what RFC 8785 makes of the JSON value that they encode."""
    try:
        # As floats: RFC 8785 knows no other numbers, and a large one is written without a point.
        return rfc8785.dumps(json.loads(encoded, parse_int=float)) == encoded
    except (ValueError, RecursionError):
        return False


def digest(value: Any) -> str:
    """SHA-256 of the canonical encoding, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether sorting by bytes and the shortest spelling of numbers are what RFC 8785 asks for.

    Its keys are sorted by UTF-16 units, its numbers are spelt as in ECMAScript: the same for ASCII
    keys and for fractions of an ordinary size.
    """
    kind = type(value)
    if kind is str:
        plain = value.isascii() or _text(value) is value
    elif kind is dict:
        plain = _is_plain_object(value)
    elif kind is int:
        plain = -_MAX_SAFE_INT <= value <= _MAX_SAFE_INT
    elif kind is float:
        plain = 1e-5 <= abs(value) < 1e15 and not value.is_integer()
    elif kind is list or kind is tuple:
        plain = all(map(_is_plain, value))
    else:
        plain = value is None or kind is bool
    return plain


def _is_plain_object(value: dict[Any, Any]) -> bool:
    # A loop: this is done for every call, and a generator costs as much again.
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            return False
        if not (type(item) is str and item.isascii()) and not _is_plain(item):
            return False
    return len(value) != 1 or not next(iter(value)).startswith("$")


def _injective(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if abs(value) <= _MAX_SAFE_INT else {"$int": str(value)}
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return _object(cast("Mapping[Any, Any]", value))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_injective(item) for item in cast("Sequence[Any]", value)]
    raise TypeError(f"{type(value).__name__} has no canonical encoding")


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$utf8": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _number(value: float) -> Any:
    if not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def _object(value: Mapping[Any, Any]) -> Any:
    if any(_text(str(key)) != str(key) for key in value):
        pairs = [[_text(str(key)), _injective(item)] for key, item in value.items()]
        # An object has no order; RFC 8785 cannot sort keys that are not text, so we do.
        return {"$pairs": sorted(pairs, key=lambda pair: rfc8785.dumps(pair[0]))}
    encoded = {str(key): _injective(item) for key, item in value.items()}
    if len(encoded) == 1 and next(iter(encoded)).startswith("$"):
        return {"$object": encoded}
    return encoded
