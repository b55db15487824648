"""Tell which configuration values look like secrets, and keep them out of what is shown.

A guess by name and by form, for warnings and for redaction; it reads only what it is given. It
errs towards calling something secret: a wrong guess costs a warning.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

REDACTED = "[redacted]"

_NAME = re.compile(
    r"token|secret|passw|passphrase|passwd|api[_-]?key|access[_-]?key|private[_-]?key|credential"
    r"|authorization|cookie|bearer|(^|[_-])(auth|pat|pwd|dsn|key)$|connection[_-]?string",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"^(sk-|sk_|pk_live_|rk_live_|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|AKIA|ASIA|AIza|hf_|npm_"
    r"|pypi-|ya29\.|eyJ[\w-]+\.|Bearer\s+\S|Basic\s+\S|-----BEGIN)"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|[?&;](api[_-]?key|key|token|access_token|secret|sig)=[^&\s]{6,}",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"^(\d{1,8}|true|false|yes|no|on|off|none|null)?$", re.IGNORECASE)
_REFERENCE = re.compile(r"^\s*(Bearer\s+|Basic\s+)?(\$\{[^}]*\}|\{(env|file):[^}]*\}|\$\w+)\s*$")
_RANDOM = re.compile(r"^[A-Za-z0-9+_=.-]{24,}$")


def looks_secret(name: str, value: str) -> bool:
    """Whether a setting called `name` with this value is probably a secret."""
    if _PLAIN.match(value) or _REFERENCE.match(value):
        return False
    return bool(_NAME.search(name) or _FORM.search(value)) or _looks_random(value)


def has_secret_form(value: str) -> bool:
    """Whether a value shows by itself that it is a secret: a known prefix, a password in a URL."""
    return bool(_FORM.search(value))


def _looks_random(value: str) -> bool:
    if not _RANDOM.match(value) or not re.search(r"\d", value) or not re.search(r"[a-zA-Z]", value):
        return False
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits > 3.3


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from _strings(item, str(key))
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        for index, item in enumerate(items):
            # `--api-key VALUE`: the flag names its neighbour.
            flag = items[index - 1] if index else ""
            yield from _strings(item, flag if str(flag).startswith("-") else name)
    elif isinstance(value, str):
        yield name, value


def secret_values(*documents: Any) -> set[str]:
    """Every value in these documents that looks like a secret."""
    found: set[str] = set()
    for document in documents:
        for name, value in _strings(document):
            if len(value) >= 4 and looks_secret(name, value):
                found.add(value)
                found.add(re.sub(r"^(Bearer|Basic)\s+", "", value, flags=re.IGNORECASE))
    return found


def redact(line: str, secrets: Iterable[str]) -> str:
    """The line with every one of `secrets` taken out, also in its JSON spelling."""
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
        }:
            if len(form) < 8:
                # So short a value may also be a word elsewhere: only where a value stands.
                line = re.sub(
                    rf"""([:=]\s*["'](?:Bearer )?){re.escape(form)}""", rf"\1{REDACTED}", line
                )
            else:
                line = line.replace(form, REDACTED)
    return line
