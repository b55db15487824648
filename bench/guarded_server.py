"""Two tools twice: plain FastMCP, and under the guard. `guarded_server.py plain | guarded`.

Both speak over the same stdio, so that the difference is the guard and nothing else.
"""

from __future__ import annotations

import sys
from typing import Annotated

from fastmcp import FastMCP
from pydantic import Field

from hostwright_kit.run import serve, serve_object
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

Text = Annotated[str, Field(max_length=1_000)]


def plain() -> FastMCP:
    """As FastMCP's own documentation has it."""
    app = FastMCP("plain")

    @app.tool(annotations={"readOnlyHint": True})
    def look(text: Text) -> str:
        """The text, unchanged."""
        return text

    @app.tool(annotations={"readOnlyHint": False})
    def keep(text: Text) -> str:
        """The text, unchanged; taken for something that acts."""
        return text

    del look, keep
    return app


def guarded(runtime: Runtime) -> HostServer:
    """The same tools, judged and recorded."""
    app = HostServer("guarded", version="1", instructions="For the bench.", runtime=runtime)

    @app.read_tool()
    def look(text: Text) -> str:
        """The text, unchanged."""
        return text

    @app.write_tool(destructive=False)
    def keep(text: Text) -> str:
        """The text, unchanged; taken for something that acts."""
        return text

    del look, keep
    return app


if __name__ == "__main__":
    if sys.argv[1:] == ["plain"]:
        serve_object("plain", plain)
    else:
        serve("guarded", guarded, version="1", argv=[])
