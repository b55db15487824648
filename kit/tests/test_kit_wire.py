"""What no client should send: the server answers with an error, acts on nothing and lives."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_kit.runtime import TOKENS_FILE
from hostwright_kit.sockets import bind_tcp
from hostwright_kit.tokens import Tokens

from .kit_harness import Home, Wire, finish, free_port, http_exchange, request

MIB = 1024 * 1024
PARSE, INVALID = -32700, -32600

LINES: dict[str, tuple[bytes, int]] = {
    "not json": (b"hello", PARSE),
    "cut json": (b'{"jsonrpc": "2.0", "id": 1', PARSE),
    "invalid utf-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}', PARSE),
    "only nul": (b"\x00\x00\x00\x00", PARSE),
    "nul inside": (b'{"jsonrpc":"2.0",\x00"id":1}', PARSE),
    "utf-16": ('{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16-le"), PARSE),
    "deep array": (b"[" * 200_000, PARSE),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, PARSE),
    "huge integer": (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"x"}', PARSE),
    "bare value": (b"42", INVALID),
    "null": (b"null", INVALID),
    "string": (b'"ping"', INVALID),
    "empty object": (b"{}", INVALID),
    "empty batch": (b"[]", INVALID),
    "batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', INVALID),
    "old json-rpc": (b'{"id":1,"method":"ping"}', INVALID),
    "method is a number": (b'{"jsonrpc":"2.0","id":1,"method":5}', INVALID),
    "id is null": (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID),
    "id is an object": (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', INVALID),
    "lone surrogate": (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', INVALID),
}
CALLS: dict[str, dict[str, Any]] = {
    "no name": {},
    "name is a number": {"name": 5, "arguments": {}},
    "arguments are a list": {"name": "note", "arguments": ["x"]},
    "arguments are text": {"name": "note", "arguments": "x"},
    "meta is text": {"name": "note", "arguments": {"text": "x"}, "_meta": "x"},
    "name is huge": {"name": "n" * 100_000, "arguments": {}},
    "name is nasty": {"name": "\u202e../../\x00;", "arguments": {}},
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Generator[Wire]:
    """One server for all of it: that it lives is what every test shows to the next."""
    home = Home(tmp_path_factory.mktemp("stdio"))
    opened = Wire(home.probe())
    yield opened
    assert "result" in opened.call("look")
    assert opened.process.stdin
    opened.process.stdin.close()
    assert finish(opened.process) == 0
    assert home.acts() == []
    home.assert_ledger_holds()


@pytest.fixture(scope="module", params=["--http", "--socket"])
def listening(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[str, str]]:
    home = Home(tmp_path_factory.mktemp("listening"))
    way: str = request.param
    address = f"127.0.0.1:{free_port()}" if way == "--http" else str(home.runtime / "s.sock")
    with home.serving(way, address) as process:
        yield way, address
        assert lives(way, address)
        assert process.poll() is None
    assert home.acts() == []
    home.assert_ledger_holds()


def lives(way: str, address: str, **headers: str) -> bool:
    body = request(7, "tools/call", name="look", arguments={})
    status, content = http_exchange(
        way, address, body, method_header="tools/call", name_header="look", **headers
    )
    return status == 200 and b'"characters"' in content


@pytest.mark.parametrize("what", LINES)
def test_a_line_that_is_no_message_is_answered_with_an_error(wire: Wire, what: str) -> None:
    line, code = LINES[what]
    wire.send(line + b"\n")
    answer = wire.answer()
    assert answer["error"]["code"] == code, answer
    assert len(answer["error"]["message"]) < 500
    assert "result" in wire.call("look")


def test_an_error_names_the_request_it_answers_where_that_can_be_read(wire: Wire) -> None:
    wire.send(b'{"jsonrpc":"1.0","id":"mine","method":"ping"}\n')
    assert wire.answer()["id"] == "mine"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_blank_lines_and_line_endings_do_not_matter(wire: Wire, end: bytes) -> None:
    wire.send(end * 3)
    body = request(4711, "tools/call", name="look", arguments={}).rstrip(b"\n")
    wire.send(body + end + end)
    assert wire.answer()["id"] == 4711


@pytest.mark.parametrize("filler", [b"x", b'"', b"[", b"\x00", b" "])
def test_a_line_of_17_mib_is_refused_and_the_next_one_served(wire: Wire, filler: bytes) -> None:
    wire.send(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"' + filler * 17 * MIB + b"\n")
    answer = wire.answer()
    assert answer["error"]["code"] == INVALID
    assert str(16 * MIB) in answer["error"]["message"]
    assert "result" in wire.call("look")


def test_a_message_of_nearly_16_mib_is_served(wire: Wire) -> None:
    answer = wire.call("look", text="y" * (15 * MIB))
    assert answer["result"]["structuredContent"] == {"characters": 15 * MIB}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_is_none_is_an_error(wire: Wire, what: str) -> None:
    body = json.loads(request(99, "tools/call"))
    body["params"] |= CALLS[what]
    wire.send(json.dumps(body).encode() + b"\n")
    answer = wire.answer()
    assert answer["id"] == 99
    assert "error" in answer or answer["result"]["isError"], answer
    assert "result" in wire.call("look")


@pytest.mark.parametrize("levels", [10, 60, 90, 2_000])
def test_deep_arguments_are_refused_or_judged_but_harm_nobody(wire: Wire, levels: int) -> None:
    nested = b'{"a":[' * levels + b"1" + b"]}" * levels
    wire.send(
        request(77, "tools/call", name="note", arguments={"text": "?"}).replace(b'"?"', nested)
    )
    answer = wire.answer()
    assert "error" in answer or answer["result"]["isError"]
    assert "result" in wire.call("look")


def test_a_result_that_is_no_text_is_an_error_and_not_the_end(wire: Wire) -> None:
    assert wire.call("undecodable")["result"]["isError"]
    assert "result" in wire.call("look")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(junk=st.binary(max_size=80).map(lambda raw: raw.replace(b"\n", b"")))
def test_any_bytes_at_all_leave_the_server_alive(wire: Wire, junk: bytes) -> None:
    number = 5000
    wire.send(junk + b"\n" + request(number, "tools/call", name="look", arguments={}))
    answer = wire.answer()
    if answer["id"] != number:
        assert "error" in answer
        answer = wire.answer()
    assert answer["id"] == number


@pytest.mark.parametrize("what", LINES)
def test_a_body_that_is_no_message_is_answered_with_an_error(
    listening: tuple[str, str], what: str
) -> None:
    line, _ = LINES[what]
    for headers in ({}, {"mcp_protocol_version": "2026-07-28", "mcp_method": "ping"}):
        status, content = http_exchange(*listening, line, **headers)
        assert 400 <= status < 500, (status, content)
        assert b"Traceback" not in content
    assert lives(*listening)


@pytest.mark.parametrize("what", CALLS)
def test_a_posted_call_that_is_none_is_an_error(listening: tuple[str, str], what: str) -> None:
    body = json.loads(request(99, "tools/call"))
    body["params"] |= CALLS[what]
    status, content = http_exchange(
        *listening, json.dumps(body).encode(), method_header="tools/call", name_header="note"
    )
    assert status < 500
    assert status >= 400 or b'"isError":true' in content or b'"error"' in content, content
    assert lives(*listening)


def test_a_body_of_nearly_16_mib_is_served(listening: tuple[str, str]) -> None:
    body = request(7, "tools/call", name="look", arguments={"text": "y" * (15 * MIB)})
    status, content = http_exchange(
        *listening, body, method_header="tools/call", name_header="look"
    )
    assert status == 200, content
    assert str(15 * MIB).encode() in content


def test_a_body_over_16_mib_is_413_declared_or_not(listening: tuple[str, str]) -> None:
    status, _ = http_exchange(*listening, b"", content_length=str(17 * MIB))
    assert status == 413
    status, _ = http_exchange(*listening, b"x" * (17 * MIB))
    # The refusal comes before the body has been sent; a client may see only the closed connection.
    assert status in (413, 0)
    chunk = b"%x\r\n%s\r\n" % (MIB, b"y" * MIB)
    status, content = http_exchange(
        *listening, chunk * 17 + b"0\r\n\r\n", content_length="", transfer_encoding="chunked"
    )
    assert status == 413, content
    assert lives(*listening)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "https://localhost.evil.example"},
        {"origin": "null"},
        {"origin": "file://"},
    ],
)
def test_a_browser_on_another_site_gets_nothing(
    listening: tuple[str, str], headers: dict[str, str]
) -> None:
    """DNS rebinding: the browser shows the attacker's name in Host or in Origin."""
    body = request(1, "tools/call", name="look", arguments={})
    status, content = http_exchange(
        *listening, body, method_header="tools/call", name_header="look", **headers
    )
    assert status in (400, 403, 421), content
    assert b"characters" not in content
    assert lives(*listening)


