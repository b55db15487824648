"""What one sandbox's gate lets through, how much of it, and what it does with credentials.

Plain Python and no sockets: `Allowance` counts, `Rules` judges; `gate.py` asks them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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
    prefix: str = ""

    @property
    def secret(self) -> str:
        """What must not be told, with nothing around it."""
        return self.value.get_secret_value()


@dataclass(frozen=True)
class Attempt:
    """One connection or question that left the command, as the gate saw it."""

    kind: Literal["tls", "http", "name", "more"]
    target: str
    verdict: Literal["opened", "allowed", "refused"]
    """`opened`: it begins, and another one tells its end."""
    reason: str = ""
    address: str | None = None
    sent_bytes: int = 0
    received_bytes: int = 0


Reserve = Callable[[int, int], Awaitable[tuple[int, int]]]
"""Takes up to so many requests and bytes from a budget that others draw on; says what it got."""
LOT_REQUESTS = 20
LOT_BYTES = 4 * 2**20
LEAST_LOT_BYTES = 64 * 2**10
LOTS = 64


@dataclass
class Allowance:
    """What is left for one run. Everything on its way in either direction is counted.

    With `reserve`, it is also taken from a shared budget, in lots of about 1/64 of what the run may
    do; `rest` is what was taken and not used.
    """

    requests: int
    bytes: int
    reserve: Reserve | None = None

    def __post_init__(self) -> None:
        self._lots = (
            min(LOT_REQUESTS, max(1, self.requests // LOTS)),
            min(LOT_BYTES, max(LEAST_LOT_BYTES, self.bytes // LOTS)),
        )
        self._held_requests = self._held_bytes = 0

    async def take_request(self) -> None:
        if self.requests > 0 and self.reserve is not None and not self._held_requests:
            got, _ = await self.reserve(self._lots[0], 0)
            self._held_requests += got
            if not got:
                self.requests = 0
        # Others may have taken the last one meanwhile.
        if self.requests <= 0 or (self.reserve is not None and not self._held_requests):
            raise RefusedError("the budget of requests is used up")
        self.requests -= 1
        self._held_requests -= 1

    async def take_bytes(self, count: int) -> None:
        """Raises when it is more than what is left; the rest then is nothing."""
        while self.reserve is not None and self.bytes >= count > self._held_bytes:
            _, got = await self.reserve(0, max(self._lots[1], count - self._held_bytes))
            self._held_bytes += got
            if not got:
                self.bytes = 0
        if count > self.bytes:
            self.bytes = 0
            raise RefusedError("the budget of bytes is used up")
        self.bytes -= count
        self._held_bytes -= count

    def rest(self) -> tuple[int, int]:
        """What was reserved and not used; it is not held any more."""
        held = max(0, self._held_requests), max(0, self._held_bytes)
        self._held_requests = self._held_bytes = 0
        self.requests = self.bytes = 0
        return held


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
