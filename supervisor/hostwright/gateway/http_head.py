"""What is known of an HTTP request before its body: enough to decide who may come in."""

from __future__ import annotations

from hostwright.gateway.asker import Origin
from hostwright.gateway.view import ALL


class Head:
    """One request without its body."""

    __slots__ = ("headers", "keep_alive", "method", "named", "origin", "path", "query", "refusal")

    def __init__(self, origin: Origin) -> None:
        self.method = ""
        self.path = ""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.named: dict[str, str] = {}
        """By lower-case name; of several with one name the last."""
        self.keep_alive = True
        self.origin = origin
        self.refusal: tuple[int, str] | None = None

    @property
    def endpoint(self) -> str | None:
        """Which MCP endpoint is meant; None when it is another path."""
        if self.path in ("/mcp", "/mcp/"):
            return ALL
        name = self.path.removeprefix("/mcp/")
        return name if name != self.path and "/" not in name else None
