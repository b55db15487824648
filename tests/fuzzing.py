"""What the protocol fuzz sends, and how it reads what comes back.

Strategies make messages that were valid and were then broken in one to three places, as values or
as bytes, and HTTP requests around them with broken headers and framing. `Line` and `post` speak to
a running gateway and hold it to the protocol: whatever comes back is a valid JSON-RPC message with
an id that was sent (or none), or an HTTP answer below 500 with a reason.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hypothesis import strategies as st

MODERN, LEGACY = "2026-07-28", "2025-11-25"
META = "io.modelcontextprotocol/"
ANSWER_SECONDS = 20.0
TAG = re.compile(r"tag-[0-9a-f]{16}")
# Short names, so that a mutation often hits one that means something.
KEYS = ("jsonrpc", "id", "method", "params", "name", "arguments", "_meta", "cursor", "result")

Message = dict[str, Any]


class ProtocolError(AssertionError):
    """The gateway sent what the protocol does not allow."""


# -- strategies --------------------------------------------------------------------------------

odd_text = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "\0", "\r\n", "\ud800", "\udfff\ud800", "é\u2028", "../x", "a" * 5_000]),
)
odd_ids = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    odd_text,
    st.none(),
    st.booleans(),
    st.sampled_from([[], {}, [1], {"a": 1}, 0, -0.0, 2**53, -1]),
)
values = st.recursive(
    st.one_of(odd_ids, odd_text, st.sampled_from([MODERN, LEGACY, "1999-01-01", "2.0", "1.0"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), odd_text), inner, max_size=3),
    ),
    max_leaves=6,
)


def nested(depth: int, kind: str) -> Any:
    """A value so deep that a careless parser falls over."""
    return _Raw(
        {"list": "[" * depth + "]" * depth, "dict": '{"a":' * depth + "1" + "}" * depth}[kind]
    )


class _Raw(str):
    """JSON that is put into a message as it is, because no encoder would make it."""


deep = st.builds(
    nested, st.sampled_from([50, 900, 5_000, 100_000]), st.sampled_from(["list", "dict"])
)


def envelope() -> Message:
    return {
        f"{META}protocolVersion": MODERN,
        f"{META}clientInfo": {"name": "fuzz", "version": "1"},
        f"{META}clientCapabilities": {},
    }


def call(number: Any, tag: str, tool: str = "echo") -> Message:
    """A call of the echo tool in the new era."""
    params = {"name": tool, "arguments": {"tag": tag}, "_meta": envelope()}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@st.composite
def valid(draw: st.DrawFn, methods: Sequence[str] | None = None) -> Message:
    """A message that any server takes."""
    method = draw(
        st.sampled_from(
            methods
            or (
                *("tools/call", "tools/list", "prompts/list", "resources/list", "server/discover"),
                *("ping", "initialize", "resources/read", "prompts/get", "completion/complete"),
                *("logging/setLevel", "notifications/cancelled", "notifications/progress"),
                *("notifications/initialized", "resources/subscribe", "rpc.unknown"),
            )
        )
    )
    params: Message = {"_meta": envelope()} if draw(st.booleans()) else {}
    match method:
        case "tools/call":
            params |= {"name": draw(st.sampled_from(["echo", "nothing"])), "arguments": {}}
        case "resources/read" | "resources/subscribe":
            params["uri"] = draw(st.sampled_from(["note://one", "note://", ""]))
        case "prompts/get":
            params["name"] = "hello"
        case "initialize":
            params |= {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "f"}}
        case "notifications/cancelled":
            params["requestId"] = draw(odd_ids)
        case "notifications/progress":
            params |= {"progressToken": draw(odd_ids), "progress": draw(odd_ids)}
        case _:
            pass
    message: Message = {"jsonrpc": "2.0", "method": method, "params": params}
    if not method.startswith("notifications/"):
        message["id"] = draw(st.integers(1, 9))
    return message


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in cast("Message", value).items():
            found += _places(inner, (*path, key))
    return found


@st.composite
def broken(draw: st.DrawFn, methods: Sequence[str] | None = None) -> Any:
    """A message with one to three members replaced, removed or added; or a batch of such."""
    message = draw(valid(methods))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(_places(message) or [("id",)]))
        holder = message
        for key in path[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "id", "deep"])):
            case "replace":
                holder[path[-1]] = draw(values)
            case "remove":
                holder.pop(path[-1], None)
            case "add":
                holder[draw(st.one_of(st.sampled_from(KEYS), odd_text))] = draw(values)
            case "id":
                message["id"] = draw(odd_ids)
            case _:
                holder[path[-1]] = draw(deep)
    wrap = draw(st.sampled_from(["", "", "", "", "one", "two", "empty"]))
    return {"": message, "one": [message], "two": [message, message], "empty": []}[wrap]


def encode(value: Any) -> bytes:
    """As JSON; what cannot stand in UTF-8 stands there all the same."""
    held: list[str] = []

    def hold(inner: Any) -> Any:
        if isinstance(inner, _Raw):
            held.append(inner)
            return f"<<{len(held) - 1}>>"
        if isinstance(inner, dict):
            return {key: hold(one) for key, one in cast("Message", inner).items()}
        return [hold(one) for one in cast("list[Any]", inner)] if isinstance(inner, list) else inner

    text = json.dumps(hold(value), separators=(",", ":"))
    for number, raw in enumerate(held):
        text = text.replace(f'"<<{number}>>"', raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def lines(draw: st.DrawFn, methods: Sequence[str] | None = None) -> bytes:
    """One line, or what claims to be one; its end is for the sender."""
    data = encode(draw(broken(methods)))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    match draw(st.sampled_from(["", "", "", "cut", "insert", "twice", "key", "pad"])):
        case "cut":
            return data[:at]
        case "insert":
            odd = [b"\0", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\x1b[2J", b'"', b"\\"]
            return data[:at] + draw(st.sampled_from(odd)) + data[at:]
        case "twice":
            return data + data
        case "key":
            return b'{"id":1,' + data[1:] if data.startswith(b"{") else data
        case "pad":
            return b" \t" + data + b" \r"
        case _:
            return data


# -- holding the gateway to the protocol ---------------------------------------------------------


def ids_in(data: bytes) -> list[Any]:
    """The ids that an answer to these bytes may carry, besides none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        # Half of a message may have been understood, or two in one.
        return [json.loads(found) for found in re.findall(rb'"id":(\d+|"[^"\\]*")', data)]
    messages = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [one["id"] for one in messages if isinstance(one, dict) and "id" in one]


