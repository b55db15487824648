"""Whether an HTTP request comes from where it may: protection against DNS rebinding.

A web page may make the browser connect here under a name of its own. So on loopback, or where names
are configured, `Host` must be one of ours, and `Origin`, which browsers send, must be this very
address or another one of loopback.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


class Hosts:
    """The names that this listener answers to."""

    def __init__(self, address: str, further: Sequence[str]) -> None:
        """`address` is what it listens on."""
        self._checked = bool(further) or is_loopback(address)
        names = ["localhost", "127.0.0.1", "::1", *further]
        if not _is_unspecified(address):
            names.append(address)
        self._names = tuple(_host(name) for name in names)
        self.refusal = lru_cache(maxsize=256)(self._refusal)
        """The status and the words of a refusal; None for who may come in."""

    def _refusal(self, host: str, origin: str) -> tuple[int, str] | None:
        name = _host(host)
        if self._checked and not any(fnmatchcase(name, allowed) for allowed in self._names):
            return 421, "This gateway does not answer to that host name."
        if origin and (self._checked or is_loopback(name)) and not _is_here(origin, host):
            return 403, "Requests of web pages from elsewhere are not served."
        return None


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine."""
    if _host(host) == "localhost":
        return True
    try:
        return ip_address(_host(host)).is_loopback
    except ValueError:
        return False


def _is_here(origin: str, host: str) -> bool:
    try:
        shown = urlsplit(origin)
        port = shown.port
    except ValueError:
        return False
    if is_loopback(shown.hostname or "") and is_loopback(host):
        return True
    return (shown.scheme, shown.hostname, port or PORTS.get(shown.scheme)) == (
        "http",
        _host(host),
        _port(host),
    )


def _is_unspecified(host: str) -> bool:
    try:
        return not host or ip_address(_host(host)).is_unspecified
    except ValueError:
        return False


def _host(name: str) -> str:
    """Without a port and without brackets."""
    name = name.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name


def _port(name: str) -> int:
    _, _, port = name.rpartition(":")
    bracketed = name.endswith("]")
    return int(port) if port.isascii() and port.isdigit() and not bracketed else PORTS["http"]
