"""Which values may be written down. What is not plainly public becomes a reference.

Denied by default: a password is any word, so that only what cannot be one is let through: numbers,
a few words that settings are made of, paths and addresses without anything random in them. A
command line cannot be judged so; it is refused when it holds anything that looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hostwright.clients.secrets import has_secret_form
from hostwright.exporting.model import Need, Setting
from hostwright_kit.redact import is_secret_name, redact_text

# The syntax of a manifest: `${NAME}`, `${NAME:-default}`, and `$${NAME}` for the text itself.
REFERENCE = re.compile(r"(?P<escape>\$?)\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NUMBER = re.compile(r"-?\d{1,8}(\.\d{1,6})?")
_WORDS = frozenset(
    {
        *("", "true", "false", "yes", "no", "on", "off", "none", "null", "auto", "default"),
        *("trace", "debug", "info", "warning", "warn", "error", "critical"),
        *("development", "production", "test", "utf-8", "utf8", "c.utf-8", "en_us.utf-8"),
        *("json", "text", "stdio", "http", "localhost"),
    }
)
_PATH = re.compile(r"[~/][\w./+-]{0,400}")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]{1,253}(:\d{1,5})?(/[\w./+-]{0,400})?")
# What may stand around references: separators, the schemes of the Authorization header.
_GLUE = re.compile(r"(Bearer |Basic |Token |token )?[\s/:@?=&,;.-]*", re.ASCII)


def is_public(name: str, value: str) -> bool:
    """Whether this value of a setting called `name` is plainly no secret."""
    if is_secret_name(name) or has_secret_form(value) or redact_text(value) != value:
        return False
    if value.casefold() in _WORDS or _NUMBER.fullmatch(value):
        return True
    located = _PATH.fullmatch(value) or _ADDRESS.fullmatch(value)
    return bool(located) and not _looks_random(value)


def settings(server: str, values: Mapping[str, str]) -> tuple[Setting, ...]:
    """A manifest's `env` or `headers`, fit to be written down."""
    return tuple(_setting(server, key, value) for key, value in values.items())


def suspicious(words: Sequence[str]) -> str | None:
    """The part of a command line that looks like it gives a secret away, without the secret."""
    option = ""
    for number, word in enumerate(words, start=1):
        if option and not word.startswith("-"):
            return f"the value of {option}"
        if redact_text(word) != word or has_secret_form(word) or _looks_random(word):
            return f"word {number}"
        option = word if word.startswith("-") and "=" not in word and is_secret_name(word) else ""
    return None


def _setting(server: str, key: str, value: str) -> Setting:
    why = f"{key} of {server}"
    found = list(REFERENCE.finditer(value))
    names = [each["name"] for each in found if not each["escape"]]
    if not names and is_public(key, value):
        return Setting(key=key, template=value)
    if names and all(map(_VARIABLE.match, names)) and _GLUE.fullmatch(REFERENCE.sub("", value)):
        needs = [_need(each, key, why) for each in found if not each["escape"]]
        template = REFERENCE.sub(_without_default, value)
        return Setting(key=key, template=template, needs=tuple(needs))
    # Named after the server as well: another's API_KEY is another key.
    name = re.sub(r"\W", "_", f"{server}_{key}", flags=re.ASCII).upper()
    return Setting(key=key, template=f"${{{name}}}", needs=(Need(name=name, why=why, secret=True),))


def _need(found: re.Match[str], key: str, why: str) -> Need:
    name, default = found["name"], found["default"]
    public = default is not None and is_public(key, default) and is_public(name, default)
    secret = is_secret_name(name) or is_secret_name(key) or not public
    return Need(name=name, default=default if public else None, secret=secret, why=why)


def _without_default(found: re.Match[str]) -> str:
    return found[0] if found["escape"] else f"${{{found['name']}}}"


def _looks_random(value: str) -> bool:
    """Whether a part of it is long and mixes letters with digits, as keys and hashes do."""
    return any(
        len(part) >= 16 and re.search(r"\d", part) and re.search(r"[A-Za-z]", part)
        for part in re.split(r"[^A-Za-z0-9]+", value)
    )