def check_message(raw: bytes, ids: Sequence[Any], own: str) -> Message:
    """A JSON-RPC message that may be sent to a client that used these ids, and only its tag."""
    try:
        message = json.loads(raw)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {raw[:300]!r}") from error
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise ProtocolError(f"not JSON-RPC 2.0: {raw[:300]!r}")
    message = cast("Message", message)
    if "method" in message:
        if not isinstance(message["method"], str):
            raise ProtocolError(f"a method that is no text: {raw[:300]!r}")
    else:
        _check_answer(message, ids, raw)
    foreign = set(TAG.findall(raw.decode("utf-8", "replace"))) - {own}
    if foreign:
        raise ProtocolError(f"it carries what another client sent: {foreign}")
    return message


def _check_answer(message: Message, ids: Sequence[Any], raw: bytes) -> None:
    if ("result" in message) == ("error" in message):
        raise ProtocolError(f"neither or both of result and error: {raw[:300]!r}")
    if "error" in message:
        error = message["error"]
        if not (isinstance(error.get("code"), int) and isinstance(error.get("message"), str)):
            raise ProtocolError(f"an error without code or message: {raw[:300]!r}")
        if not error["message"].strip():
            raise ProtocolError(f"an error without a reason: {raw[:300]!r}")
    number = message.get("id")
    fits = any(type(number) is type(one) and number == one for one in ids)
    if not fits and not (number is None and "error" in message):
        raise ProtocolError(f"an answer to {number!r}; sent were {list(ids)[:20]!r}")


