"""A judged run, carried out: its secrets fetched, its gate opened, its token watched.

Secrets are opened here and nowhere else, right before the start. Every connection is in the ledger,
when it begins and when it has ended.
While a run lasts, its token is looked at twice a second; when it is revoked or has expired,
connections are cut and the run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from hostwright_guard.sandbox.capabilities import Injection, Wanted
from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.gate.names import HTTPS, parse_target
from hostwright_guard.sandbox.gate.rules import Allowance, Attempt, Credential, Rules
from hostwright_guard.sandbox.hiding import Hiding
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.places import Places
from hostwright_guard.sandbox.running import Command, Ending, Overlay, Sandboxes
from hostwright_guard.sandbox.settings import SandboxSettings
from hostwright_guard.sandbox.token_store import TokenHolder, TokenStore, Use, uptime
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger

WATCH_SECONDS = 0.5


@dataclass
class Run:
    """One run as it was asked for."""

    argv: tuple[str, ...]
    wanted: Wanted
    holder: TokenHolder
    cwd: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: bytes = b""
    token: str | None = None
    fixed_limits: bool = True
    fixed_seconds: bool = True
    """Whether the caller asked for these; else they are made to fit the token."""
    head_bytes: int = 16_384
    tail_bytes: int = 16_384


@dataclass
class Prepared:
    """A run that was judged: its places are open, its program is found."""

    run: Run
    wanted: Wanted
    program: str
    cwd: str
    places: Places
    use: Use | None


class Holder:
    """Holds runs. One per server."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        tokens: TokenStore,
        ledger: Ledger,
        settings: SandboxSettings,
        open_secret: Callable[[str], SecretStr],
    ) -> None:
        self._sandboxes = sandboxes
        self._tokens = tokens
        self._ledger = ledger
        self._settings = settings
        self._open_secret = open_secret

    async def hold(
        self,
        prepared: Prepared,
        keep: Callable[[bytes, Stream], Any],
        *,
        overlay: Overlay | None = None,
        watch_network: bool = False,
    ) -> tuple[Ending, Rules | None]:
        """Run it; what it says goes to `keep`, without its secrets."""
        run, wanted = prepared.run, prepared.wanted
        values = await asyncio.to_thread(self._secrets, wanted)
        given = {use.name: values[use.name].get_secret_value() for use in wanted.vault}
        hiding = {"stdout": Hiding(given.values()), "stderr": Hiding(given.values())}

        async def receive(data: bytes, stream: Stream) -> None:
            if safe := hiding[stream].feed(data):
                await keep(safe, stream)

        rules, gate, names, ports = self._gate(prepared, values, watch_network)
        command = Command(
            prepared.program,
            run.argv,
            prepared.cwd,
            {**run.environment, **{u.env: given[u.name] for u in wanted.vault if u.env}},
            {u.name: given[u.name].encode() for u in wanted.vault if not u.env},
            run.stdin,
        )
        running = asyncio.create_task(
            self._sandboxes.run(
                command,
                wanted,
                prepared.places,
                receive,
                gate=gate,
                names=names,
                ports=ports,
                overlay=overlay,
            )
        )
        watch = asyncio.create_task(self._watch(prepared, rules, gate, running))
        try:
            ending = await _until_done(running)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            if prepared.use is not None and rules is not None:
                await asyncio.to_thread(
                    self._tokens.give_back, prepared.use, *rules.allowance.rest()
                )
        streams: tuple[Stream, ...] = ("stdout", "stderr")
        for stream in streams:
            if safe := hiding[stream].rest():
                await keep(safe, stream)
        return ending, rules

    def _secrets(self, wanted: Wanted) -> dict[str, SecretStr]:
        """Blocking."""
        names = {use.name for use in wanted.vault} | {one.entry for one in wanted.inject}
        return {name: self._open_secret(name) for name in sorted(names)}

    # -- the network -----------------------------------------------------------------------------

    def _gate(
        self, prepared: Prepared, values: Mapping[str, SecretStr], watch_network: bool
    ) -> tuple[Rules | None, Gate | None, tuple[str, ...], tuple[int, ...]]:
        wanted, use = prepared.wanted, prepared.use
        if not wanted.domains and not watch_network:
            return None, None, (), ()
        allowance = Allowance(wanted.requests, wanted.network_mb * 2**20)
        if use is not None:

            async def reserve(requests: int, count: int) -> tuple[int, int]:
                return await asyncio.to_thread(self._tokens.reserve, use, requests, count)

            allowance = Allowance(
                min(wanted.requests, *(grant.requests for grant in use.grants)),
                min(wanted.network_mb, *(grant.network_mb for grant in use.grants)) * 2**20,
                reserve,
            )
        targets = tuple(parse_target(domain) for domain in wanted.domains)
        rules = Rules(
            targets,
            allowance,
            {parse_target(i.domain).pattern: _credential(i, values) for i in wanted.inject},
        )
        gate = Gate(
            rules,
            lambda attempt: self._record(prepared, attempt),
            pinned=self._settings.hosts,
            tls=self._settings.tls_context() if wanted.inject else None,
        )
        names = tuple(t.pattern for t in targets if not t.pattern.startswith("*."))
        return rules, gate, names, rules.ports

    async def _record(self, prepared: Prepared, attempt: Attempt) -> None:
        """Every connection is in the ledger; a failure to write shows in the ledger's health."""
        use = prepared.use
        self._ledger.note(
            Entry(
                type=f"egress.{attempt.verdict}",
                caller=prepared.run.holder.name,
                server="guard",
                outcome="denied" if attempt.verdict == "refused" else "ok",
                detail={
                    "target": attempt.target,
                    "kind": attempt.kind,
                    "reason": attempt.reason,
                    "address": attempt.address,
                    "sent_bytes": attempt.sent_bytes,
                    "received_bytes": attempt.received_bytes,
                    "program": prepared.program,
                    "capability": use.id if use else None,
                },
            )
        )

    async def _watch(
        self,
        prepared: Prepared,
        rules: Rules | None,
        gate: Gate | None,
        running: asyncio.Task[Ending],
    ) -> None:
        """While it runs: end it when its token is no longer good."""
        use = prepared.use
        if use is None:
            return
        ends = uptime() + use.seconds_left
        while True:
            # Another process may revoke it, so there is nothing to wait for but time.
            await asyncio.sleep(WATCH_SECONDS)
            if uptime() > ends or not await asyncio.to_thread(self._tokens.good, use.id):
                break
        if rules and gate:
            rules.closed = "the token was revoked or has expired"
            gate.cut()
        running.cancel()


async def _until_done(running: asyncio.Task[Ending]) -> Ending:
    """Cancelling the caller cancels the run, once, and its ending is still returned."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        return await running


def _credential(one: Injection, values: Mapping[str, SecretStr]) -> Credential:
    value = values[one.entry].get_secret_value()
    if "\r" in value or "\n" in value or not value.isascii():
        raise HostError(
            f"The secret {one.entry} cannot stand in a header: it has line breaks or letters "
            "beyond ASCII.",
            fix="Keep it as one line of ASCII.",
            code="bad_secret",
        )
    port = parse_target(one.domain).port or HTTPS
    return Credential(one.header, SecretStr(value), port, one.prefix)
