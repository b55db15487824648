"""A FastMCP server of 200 tools, to be listed: many_tools.py stdio | http PORT."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from fastmcp import FastMCP
from pydantic import Field

COUNT = 200

mcp = FastMCP("many")


async def look_up(
    text: Annotated[str, Field(description="What to look for.", max_length=1_000)],
    limit: Annotated[int, Field(description="At most so many answers.", ge=1, le=500)] = 20,
    order: Literal["newest", "oldest", "best"] = "best",
) -> str:
    """Looks something up in one of many places, and says what was found there and where."""
    return f"{text} {limit} {order}"


for number in range(COUNT):
    mcp.tool(look_up, name=f"look_up_{number:03}", annotations={"readOnlyHint": True})


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
            sys.exit("usage: many_tools.py stdio | http PORT")


if __name__ == "__main__":
    main()
