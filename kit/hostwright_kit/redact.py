"""Taking secrets out of whatever is written down or shown: ledger, logs, errors, approvals.

Two nets: names (a field called `password`, `api_key`, …) and shapes (PEM blocks, bearer headers,
well-known token prefixes, passwords in URLs). A net is not a proof: what must not be written is
best not passed. Redaction never changes the digest of a call, which is taken of the real values.

Both nets work against an opponent who wants the opposite: to hide from the owner, behind something
that looks like a secret, what a call would do. So no shape reaches over the end of a line or over
what a shell would run, and what the owner is asked about (`whole=True`) is masked only where the
secret is one plain word: a quotation mark that seems to open a value may be one that closes.
Every pattern takes linear time (its repetitions are bounded, or start only where a run starts).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

MASK = "[redacted]"
LONG_TEXT_CHARS = 2_000
CONTEXT_CHARS = 65_536
"""How far from a cut a secret may begin and still be seen as one."""
MIN_VALUE_CHARS = 4
"""Shorter values are not looked for in text: they are in every text."""

_SECRET_NAME = re.compile(
    r"(?i)((?<!ask)pass(word|wd|phrase|code|$|[_-])|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credential|authorization|cookie|session[_-]?id|mnemonic|seed[_-]?phrase"
    r"|(^|[_-])(pin|otp|auth|key)$)"
)
_NAME = (
    r"(?:pass(?:word|wd|phrase)|(?<![a-z])pass(?![a-z])|secret|token"
    r"|(?:api|access|private)[_-]?key)"
)
_VALUE = r"""("[^"\n]*"?|'[^'\n]*'?|[^\s"';,&|]+)"""
_BLANKS = r"[^\S\r\n]"
_PEM = re.compile(
    r"""(?x)(-----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY(?:\ BLOCK)?-----
    (?:(?:\s|\\[nr])*(?:[A-Za-z0-9+/=]{40,}
    |(?:Version|Comment|Proc-Type|DEK-Info):[ \w,.-]{0,40}))*
    (?:(?:\s|\\[nr])*[A-Za-z0-9+/=]{0,80}(?:\s|\\[nr])*-----END\ [A-Z ]{0,40}-----)?)"""
)
# The last group of each is the secret.
_SHAPES: tuple[re.Pattern[str], ...] = (
    _PEM,
    # "basic" is also a word of English; credentials in base64 have a digit or an equals sign.
    re.compile(
        rf"(?i)\b(?:bearer{_BLANKS}{{1,8}}|authorization[\"']?{_BLANKS}{{0,4}}[:=]{_BLANKS}{{0,4}}"
        rf"[\"']?basic{_BLANKS}{{1,8}}|basic{_BLANKS}{{1,8}}(?=\S{{0,60}}[0-9=]))"
        r"([A-Za-z0-9._~+/=-]{8,})"
    ),
    re.compile(
        r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
        r"|glpat-[\w-]{16,}|xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}"
        r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|hw_[A-Za-z0-9_-]{30,}|hw_cap1\.[\w.-]{40,}"
        r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
    ),
    re.compile(r"://[^\s/:@]{0,256}:([^\s/]{1,1024})@"),
    re.compile(rf"(?i)(?<![\w-])--?[\w-]{{0,64}}{_NAME}(?:{_BLANKS}{{1,8}}|=){_VALUE}"),
    # Not after `NAME= `: to a shell, what follows is no value but a command.
    re.compile(
        rf"(?i)\b\w{{0,64}}{_NAME}\w{{0,64}}(?:[\"']?{_BLANKS}{{1,8}}[=:]{_BLANKS}{{0,8}}"
        rf"|[\"']?:{_BLANKS}{{0,8}}|[\"']{_BLANKS}{{0,8}}={_BLANKS}{{0,8}}|=){_VALUE}"
    ),
)
# What would be run, or written to somewhere else, if this were a line for a shell.
_RUNS = re.compile(r"[`;&|<>()\n]")
_PLAIN_WORD = re.compile(r"""["']?[^\s"'\\`;&|<>()\[\]{}$]*["']?""")

_hidden: ContextVar[frozenset[str]] = ContextVar("hostwright_hidden_values", default=frozenset())


def is_secret_name(name: str) -> bool:
    """Whether a field, option or variable of this name is expected to hold a secret."""
    return bool(_SECRET_NAME.search(name))


