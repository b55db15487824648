"""The guard server: what an agent may know of the guard, and what it may ask of it.

Nothing here grants, decides or reveals: the guard itself is in every server (the kit), decisions
are the owner's, and values of secrets never leave the vault this way. The tools are in `tools/`.
"""

from __future__ import annotations

from importlib.metadata import version

from pydantic import SecretStr

from hostwright_guard.sandbox.holding import Holder
from hostwright_guard.sandbox.preview.service import PreviewService
from hostwright_guard.sandbox.preview.store import Previews
from hostwright_guard.sandbox.running import Sandboxes
from hostwright_guard.sandbox.service import SandboxService
from hostwright_guard.sandbox.token_store import TokenStore
from hostwright_guard.settings import GuardSettings
from hostwright_guard.tools import approvals, audit, preview, sandbox, secrets
from hostwright_kit.jobs import JobStore
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer
from hostwright_kit.vault import open_vault

VERSION = version("hostwright-guard")

INSTRUCTIONS = """\
The guard: what waits for the owner's approval, and asking for one in advance. No tool here grants
anything: the owner does, with `hostwright approve ID` or in the client's own prompt. When a grant
is there, make exactly the call that it was asked for; it runs once. Secrets have names here, and no
values: secret_set has the owner type one. sandbox_exec runs a command that sees what the call
declares and nothing else; sandbox_preview shows first what it would change. audit_verify and
audit_prove are about the ledger in which all of that is on record."""


def build(runtime: Runtime) -> HostServer:
    """The server with all its tools; raises `HostError` when the configuration is wrong."""
    app = HostServer(
        "hostwright-guard", version=VERSION, instructions=INSTRUCTIONS, runtime=runtime
    )
    approvals.register(app, runtime)
    secrets.register(app, runtime)
    audit.register(app, runtime)
    _add_sandbox(app, runtime)
    return app


def _add_sandbox(app: HostServer, runtime: Runtime) -> None:
    settings = runtime.table("guard", GuardSettings).sandbox
    state = runtime.paths.state_dir
    jobs = JobStore(state, "guard")
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
        await jobs.close()
        await sandboxes.close()
        tokens.close()

    runtime.on_close(close)
    holder = Holder(sandboxes, tokens, runtime.ledger, settings, open_secret)
    service = SandboxService(tokens, jobs, holder, runtime.paths.protected)
    sandbox.register(app, service, tokens, jobs)
    previews = PreviewService(service, holder, Previews(state), settings.roots())
    preview.register(app, previews)


def main() -> None:
    """The command `hostwright-guard`."""
    serve("guard", build, version=VERSION)
