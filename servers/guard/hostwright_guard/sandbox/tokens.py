"""Capability tokens: what they look like, how they are narrowed, how they are checked.

A token is a chain, after macaroons (Birgisson et al., NDSS 2014):

    hw_cap1.ID.CAVEATS.SIGNATURE
    S0 = HMAC-SHA256(K, "hw_cap1." ID)          K: 32 random bytes, made with the token
    Sn = HMAC-SHA256(Sn-1, caveat n)            SIGNATURE = the last S, base64url
    CAVEATS = base64url(JSON array of strings); each string is the JSON of a grant

What the token itself allows stands in the store under ID, beside K. A caveat is a further grant,
and a run must be allowed by *every* one of them: so whoever holds a token can make a narrower one
from it, without asking anybody, and nobody can take a caveat off again or widen it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import struct

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hostwright_guard.sandbox.capabilities import Grant
from hostwright_kit.errors import HostError

PREFIX = "hw_cap1"
KEY_BYTES = 32
MAX_CAVEATS = 8
MAX_TOKEN_CHARS = 65_536


class Caveat(BaseModel):
    """A narrowing: a grant, and a moment after which the token is no longer good."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grant: Grant
    expires: float | None = Field(default=None, description="Seconds since 1970.")


class Token(BaseModel):
    """A token taken apart; nothing of it is proven yet."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    caveats: tuple[str, ...] = Field(max_length=MAX_CAVEATS)
    signature: bytes


def new_id() -> str:
    return secrets.token_hex(8)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def write(key: bytes, token_id: str) -> str:
    """The token without caveats."""
    return _text(token_id, (), _first(key, token_id))


def narrow(text: str, caveat: Caveat) -> str:
    """A token that allows only what the old one and `caveat` both allow. Needs no key."""
    token = read(text)
    if len(token.caveats) >= MAX_CAVEATS:
        raise HostError(
            f"The token was narrowed {MAX_CAVEATS} times already.",
            fix="Mint a new one.",
            code="bad_token",
        )
    added = caveat.model_dump_json()
    return _text(token.id, (*token.caveats, added), _link(token.signature, added))


def read(text: str) -> Token:
    """Take a token apart; raises `HostError` when it is none."""
    parts = text.split(".")
    if len(text) > MAX_TOKEN_CHARS or len(parts) != 4 or parts[0] != PREFIX:
        raise bad_token()
    try:
        caveats = json.loads(_decoded(parts[2]))
        token = Token(id=parts[1], caveats=caveats, signature=_decoded(parts[3]))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise bad_token() from error
    # One spelling only: base64 has several for the same bytes, JSON even more.
    if _text(token.id, token.caveats, token.signature) != text:
        raise bad_token()
    return token


def proven(token: Token, key: bytes) -> tuple[Caveat, ...]:
    """The caveats, if the whole chain hangs on `key`; raises `HostError` otherwise."""
    signature = _first(key, token.id)
    for caveat in token.caveats:
        signature = _link(signature, caveat)
    if not hmac.compare_digest(signature, token.signature):
        raise bad_token()
    try:
        return tuple(Caveat.model_validate_json(caveat) for caveat in token.caveats)
    except ValidationError as error:
        # Whoever holds a token can sign anything onto it; what is not understood allows nothing.
        raise bad_token() from error


def budget_keys(token: Token) -> tuple[str, ...]:
    """A name for the budget of the token itself and of each of its narrowings, in their order.

    Who narrows a token makes a budget that all runs with the narrower one share.
    """
    chain = hashlib.sha256(token.id.encode())
    keys = [token.id]
    for caveat in token.caveats:
        text = caveat.encode("utf-8", "surrogatepass")
        chain.update(struct.pack(">Q", len(text)) + text)
        keys.append(f"{token.id}:{chain.hexdigest()}")
    return tuple(keys)


def bad_token() -> HostError:
    return HostError(
        "This is not a token that was given out here.",
        fix="Use a token of capability_mint, unchanged.",
        code="bad_token",
    )


def _first(key: bytes, token_id: str) -> bytes:
    return hmac.digest(key, f"{PREFIX}.{token_id}".encode(), hashlib.sha256)


def _link(signature: bytes, caveat: str) -> bytes:
    return hmac.digest(signature, caveat.encode("utf-8", "surrogatepass"), hashlib.sha256)


def _text(token_id: str, caveats: tuple[str, ...], signature: bytes) -> str:
    listed = json.dumps(caveats, separators=(",", ":")).encode()
    return f"{PREFIX}.{token_id}.{_encoded(listed)}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
