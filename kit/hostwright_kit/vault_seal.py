"""Envelopes of the vault: AES-256-GCM, one data key per entry, everything bound to its place.

A value is encrypted with a data key of its own, and that one with the key-encryption key (KEK), so
that a new KEK means new wrappings and no new values. Both carry the entry's name, the servers that
may open it and its version as associated data: a row that was copied over another one, or given to
another server, does not open. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, Field

from hostwright_kit.canonical import canonical

KEY_BYTES = 32
NONCE_BYTES = 12
FORMAT = 1


class BrokenSealError(Exception):
    """The key is not the one, or what was sealed is not what it was."""


class Label(BaseModel, frozen=True):
    """What an envelope is bound to."""

    name: str
    servers: tuple[str, ...]
    version: int


class Envelope(BaseModel, frozen=True):
    """One sealed value."""

    wrapped: bytes = Field(description="The data key under the KEK, behind its nonce.")
    sealed: bytes = Field(description="The value under the data key, behind its nonce.")


def new_key() -> bytes:
    """256 random bits."""
    return secrets.token_bytes(KEY_BYTES)


def seal(kek: bytes, label: Label, value: bytes) -> Envelope:
    """Close `value` into an envelope of its own data key."""
    data_key = new_key()
    return Envelope(
        wrapped=_encrypt(kek, data_key, _bound("key", label)),
        sealed=_encrypt(data_key, value, _bound("value", label)),
    )


def unseal(kek: bytes, label: Label, envelope: Envelope) -> bytes:
    """The value; raises `BrokenSealError` when anything does not fit."""
    data_key = _decrypt(kek, envelope.wrapped, _bound("key", label))
    return _decrypt(data_key, envelope.sealed, _bound("value", label))


def rewrap(old: bytes, new: bytes, label: Label, envelope: Envelope) -> Envelope:
    """The same value under another KEK. The value itself is opened as proof, and not changed."""
    unseal(old, label, envelope)
    data_key = _decrypt(old, envelope.wrapped, _bound("key", label))
    return Envelope(wrapped=_encrypt(new, data_key, _bound("key", label)), sealed=envelope.sealed)


def prove(kek: bytes, key_id: str) -> bytes:
    """By which a KEK is known again before it is tried on entries."""
    return _encrypt(kek, b"", _proof(key_id))


def is_proven(kek: bytes, key_id: str, proof: bytes) -> bool:
    """Whether this is the KEK that `proof` was made with."""
    try:
        return _decrypt(kek, proof, _proof(key_id)) == b""
    except BrokenSealError:
        return False


def _bound(purpose: str, label: Label) -> bytes:
    return _associated([purpose, label.name, list(label.servers), label.version])


def _proof(key_id: str) -> bytes:
    return _associated(["proof", key_id])


def _associated(parts: Sequence[object]) -> bytes:
    return canonical(["hostwright vault", FORMAT, *parts])


def _encrypt(key: bytes, plain: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def _decrypt(key: bytes, blob: bytes, bound: bytes) -> bytes:
    nonce, sealed = blob[:NONCE_BYTES], blob[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError) as error:
        raise BrokenSealError from error
