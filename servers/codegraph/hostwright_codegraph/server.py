"""The codegraph server: what is defined in a project, who calls whom, and what may break.

The tools are in `tools/`, one module per group; this module puts them together. The process that
answers is light: workers parse and end (`runner`), questions go to SQLite (`queries`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version

from hostwright_codegraph import cli
from hostwright_codegraph.projects import Projects
from hostwright_codegraph.service import Service
from hostwright_codegraph.settings import CodegraphSettings
from hostwright_codegraph.store.places import Places
from hostwright_codegraph.tools import gathering, indexing, looking, reaching
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

VERSION = version("hostwright-codegraph")

INSTRUCTIONS = """\
The code of one or more projects, indexed: ask here before reading files. codegraph_index adds a
project. Begin with codegraph_context; codegraph_search finds definitions; codegraph_node,
codegraph_callers and codegraph_callees answer about exactly one symbol and refuse what is
ambiguous. Before a change codegraph_impact, after it codegraph_tests. What could not be resolved is
counted as unresolved, never guessed: no caller listed is no proof while unresolved is above 0."""


def build(runtime: Runtime) -> HostServer:
    """The server with all its tools; raises `HostError` when the configuration is wrong."""
    settings = runtime.table("codegraph", CodegraphSettings)
    app = HostServer(
        "hostwright-codegraph", version=VERSION, instructions=INSTRUCTIONS, runtime=runtime
    )
    projects = Projects(
        Places(runtime.paths.state_dir / "codegraph"),
        roots=settings.roots,
        fixed=settings.projects,
        protected=tuple(runtime.paths.protected),
    )
    service = Service(projects, watch=settings.watch)
    app.background.append(service.background)
    indexing.register(app, service)
    looking.register(app, service)
    reaching.register(app, service)
    gathering.register(app, service)
    return app


def main() -> None:
    """The command `hostwright-codegraph`: a word of the command line, or the server."""
    if len(sys.argv) > 1 and sys.argv[1] in cli.COMMANDS:
        sys.exit(cli.main(sys.argv[1:]))
    serve("codegraph", build, version=VERSION)