def redact_text(text: str, *, whole: bool = False) -> str:
    """`text` with everything that looks like a secret masked; see `redact` for `whole`."""
    mask = _mask_plain_words if whole else _mask
    for pattern in _SHAPES:
        text = pattern.sub(mask, text)
    return text


def redact(
    value: Any,
    *,
    secret_names: frozenset[str] = frozenset(),
    max_chars: int = LONG_TEXT_CHARS,
    whole: bool = False,
) -> Any:
    """A copy of JSON-like `value` fit to be written down: secrets masked, long text summarised.

    `secret_names` are further field names whose values are masked whole; a text longer than
    `max_chars` keeps its two ends. `whole`: somebody decides by what is shown, so rather too
    little is masked in running text than something that acts.
    """
    if isinstance(value, str):
        return _shorten(value, max_chars, whole)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {
            redact_text(str(key), whole=whole): MASK
            if item not in (None, "") and _names_secret(str(key), secret_names)
            else redact(item, secret_names=secret_names, max_chars=max_chars, whole=whole)
            for key, item in items
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = cast("Sequence[Any]", value)
        return list(_redact_items(items, secret_names, max_chars, whole))
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    return value


def secret_values(value: Any, *, secret_names: frozenset[str] = frozenset()) -> frozenset[str]:
    """The texts that stand under secret names, to be looked for where no names stand.

    Only for errors and logs: in what is shown to the owner, a call could name anything a secret
    in one argument to hide it in another.
    """
    return frozenset(_values(value, secret_names, secret=False))


def without(text: str, values: frozenset[str]) -> str:
    """`text` with these values masked, and with what looks like a secret."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MASK)
    return redact_text(text)


@contextmanager
def hiding(values: frozenset[str]) -> Generator[None]:
    """Keep these values out of log records that are written in this context."""
    token = _hidden.set(_hidden.get() | values)
    try:
        yield
    finally:
        _hidden.reset(token)


class RedactingFormatter(logging.Formatter):
    """Formats records, tracebacks included, without the secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines that are written."""
        return without(super().format(record), _hidden.get())


def _mask(found: re.Match[str]) -> str:
    if _RUNS.search(found[found.re.groups]) and found.re is not _PEM:
        return found[0]
    return _masked(found)


def _mask_plain_words(found: re.Match[str]) -> str:
    if _PLAIN_WORD.fullmatch(found[found.re.groups]) or found.re is _PEM:
        return _masked(found)
    return found[0]


def _masked(found: re.Match[str]) -> str:
    start, end = found.span(found.re.groups)
    return found.string[found.start() : start] + MASK + found.string[end : found.end()]


def _names_secret(name: str, secret_names: frozenset[str]) -> bool:
    return name in secret_names or is_secret_name(name)


def _redact_items(
    items: Sequence[Any], secret_names: frozenset[str], max_chars: int, whole: bool
) -> Iterator[Any]:
    """A list may be a command line, where the value follows the option that names it."""
    option = False
    for item in items:
        if isinstance(item, str):
            secret = option and not item.startswith("-")
            yield MASK if secret else redact(item, max_chars=max_chars, whole=whole)
            option = item.startswith("-") and "=" not in item and is_secret_name(item)
        else:
            yield redact(item, secret_names=secret_names, max_chars=max_chars, whole=whole)
            option = False


def _values(value: Any, secret_names: frozenset[str], *, secret: bool) -> Iterator[str]:
    if isinstance(value, str):
        if secret and len(value) >= MIN_VALUE_CHARS:
            yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            named = secret or _names_secret(str(key), secret_names)
            yield from _values(item, secret_names, secret=named)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for item in cast("Sequence[Any]", value):
            yield from _values(item, secret_names, secret=secret)


def _shorten(text: str, max_chars: int, whole: bool) -> str:
    context = max(CONTEXT_CHARS, 2 * max_chars)
    if len(text) <= 2 * context:
        head = tail = redact_text(text, whole=whole)
        if len(head) <= max_chars:
            return head
    else:
        # A call may carry megabytes: only as much is redacted as can be shown.
        head = redact_text(text[:context], whole=whole)
        tail = redact_text(text[-context:], whole=whole)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    end = max_chars // 4
    return f"{head[:end]}… [{len(text)} characters, sha256 {digest}] …{tail[-end:]}"
