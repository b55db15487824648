"""Tell which entries of a client's configuration are ours to change.

By what an entry does, not by a mark in it: some clients refuse keys that they do not know, and
an entry that the owner wrote by hand to the same end is as much ours to keep current. Pure.
"""

from __future__ import annotations

import itertools
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import urlsplit

DEFAULT_GATEWAY = "http://127.0.0.1:18790"
Origin = tuple[str, str, int | None]
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def origin(url: str) -> Origin:
    """Scheme, host and port, with every name of the loopback made one."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, "127.0.0.1" if host in _LOOPBACK else host, port


def is_ours(config: Any, gateways: frozenset[Origin]) -> bool:
    """Whether an entry leads to Hostwright: by `hostwright connect`, or to a gateway of ours."""
    if not isinstance(config, dict):
        return False
    entry = cast("dict[str, Any]", config)
    command = entry.get("command")
    argv = [command, *_list(entry.get("args"))] if isinstance(command, str) else _list(command)
    words = [word for word in argv if isinstance(word, str)]
    for program, verb in itertools.pairwise(words):
        if verb == "connect" and PurePath(program).name == "hostwright":
            return True
    url = entry.get("url")
    if not isinstance(url, str):
        return False
    try:
        path = urlsplit(url).path
        return origin(url) in gateways and (path == "/mcp" or path.startswith("/mcp/"))
    except ValueError:
        return False


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
