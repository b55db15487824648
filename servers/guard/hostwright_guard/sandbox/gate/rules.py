"""What one sandbox's gate lets through, how much of it, and what it does with credentials.

Plain Python and no sockets: `Allowance` counts, `Rules` judges; `gate.py` asks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import SecretStr

from hostwright_guard.sandbox.gate.names import NotAName, Target, canonical_host

MAX_KEPT = 200


class RefusedError(Exception):
    """The gate does not let it through; the text says why, for the ledger and the result."""


class Credential(NamedTuple):
    """A header that the gate adds to requests for one name, and that the sandbox never sees."""

    header: str
    value: SecretStr
    port: int = 443
    """Where the service is; over TLS, whatever the sandbox asked."""


@dataclass(frozen=True)
class Attempt:
    """One connection or question that left the command, as the gate saw it."""

    kind: Literal["tls", "http", "name"]
    target: str
    verdict: Literal["allowed", "refused"]
    reason: str = ""
    address: str | None = None
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass
class Allowance:
    """What is left of the budget. Everything on its way in either direction is counted."""

    requests: int
    bytes: int

    def take_request(self) -> None:
        if self.requests <= 0:
            raise RefusedError("the budget of requests is used up")
        self.requests -= 1

    def take_bytes(self, count: int) -> None:
        """Raises when it is more than what is left; the rest then is nothing."""
        if count > self.bytes:
            self.bytes = 0
            raise RefusedError("the budget of bytes is used up")
        self.bytes -= count


@dataclass
class Rules:
    """The judgement on names and ports, and a bounded memory of what was judged."""

    targets: tuple[Target, ...]
    allowance: Allowance
    credentials: Mapping[str, Credential] = field(default_factory=dict[str, Credential])
    closed: str | None = None
    """Why nothing may pass any more (revoked, expired)."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    omitted_attempts: int = 0

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports on which something may be allowed, and those on which trying shall be seen."""
        return tuple(sorted({443, 80}.union(*(target.ports for target in self.targets))))

    def admit(self, text: str, port: int) -> str:
        """The canonical name, if it may be reached at this port; raises `RefusedError`."""
        if self.closed:
            raise RefusedError(self.closed)
        try:
            host = canonical_host(text)
        except NotAName as error:
            raise RefusedError(f"{text[:100]!r}: {error}") from None
        if not any(target.admits(host, port) for target in self.targets):
            raise RefusedError(f"{host}:{port} is not among the allowed domains")
        return host

    def knows(self, name: str) -> bool:
        """Whether a name has an address inside; the connection is judged again."""
        try:
            host = canonical_host(name)
        except NotAName:
            return False
        return any(target.admits(host, port) for target in self.targets for port in target.ports)

    def keep(self, attempt: Attempt) -> None:
        """Remember it for the result, up to a bound."""
        if len(self.attempts) < MAX_KEPT:
            self.attempts.append(attempt)
        else:
            self.omitted_attempts += 1
