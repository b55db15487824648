"""The environment that a command gets: an allow-list of the server's own, plus what the call adds.

Plain Python; reads the environment it is given and the user database. The server's environment
often holds the client's keys, so a name passes only when it is known to be harmless (locale,
terminal, folders; POSIX.1-2017 chapter 8 and the XDG Base Directory Specification) and does not
look like a secret. What a call adds explicitly passes always: the caller has it anyway.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from hostwright_kit.errors import HostError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# fmt: off
_ALLOWED = frozenset(
    {
        "PATH", "HOME", "LANG", "LANGUAGE", "TERM", "COLORTERM", "COLUMNS", "LINES",
        "NO_COLOR", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR", "EDITOR", "VISUAL", "PAGER",
        "HOSTNAME",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
        "all_proxy", "no_proxy",
    }
)
# fmt: on
_ALLOWED_PREFIXES = ("LC_", "XDG_")
_PROXIES = frozenset(["http_proxy", "https_proxy", "all_proxy"])

_SECRET = re.compile(
    r"""
      TOKEN | SECRET | PASSW(OR)?D | PASSPHRASE | CREDENTIAL | COOKIE | BEARER
    | (^|_) (KEY|KEYS|APIKEY|AUTH|PAT|PIN|PWD|DSN|SEED|MNEMONIC) (_|$)
    | APIKEY | PRIVATE_KEY
    | ^ (AWS|AZURE|GCP|GOOGLE|HOSTWRIGHT|VAULT|OPENAI|ANTHROPIC) _
    """,
    re.VERBOSE | re.IGNORECASE,
)


def looks_secret(name: str) -> bool:
    """Whether a variable of this name must be taken for a secret."""
    return _SECRET.search(name) is not None


def build_environment(base: Mapping[str, str], additions: Mapping[str, str]) -> dict[str, str]:
    """What of `base` may pass, the basics where it lacks them, and `additions` over both."""
    for name, value in additions.items():
        _check(name, value)
    passed = {name: value for name, value in base.items() if _may_pass(name, value)}
    return {**_basics(), **passed, **additions}


def _may_pass(name: str, value: str) -> bool:
    if name not in _ALLOWED and not name.startswith(_ALLOWED_PREFIXES):
        return False
    if looks_secret(name):
        return False
    return name.lower() not in _PROXIES or not _has_login(value)


def _has_login(url: str) -> bool:
    """A proxy's address may carry a user and a password; what cannot be read is taken to."""
    try:
        return "@" in urlsplit(url if "//" in url else f"//{url}").netloc
    except ValueError:
        return True


def _basics() -> dict[str, str]:
    """A server started by an init system or a bare client may have almost no environment."""
    basics = {"PATH": DEFAULT_PATH, "TERM": "dumb"}
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return basics
    return {
        **basics,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
    }


def _check(name: str, value: str) -> None:
    if not name or "=" in name:
        raise HostError(
            f"{name!r} is no name of an environment variable.",
            fix="Give names without '=' as keys and their values beside them.",
            code="invalid_argument",
        )
    if "\0" in name or "\0" in value:
        raise HostError(
            f"The environment variable {name!r} holds a NUL byte.",
            fix="Remove it; to hand over binary data use stdin_base64.",
            code="invalid_argument",
        )
