"""The guard server: what an agent may know of the guard, and what it may ask of it.

Nothing here grants, decides or reveals: the guard itself is in every server (the kit), decisions
are the owner's, and values of secrets never leave the vault this way. The tools are in `tools/`.
"""

from __future__ import annotations

from importlib.metadata import version

from hostwright_guard.tools import approvals
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

VERSION = version("hostwright-guard")

INSTRUCTIONS = """\
The guard: what waits for the owner's approval, and asking for one in advance. No tool here grants
anything: the owner does, with `hostwright approve ID` or in the client's own prompt. When a grant
is there, make exactly the call that it was asked for; it runs once."""


def build(runtime: Runtime) -> HostServer:
    """The server with all its tools; raises `HostError` when the configuration is wrong."""
    app = HostServer(
        "hostwright-guard", version=VERSION, instructions=INSTRUCTIONS, runtime=runtime
    )
    approvals.register(app, runtime)
    return app


def main() -> None:
    """The command `hostwright-guard`."""
    serve("guard", build, version=VERSION)