@pytest.mark.parametrize("path", ["/", "/mcp/../etc", "/sse", "/messages", "/docs"])
def test_there_is_nothing_but_mcp(listening: tuple[str, str], path: str) -> None:
    way, address = listening
    if way == "--socket":
        return
    connection = http.client.HTTPConnection(*address.split(":"), timeout=10)  # type: ignore[arg-type]
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_a_token_is_required_beyond_loopback_and_checked_on_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tokens = Tokens(home.state / TOKENS_FILE)
    secret = tokens.create("laptop")
    port = free_port()
    # Asked at once and only over loopback; the listener lives for this test alone.
    with home.serving("--http", f"0.0.0.0:{port}", HOSTWRIGHT_HTTP_TOKEN="e" * 40):
        address = f"127.0.0.1:{port}"
        assert lives("--http", address, authorization=f"Bearer {secret}")
        assert lives("--http", address, authorization=f"bearer {'e' * 40}")
        wrong = ["", f"Bearer {secret}x", f"Bearer {secret[:-1]}", "Bearer", "Bearer ", secret]
        wrong += [f"Basic {secret}", "Bearer \xff", f"Bearer {'e' * 39}", "Bearer '; --"]
        for shown in wrong:
            body = request(1, "tools/call", name="look", arguments={})
            status, _ = http_exchange("--http", address, body, authorization=shown)
            assert status == 401, shown
        tokens.revoke("laptop")
        assert not lives("--http", address, authorization=f"Bearer {secret}")
    tokens.close()
    local = f"127.0.0.1:{free_port()}"
    with home.serving("--http", local):
        assert lives("--http", local)
        assert not lives("--http", local, authorization="Bearer wrong"), "a wrong one is no none"
    assert secret not in home.stderr()
    assert {event.caller for event in home.events(type="call.read")} >= {"laptop", "environment"}


async def test_answers_over_tcp_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm is off on every connection that our listener accepts."""
    listener = bind_tcp("127.0.0.1", 0)
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(look, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted != 0
        writer.close()
