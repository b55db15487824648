"""The parts of the sandbox put together for one server; they end with it."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import SecretStr

from hostwright_guard.sandbox.holding import Holder
from hostwright_guard.sandbox.preview.service import PreviewService
from hostwright_guard.sandbox.preview.store import Previews
from hostwright_guard.sandbox.running import Sandboxes
from hostwright_guard.sandbox.service import SandboxService
from hostwright_guard.sandbox.token_store import TokenStore
from hostwright_guard.settings import GuardSettings
from hostwright_kit.jobs import JobStore
from hostwright_kit.runtime import Runtime
from hostwright_kit.vault import open_vault


class Assembled(NamedTuple):
    """What tools are made of."""

    tokens: TokenStore
    service: SandboxService
    previews: PreviewService


def assemble(runtime: Runtime, jobs: JobStore) -> Assembled:
    """`jobs` are those of the server, which closes them."""
    settings = runtime.table("guard", GuardSettings).sandbox
    state = runtime.paths.state_dir
    tokens = TokenStore(state)
    sandboxes = Sandboxes(runtime.paths.runtime_dir)

    def open_secret(name: str) -> SecretStr:
        # Opened for one start: no key stays in this process.
        vault = open_vault(state, runtime.ledger)
        try:
            return vault.open(name, runtime.server)
        finally:
            vault.close()

    async def close() -> None:
        await sandboxes.close()
        tokens.close()

    runtime.on_close(close)
    holder = Holder(sandboxes, tokens, runtime.ledger, settings, open_secret)
    service = SandboxService(tokens, jobs, holder, runtime.paths.protected)
    previews = PreviewService(service, holder, Previews(state), settings.roots())
    return Assembled(tokens, service, previews)
