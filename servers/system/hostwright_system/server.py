"""The system server: one machine's health, processes, services, logs, shell and files."""

from __future__ import annotations

from importlib.metadata import version

from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

def build(runtime: Runtime) -> HostServer:
    app = HostServer("hostwright-system", version=version("hostwright-system"), instructions="x", runtime=runtime)

    @app.read_tool()
    def ping_read(a: int = 1) -> dict[str, int]:
        """Read."""
        return {"a": a}

    @app.write_tool(destructive=True)
    async def boom(a: int) -> dict[str, int]:
        """Write."""
        return {"a": a}

    return app


def main() -> None:
    """The command `hostwright-system`."""
    serve("system", build, version=version("hostwright-system"))
