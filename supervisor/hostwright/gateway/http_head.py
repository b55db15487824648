"""What is known of an HTTP request before its body: enough to decide who may come in."""

from __future__ import annotations

from hostwright.gateway.asker import Origin
from hostwright.gateway.view import ALL

MAX_REPEATED_BYTES = 8_192


class Head:
    """One request without its body."""

    __slots__ = (
        *("endpoint", "headers", "keep_alive", "method", "named", "origin", "path", "query"),
        "refusal",
    )

    def __init__(self, origin: Origin) -> None:
        self.method = ""
        self.path = ""
        self.endpoint: str | None = None
        """Which MCP endpoint is meant; None when it is another path."""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.named: dict[str, str] = {}
        """By lower-case name; of several with one name the last."""
        self.keep_alive = True
        self.origin = origin
        self.refusal: tuple[int, str] | None = None

    def aim(self, path: str) -> None:
        """Its target is known."""
        self.path = path
        name = path.removeprefix("/mcp/")
        if path in ("/mcp", "/mcp/"):
            self.endpoint = ALL
        elif name != path and "/" not in name:
            self.endpoint = name

    def again(self, origin: Origin) -> Head:
        """The same words once more; who says them is to be decided anew."""
        head = Head.__new__(Head)
        head.method, head.path, head.endpoint = self.method, self.path, self.endpoint
        head.query, head.headers, head.named = self.query, self.headers, self.named
        head.keep_alive, head.origin, head.refusal = True, origin, None
        return head


class Repeated:
    """A head that a client will send again: what was read of it need not be read again.

    Recognised is only a whole request that comes in one piece and has this very head, down to the
    length of its body; everything else goes through the parser.
    """

    __slots__ = ("_length", "_raw", "_size", "head")

    def __init__(self, raw: bytes, length: int, head: Head) -> None:
        self.head = head
        self._raw = raw
        self._size = len(raw)
        self._length = len(raw) + length

    @staticmethod
    def of(data: bytes, head: Head, body: int) -> Repeated | None:
        """If `data` was one whole request with a body of so many bytes, and more may be alike."""
        size = len(data) - body
        named = head.named
        if (
            size > MAX_REPEATED_BYTES
            or not head.keep_alive
            or data.find(b"\r\n\r\n") != size - 4
            or named.get("content-length") != str(body)
            or "transfer-encoding" in named
            or "expect" in named
            or "upgrade" in named
        ):
            return None
        return Repeated(data[:size], body, head)

    def body(self, data: bytes) -> bytes | None:
        """What follows the head in `data`, if that is one whole request with this head."""
        if len(data) == self._length and data.startswith(self._raw):
            return data[self._size :]
        return None
