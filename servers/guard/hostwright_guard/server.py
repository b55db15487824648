"""The guard server: what an agent may know of the guard, and what it may ask of it.

Nothing here grants, decides or reveals: the guard itself is in every server (the kit), decisions
are the owner's, and values of secrets never leave the vault this way. The tools are in `tools/`.
"""

from __future__ import annotations

from importlib.metadata import version

from hostwright_guard.sandbox.assembling import assemble
from hostwright_guard.tools import approvals, audit, preview, safety, sandbox, secrets
from hostwright_kit.jobs import JobStore
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

VERSION = version("hostwright-guard")

INSTRUCTIONS = """\
The guard: what waits for the owner's approval, and asking for one in advance. No tool here grants
anything: the owner does, with `hostwright approve ID` or in the client's own prompt. When a grant
is there, make exactly the call that it was asked for; it runs once. Secrets have names here, and no
values: secret_set has the owner type one. sandbox_exec runs a command that sees what the call
declares and nothing else; sandbox_preview shows first what it would change. audit_verify and
audit_prove are about the ledger in which all of that is on record. When something goes badly wrong,
safety_panic stops everything at once; only the owner lifts that."""


def build(runtime: Runtime) -> HostServer:
    """The server with all its tools; raises `HostError` when the configuration is wrong."""
    app = HostServer(
        "hostwright-guard", version=VERSION, instructions=INSTRUCTIONS, runtime=runtime
    )
    approvals.register(app, runtime)
    secrets.register(app, runtime)
    audit.register(app, runtime)
    jobs = JobStore(runtime.paths.state_dir, "guard")
    safety.register(app, runtime, jobs)
    _add_sandbox(app, runtime, jobs)
    return app


def _add_sandbox(app: HostServer, runtime: Runtime, jobs: JobStore) -> None:
    parts = assemble(runtime, jobs)
    # Registered last, closed first: jobs run in sandboxes.
    runtime.on_close(jobs.close)
    sandbox.register(app, parts.service, parts.tokens, jobs)
    preview.register(app, parts.previews)


def main() -> None:
    """The command `hostwright-guard`."""
    serve("guard", build, version=VERSION)
