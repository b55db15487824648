"""The server behind every front that is compared: one FastMCP tool that gives its text back.

echo_server.py stdio | http PORT. `fastmcp run echo_server.py` finds `mcp`.
"""

from __future__ import annotations

import sys

from fastmcp import FastMCP

mcp = FastMCP("echo")


@mcp.tool(annotations={"readOnlyHint": True})
async def echo(text: str) -> str:
    """The text, unchanged."""
    return text


def main() -> None:
    match sys.argv[1:]:
        case ["stdio"]:
            mcp.run("stdio", show_banner=False, log_level="ERROR")
        case ["http", port]:
            mcp.run(
                "http",
                show_banner=False,
                host="127.0.0.1",
                port=int(port),
                log_level="ERROR",
                uvicorn_config={"access_log": False, "log_level": "error"},
            )
        case _:
            sys.exit("usage: echo_server.py stdio | http PORT")


if __name__ == "__main__":
    main()