@dataclass
class Line:
    """A connection that speaks in lines: the daemon's socket, or a pipe to `connect`."""

    send: Callable[[bytes], None]
    read: Callable[[], bytes]
    ids: list[Any] = field(default_factory=list[Any])

    def throw(self, data: bytes) -> None:
        """Send bytes as one line; every line in them may be answered."""
        for part in data.split(b"\n"):
            self.ids += ids_in(part)
        self.send(data + b"\n")

    def echo(self, tag: str) -> Message:
        """Call the echo tool; everything that comes before its answer is checked."""
        number = f"probe-{tag}"
        self.ids.append(number)
        self.send(encode(call(number, tag)) + b"\n")
        while True:
            raw = self.read()
            if not raw:
                raise ProtocolError("the connection was closed")
            message = check_message(raw, self.ids, tag)
            if message.get("id") == number and "method" not in message:
                return message


@dataclass(frozen=True)
class HttpAnswer:
    """One parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    def messages(self) -> list[bytes]:
        """The JSON-RPC messages in it."""
        kind = self.headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            found = [line[5:].strip() for line in self.body.splitlines() if line[:5] == b"data:"]
            return [one for one in found if one]
        return [self.body] if kind.startswith("application/json") and self.body.strip() else []


class HttpReader:
    """Reads answers off a raw connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    def answer(self) -> HttpAnswer | None:
        """The next answer; None where the connection ended without one."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *rest = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] (\d{3})(?: .*)?", first)
        if not found:
            raise ProtocolError(f"not a status line: {first[:200]!r}")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in rest if line)
        }
        status = int(found[1])
        if status == 100:
            return self.answer()
        body = self._body(status, headers)
        return HttpAnswer(status, headers, body, headers.get("connection", "").lower() == "close")

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self._until(b"\r\n") or b"0", 16):
                body += self._exactly(size)
                self._exactly(2)
            self._until(b"\r\n")
            return body
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        return self._rest()

    def _more(self) -> bool:
        try:
            data = self._connection.recv(65_536)
        except ConnectionResetError:
            return False
        self._data += data
        return bool(data)

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._data:
            if not self._more():
                if self._data:
                    raise ProtocolError(f"it ends in the middle: {self._data[:300]!r}")
                return None
        found, _, self._data = self._data.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            if not self._more():
                raise ProtocolError(f"a body shorter than it says: {self._data[:300]!r}")
        found, self._data = self._data[:size], self._data[size:]
        return found

    def _rest(self) -> bytes:
        while self._more():
            pass
        found, self._data = self._data, b""
        return found


def exchange(
    port: int, *parts: bytes, answers: int = 1, patience: float = ANSWER_SECONDS
) -> list[HttpAnswer]:
    """Send bytes, in parts with a pause between them; then read up to so many answers.

    The sending side stays open, because an end of it counts as leaving; it is closed when nothing
    came for `patience` seconds, so that what waits for the rest of a request is told there is none.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        reader = HttpReader(connection)
        # It may answer and hang up before it has read everything.
        with contextlib.suppress(OSError):
            for number, part in enumerate(parts):
                if number:
                    time.sleep(0.01)
                connection.sendall(part)
        found: list[HttpAnswer] = []
        connection.settimeout(patience)
        while len(found) < answers:
            try:
                one = reader.answer()
            except TimeoutError:
                if patience == ANSWER_SECONDS:
                    raise
                patience = ANSWER_SECONDS
                connection.settimeout(patience)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                continue
            if one is None:
                break
            found.append(one)
        return found


def open_line(path: Path, server: str) -> tuple[socket.socket, Line]:
    """A connection to the daemon's own socket for lines."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    connection.connect(str(path))
    stream = connection.makefile("rb")
    connection.sendall(json.dumps({"connect": server}).encode() + b"\n")
    hello = json.loads(stream.readline())
    if hello.get("connected") is not True:
        raise ProtocolError(f"not connected: {hello}")
    return connection, Line(connection.sendall, stream.readline)
