"""FastMCP's own proxy in front of a server, as its documentation recommends it.

fastmcp_proxy.py PORT FILE. A disconnected client is handed over, so that FastMCP keeps its clients
apart; the backend's process is kept (`keep_alive` is its default).
"""

from __future__ import annotations

import sys

from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy


def main() -> None:
    backend = StdioTransport(sys.executable, [sys.argv[2], "stdio"])
    create_proxy(backend, name="echo-proxy").run(
        "http",
        show_banner=False,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="ERROR",
        uvicorn_config={"access_log": False, "log_level": "error"},
    )


if __name__ == "__main__":
    main()
