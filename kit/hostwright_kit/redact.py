"""Taking secrets out of whatever is written down or shown: ledger, logs, errors, approvals.

Two nets: names (a field called `password`, `api_key`, …) and shapes (PEM blocks, bearer headers,
well-known token prefixes, passwords in URLs). A net is not a proof: what must not be written is
best not passed. Redaction never changes the digest of a call, which is taken of the real values.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

MASK = "[redacted]"
LONG_TEXT_CHARS = 2_000

_SECRET_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credential|authorization|cookie|session[_-]?id|(^|[_-])(pin|otp|auth|key)$)"
)
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z ]*-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {MASK}"),
    (
        re.compile(
            r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
            r"|glpat-[\w-]{16,}|xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}"
            r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|hw_[A-Za-z0-9_-]{30,}"
            r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
        ),
        MASK,
    ),
    (re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@]*):[^\s/@]+@"), rf"\1:{MASK}@"),
    (
        re.compile(
            r"""(?ix)(--?[\w-]*(?:pass(?:word|wd)?|secret|token|api-?key)[\w-]*(?:\s+|=)
            |\b\w*(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_KEY)\w*\s*[=:]\s*)
            ("[^"]*"|'[^']*'|[^\s"';,&|]+)"""
        ),
        rf"\1{MASK}",
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether a field, option or variable of this name is expected to hold a secret."""
    return bool(_SECRET_NAME.search(name))


def redact_text(text: str) -> str:
    """`text` with everything that looks like a secret masked."""
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return text


def redact(
    value: Any,
    *,
    secret_names: frozenset[str] = frozenset(),
    max_chars: int = LONG_TEXT_CHARS,
) -> Any:
    """A copy of JSON-like `value` fit to be written down: secrets masked, long text summarised.

    `secret_names` are further field names whose values are masked whole; a text longer than
    `max_chars` keeps its two ends.
    """
    if isinstance(value, str):
        return _shorten(redact_text(value), max_chars)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {
            str(key): MASK
            if item not in (None, "") and (str(key) in secret_names or is_secret_name(str(key)))
            else redact(item, secret_names=secret_names, max_chars=max_chars)
            for key, item in items
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [
            redact(item, secret_names=secret_names, max_chars=max_chars)
            for item in cast("Sequence[Any]", value)
        ]
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    return value


def _shorten(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    end = max_chars // 4
    return f"{text[:end]}… [{len(text)} characters, sha256 {digest}] …{text[-end:]}"
