"""What an entry of the vault may be called and may hold. Apart, because manifests ask it too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import SecretStr

from hostwright_kit.errors import HostError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SERVER = re.compile(r"[a-z][a-z0-9-]{0,62}")
MAX_VALUE_BYTES = 64 * 1024
# What is shorter cannot be kept out of logs: it is a part of many words.
MIN_VALUE_CHARS = 4


def check_name(name: str) -> None:
    """Refuse what is no name for an entry."""
    if not NAME.fullmatch(name):
        raise HostError(
            f"{name!r} is not a name for an entry.",
            fix="Use 1 to 63 of A-Z, a-z, 0-9, dot, dash, underscore; a letter or digit first.",
            code="bad_name",
        )


def checked_servers(servers: Sequence[str]) -> tuple[str, ...]:
    """The names of servers, sorted, each once."""
    for server in servers:
        if not SERVER.fullmatch(server):
            raise HostError(
                f"{server!r} is not a server's name.",
                fix="`hostwright status` shows them.",
                code="bad_name",
            )
    return tuple(sorted(set(servers)))


def checked_value(value: SecretStr) -> bytes:
    """The bytes of a value that can be kept: not too long, and long enough to be masked."""
    text = value.get_secret_value()
    plain = text.encode("utf-8", "surrogatepass")
    if len(text) < MIN_VALUE_CHARS or len(plain) > MAX_VALUE_BYTES or "\0" in text:
        raise HostError(
            f"The value has {len(text)} characters, or a NUL among them; it was not kept.",
            fix=f"Give {MIN_VALUE_CHARS} characters to {MAX_VALUE_BYTES} bytes, without NUL: "
            "shorter values cannot be kept out of logs.",
            code="bad_value",
        )
    return plain
