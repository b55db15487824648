"""Broken messages on every way in, while others work: nothing breaks, and nobody is answered amiss.

For each example: whatever comes back is a valid JSON-RPC message with an id that was sent, or an
HTTP answer below 500 that gives a reason; a call behind the broken ones is answered; the tag of
one client never reaches another. For all of them together: the daemon and the server behind it are
as before, other clients' calls never failed, the daemon's log holds no traceback.

`FUZZ_EXAMPLES=20000` runs that many examples of each kind, other ones each time; without it there
are a few hundred, always the same. What once failed is kept in `KEPT` and `KEPT_HTTP`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .daemon_harness import LINUX, Daemon, Installation, wait_for
from .fuzzing import (
    LEGACY,
    MODERN,
    HttpAnswer,
    Line,
    broken,
    call,
    check_message,
    encode,
    envelope,
    exchange,
    ids_in,
    lines,
    odd_text,
    open_line,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MAX_GROWTH_BYTES = 200 << 20
MAX_MORE_DESCRIPTORS = 12


def fuzz(usual: int) -> settings:
    return settings(
        max_examples=EXAMPLES or usual,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def new_tag() -> str:
    return f"tag-{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def fuzzed_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("fuzzed"))
    home.without_suite()
    home.third_party("alpha", "--era", "modern", "--resources")
    home.third_party("beta", "--era", "legacy", "--resources")
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def fuzzed(fuzzed_home: Installation) -> Iterator[Daemon]:
    with fuzzed_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(fuzzed_home: Installation) -> str:
    return fuzzed_home.token("fuzzer")


@pytest.fixture(scope="module")
def port(fuzzed: Daemon) -> int:
    return int(fuzzed.origin.rpartition(":")[2])


class Bystanders:
    """Clients that behave, and that must not notice any of it."""

    def __init__(self, daemon: Daemon, port: int, key: str) -> None:
        self._daemon, self._port, self._key = daemon, port, key
        self._over = threading.Event()
        self.calls = 0
        self.fault: BaseException | None = None
        self._threads = [threading.Thread(target=self._live, args=(act,)) for act in self._acts()]
        for thread in self._threads:
            thread.start()

    def _acts(self) -> list[Any]:
        return [self._by_line, self._by_http]

    def _live(self, act: Any) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - shown by `check`
            self.fault = error

    def _by_line(self) -> None:
        connection, line = open_line(self._daemon.home.runtime / "connect.sock", "alpha")
        with connection:
            while not self._over.wait(0.03):
                tag = new_tag()
                line.ids.clear()
                assert tag in json.dumps(line.echo(tag)["result"])
                self.calls += 1

    def _by_http(self) -> None:
        while not self._over.wait(0.03):
            tag = new_tag()
            answer = exchange(self._port, http_call(tag, self._key))[0]
            assert answer.status == 200, answer
            assert tag in json.dumps(check_message(answer.messages()[0], [tag], tag)["result"])
            self.calls += 1

    def check(self) -> None:
        """They are still at it, and all went well."""
        before = self.calls
        wait_for(lambda: self.fault is not None or self.calls > before + 2)
        if self.fault is not None:
            raise AssertionError("a client that did nothing wrong was disturbed") from self.fault

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def bystanders(fuzzed: Daemon, port: int, key: str) -> Iterator[Bystanders]:
    some = Bystanders(fuzzed, port, key)
    try:
        yield some
    finally:
        some.end()


@pytest.fixture(scope="module")
def before(fuzzed: Daemon) -> tuple[int, int]:
    """Bytes and descriptors of the daemon before the fuzz."""
    process = psutil.Process(fuzzed.process.pid)
    return process.memory_info().rss, process.num_fds()


# -- lines -------------------------------------------------------------------------------------

KEPT = (
    b"",
    b"null",
    b"[]",
    b"[[]]",
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
    b'{"jsonrpc":"2.0","id":1e400,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"jsonrpc":"2.0","id":1,"result":{}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}',
    b"\xff\xfe\x00\x00",
    b'{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n\r\n{"jsonrpc":"2.0","id":2,"method":"ping"}',
)


def told(line: Line, sent: list[bytes]) -> None:
    """Throw lines, then call: the call is answered, with its own words or with an error.

    An error, because any line without an envelope may have begun the handshake era here.
    """
    tag = new_tag()
    for one in sent:
        line.throw(one)
    answer = line.echo(tag)
    assert "error" in answer or tag in json.dumps(answer["result"]), answer


@pytest.mark.parametrize("server", ["alpha", "beta"])
@pytest.mark.parametrize("sent", KEPT, ids=[repr(one[:40]) for one in KEPT])
def test_lines_that_once_failed(
    fuzzed: Daemon, bystanders: Bystanders, server: str, sent: bytes
) -> None:
    connection, line = open_line(fuzzed.home.runtime / "connect.sock", server)
    with connection:
        told(line, [sent])
    bystanders.check()


@fuzz(150)
@given(
    sent=st.lists(lines(), min_size=1, max_size=5), server=st.sampled_from(["alpha", "beta", "*"])
)
def test_broken_lines_on_the_daemons_socket(
    fuzzed: Daemon,
    bystanders: Bystanders,
    before: tuple[int, int],
    sent: list[bytes],
    server: str,
) -> None:
    connection, line = open_line(fuzzed.home.runtime / "connect.sock", server)
    with connection:
        if server == "*":
            for one in sent:
                line.throw(one)
            # No tool is called so here: the answer is an error, and comes all the same.
            line.echo(new_tag())
        else:
            told(line, sent)
    assert bystanders.fault is None


def test_broken_lines_through_one_connect_command(
    fuzzed: Daemon, bystanders: Bystanders, before: tuple[int, int]
) -> None:
    """One client for all of them: what is broken does not end its connection."""
    with fuzzed.wire("alpha") as wire:
        assert wire.process.stdout
        line = Line(wire.send, wire.process.stdout.readline)
        line.echo(new_tag())

        @fuzz(120)
        @given(sent=st.lists(lines(["tools/call", "ping", "tools/list"]), min_size=1, max_size=4))
        def throw(sent: list[bytes]) -> None:
            told(line, sent)

        throw()
    bystanders.check()


@fuzz(60)
@given(data=st.data())
def test_lines_in_pieces_and_ends_in_the_middle(
    fuzzed: Daemon, bystanders: Bystanders, before: tuple[int, int], data: st.DataObject
) -> None:
    tag = new_tag()
    number = data.draw(st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=8)))
    whole = encode(call(number, tag)) + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    connection, line = open_line(fuzzed.home.runtime / "connect.sock", "alpha")
    with connection:
        start = 0
        for cut in [*cuts, len(whole)]:
            connection.sendall(whole[start:cut])
            start = cut
        answer = check_message(line.read(), [number], tag)
        assert answer["id"] == number
        assert tag in json.dumps(answer["result"])
        # And gone in the middle of the next one.
        connection.sendall(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert bystanders.fault is None


def test_one_id_twice_in_flight(fuzzed: Daemon, bystanders: Bystanders) -> None:
    """Each is answered, or the second refused; and each with what was asked."""
    connection, line = open_line(fuzzed.home.runtime / "connect.sock", "alpha")
    with connection:
        for seconds in (0.3, 0.0):
            tag = new_tag()
            body = call(7, tag)
            body["params"]["arguments"]["seconds"] = seconds
            line.throw(encode(body))
        answers = [json.loads(line.read()) for _ in range(2)]
        assert [one["id"] for one in answers] == [7, 7]
        tag = new_tag()
        line.ids.append(7)
        assert tag in json.dumps(line.echo(tag)["result"])
    bystanders.check()


# -- HTTP --------------------------------------------------------------------------------------

Headers = list[tuple[str, str]]
POST = b"POST /mcp/alpha HTTP/1.1"


def http_headers(key: str, method: str, name: str | None = None) -> Headers:
    found = [
        ("Host", "127.0.0.1"),
        ("Authorization", f"Bearer {key}"),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", MODERN),
        ("Mcp-Method", method),
    ]
    return [*found, ("Mcp-Name", name)] if name else found


def http_request(
    headers: Headers,
    body: bytes,
    *,
    start: bytes = b"POST /mcp/alpha HTTP/1.1",
    length: bool = True,
) -> bytes:
    sized = [*headers, ("Content-Length", str(len(body)))] if length else headers
    lines = [f"{name}: {value}".encode("utf-8", "surrogatepass") for name, value in sized]
    return b"\r\n".join([start, *lines, b"", body])


def http_call(tag: str, key: str) -> bytes:
    """A valid call; its id is its tag."""
    return http_request(http_headers(key, "tools/call", "echo"), encode(call(tag, tag)))


def hold(answers: list[HttpAnswer], ids: list[Any], own: str = "") -> None:
    """Every answer is one that HTTP and the protocol allow."""
    for answer in answers:
        assert 200 <= answer.status < 500 or answer.status in (501, 503, 505), answer
        if answer.status >= 400:
            assert answer.body.strip(), f"no reason: {answer}"
        for raw in answer.messages():
            if answer.status < 400 or b'"jsonrpc"' in raw:
                check_message(raw, ids, own)
            else:
                assert json.loads(raw), raw


def well(port: int, key: str) -> None:
    """The next call is answered."""
    tag = new_tag()
    answer = exchange(port, http_call(tag, key))[0]
    assert tag in json.dumps(check_message(answer.messages()[0], [tag], tag)["result"]), answer


header_name = st.sampled_from(
    [
        *("MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id", "Content-Type"),
        *("Accept", "Host", "Origin", "Authorization", "Last-Event-ID", "Mcp-Param-x", "X-Y"),
    ]
)
header_value = st.one_of(
    st.sampled_from(
        [
            *(MODERN, LEGACY, "tools/call", "tools/list", "echo", "application/json", "*/*"),
            *("text/plain", "evil.example", "http://evil.example", "Bearer x", "", "  echo  "),
            *("=?base64?ZWNobw==?=", "=?base64?!!!?=", "0" * 32, "a" * 9_000, "\u00e9", "a\0b"),
            *("application/json; charset=utf-16", "TOOLS/CALL", "1", "a\tb"),
        ]
    ),
    odd_text.map(lambda text: text.replace("\r", "").replace("\n", "")),
)


@st.composite
def altered(draw: st.DrawFn, headers: Headers) -> Headers:
    """Headers of which up to three are dropped, doubled, changed or added."""
    found = list(headers)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        match draw(st.sampled_from(["drop", "double", "change", "case", "add"])):
            case "drop" if found:
                found.pop(at)
            case "double" if found:
                found.append((found[at][0], draw(st.one_of(st.just(found[at][1]), header_value))))
            case "change" if found:
                found[at] = (found[at][0], draw(header_value))
            case "case" if found:
                found[at] = (found[at][0].swapcase(), found[at][1])
            case _:
                found.append((draw(header_name), draw(header_value)))
    return found


@fuzz(160)
@given(data=st.data())
def test_broken_bodies_and_headers(
    port: int, key: str, bystanders: Bystanders, before: tuple[int, int], data: st.DataObject
) -> None:
    methods = ("tools/call", "tools/list", "initialize", "ping", "server/discover", "rpc.unknown")
    message = data.draw(broken(methods))
    body = data.draw(st.one_of(st.just(encode(message)), lines(methods)))
    shown = message if isinstance(message, dict) else {}
    method, params = shown.get("method"), shown.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    headers = http_headers(
        key,
        method if isinstance(method, str) and method.isascii() and method.isprintable() else "x",
        name if isinstance(name, str) and name.isascii() and name.isprintable() else None,
    )
    target = data.draw(st.sampled_from([b"/mcp/alpha", b"/mcp/beta", b"/mcp", b"/mcp/none"]))
    start = b"POST " + target + b" HTTP/1.1"
    ids = [number for part in body.split(b"\n") for number in ids_in(part)]
    hold(exchange(port, http_request(data.draw(altered(headers)), body, start=start)), ids)
    assert bystanders.fault is None


def framings(key: str) -> dict[str, list[bytes]]:
    """Requests whose framing is odd or wrong, in parts; none of them is a call that may run."""
    headers = http_headers(key, "tools/call", "echo")
    body = encode(call("framed", "framed"))
    chunked = [*headers, ("Transfer-Encoding", "chunked")]
    size = f"{len(body):x}".encode()
    second = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

    def head(*more: tuple[str, str], start: bytes = POST) -> bytes:
        return http_request([*headers, *more], b"", length=False, start=start)

    def in_chunks(data: bytes) -> bytes:
        return http_request(chunked, data, length=False)

    return {
        "chunks": [in_chunks(size + b"\r\n" + body + b"\r\n0\r\n\r\n")],
        "chunks with extensions": [in_chunks(size + b";a=b\r\n" + body + b"\r\n0\r\nX: y\r\n\r\n")],
        "many small chunks": [
            in_chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        ],
        "chunk size of letters": [in_chunks(b"zz\r\n" + body + b"\r\n0\r\n\r\n")],
        "chunk size negative": [in_chunks(b"-5\r\n" + body + b"\r\n0\r\n\r\n")],
        "chunk size huge": [in_chunks(b"f" * 20 + b"\r\n" + body)],
        "chunk without end": [in_chunks(size + b"\r\n" + body + b"X")],
        "chunks that stop": [in_chunks(size + b"\r\n" + body[:20])],
        "both lengths": [
            http_request(
                [*chunked, ("Content-Length", "5")],
                b"0\r\n\r\n" + second,
                length=False,
            )
        ],
        "two lengths": [head(("Content-Length", "3"), ("Content-Length", "4")) + b"{}{}"],
        "length of letters": [head(("Content-Length", "ten")) + body],
        "length negative": [head(("Content-Length", "-1")) + body],
        "length too large": [head(("Content-Length", str(10**12))) + body],
        "length beyond numbers": [head(("Content-Length", "9" * 40)) + body],
        "length short": [head(("Content-Length", "10")) + body],
        "length long": [head(("Content-Length", str(len(body) + 50))) + body],
        "no length": [head() + body],
        "slow body": [http_request(headers, body)[:at] for at in (-60,)]
        + [body[-60:-30], body[-30:]],
        "slow head": [http_request(headers, body)[:40], http_request(headers, body)[40:]],
        "expects to go on": [http_request([*headers, ("Expect", "100-continue")], body)],
        "unknown encoding": [
            http_request([*headers, ("Transfer-Encoding", "gzip, chunked")], body, length=False)
        ],
        "compressed": [http_request([*headers, ("Content-Encoding", "gzip")], body)],
        "upgrade": [http_request([*headers, ("Connection", "Upgrade"), ("Upgrade", "h2c")], body)],
        "no version": [head(start=b"POST /mcp/alpha")],
        "old version": [http_request(headers, body, start=b"POST /mcp/alpha HTTP/0.9")],
        "version two": [http_request(headers, body, start=b"POST /mcp/alpha HTTP/2.0")],
        "odd method": [http_request(headers, body, start=b"P\0ST /mcp/alpha HTTP/1.1")],
        "long method": [http_request(headers, body, start=b"X" * 9_000 + b" / HTTP/1.1")],
        "long target": [
            http_request(headers, body, start=b"POST /" + b"a" * 90_000 + b" HTTP/1.1")
        ],
        "odd target": [http_request(headers, body, start=b"POST /mcp/%00%ff/../x HTTP/1.1")],
        "whole target": [http_request(headers, body, start=b"POST http://x/mcp/alpha HTTP/1.1")],
        "star": [http_request(headers, body, start=b"OPTIONS * HTTP/1.1")],
        "tunnel": [http_request(headers, body, start=b"CONNECT evil.example:443 HTTP/1.1")],
        "header without colon": [b"POST /mcp/alpha HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n"],
        "header folded": [b"POST /mcp/alpha HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n"],
        "header with NUL": [b"POST /mcp/alpha HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n"],
        "header of a megabyte": [head(("X", "a" * (1 << 20))) + body],
        "thousand headers": [head(*((f"X-{n}", "y") for n in range(1_000))) + body],
        "bare newlines": [http_request(headers, body).replace(b"\r\n", b"\n")],
        "only newlines": [b"\r\n\r\n\r\n"],
        "another protocol": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)],
        "http two": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(32)],
        "nothing": [b""],
        "half a line": [b"POST /mcp"],
    }


# Where the framing is right, so is the answer.
FINE = ("chunks", "chunks with extensions", "many small chunks", "slow body", "slow head")


@pytest.mark.parametrize("kind", framings(""))
def test_odd_framing(port: int, key: str, bystanders: Bystanders, kind: str) -> None:
    fine = kind in FINE
    answers = (
        exchange(port, *framings(key)[kind])
        if fine
        else exchange(port, *framings(key)[kind], answers=2, patience=0.3)
    )
    hold(answers, ["framed"])
    if fine:
        assert [answer.status for answer in answers] == [200]
        assert "framed" in answers[0].body.decode()
    if kind == "both lengths":
        # What one reader takes for a second request must not be answered as one.
        assert len(answers) <= 1
    well(port, key)
    bystanders.check()


def test_requests_in_a_row_on_one_connection(port: int, key: str, bystanders: Bystanders) -> None:
    """Pipelined: answered in order, a refused one in between disturbs no other."""
    tags = [new_tag() for _ in range(6)]
    requests = [http_call(tag, key) for tag in tags]
    requests[2] = http_request(http_headers(key, "tools/call", "other"), encode(call("x", tags[2])))
    answers = exchange(port, b"".join(requests), answers=6)
    for number, (tag, answer) in enumerate(zip(tags, answers, strict=False)):
        if number == 2:
            assert answer.status == 400
            if answer.closed:
                break
            continue
        assert answer.status == 200
        assert tag in json.dumps(check_message(answer.messages()[0], [tag], tag)["result"])
    else:
        assert len(answers) == 6
    bystanders.check()


def test_connections_that_say_nothing_hold_up_nobody(
    fuzzed: Daemon, port: int, key: str, bystanders: Bystanders
) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(60):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            idle.sendall([b"", b"POST /mcp", http_call(new_tag(), key)[:-5]][number % 3])
        for _ in range(60):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(fuzzed.home.runtime / "connect.sock"))
        started = time.monotonic()
        well(port, key)
        assert time.monotonic() - started < 20
        bystanders.check()


@fuzz(40)
@given(data=st.data())
def test_broken_messages_in_a_session_of_the_handshake_era(
    port: int, key: str, bystanders: Bystanders, before: tuple[int, int], data: st.DataObject
) -> None:
    opening = {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "fuzz", "version": "1"},
        },
    }
    plain = http_headers(key, "")[:4]
    opened = exchange(port, http_request(plain, encode(opening)))[0]
    assert opened.status == 200, opened
    session = [*plain, ("MCP-Protocol-Version", LEGACY)]
    if found := opened.headers.get("mcp-session-id"):
        session.append(("Mcp-Session-Id", found))
    for _ in range(data.draw(st.integers(1, 3))):
        body = data.draw(lines(["tools/call", "tools/list", "ping", "logging/setLevel"]))
        ids = [number for part in body.split(b"\n") for number in ids_in(part)]
        hold(exchange(port, http_request(data.draw(altered(session)), body)), ids)
    tag = new_tag()
    body = call(tag, tag)
    del body["params"]["_meta"]
    ours = [one for one in session if one[0] != "Mcp-Session-Id" or found]
    answer = exchange(port, http_request(ours, encode(body)))[0]
    assert tag in json.dumps(check_message(answer.messages()[0], [tag], tag)["result"]), answer
    closing = http_request(ours, b"", start=b"DELETE /mcp/alpha HTTP/1.1")
    assert exchange(port, closing)[0].status in (200, 202, 204, 405)
    assert bystanders.fault is None


def test_afterwards_everything_is_as_before(
    fuzzed: Daemon, key: str, port: int, bystanders: Bystanders, before: tuple[int, int]
) -> None:
    well(port, key)
    bystanders.check()
    for row in fuzzed.status()["servers"]:
        if row["name"] in ("alpha", "beta"):
            assert row["state"] == "ready", row
            assert row["restarts"] == 0, row
    process = psutil.Process(fuzzed.process.pid)
    assert process.memory_info().rss < before[0] + MAX_GROWTH_BYTES
    if LINUX:
        wait_for(
            lambda: process.num_fds() <= before[1] + MAX_MORE_DESCRIPTORS,
            lambda: f"{before[1]} descriptors before, {process.num_fds()} now",
        )


def test_the_log_holds_no_traceback(fuzzed: Daemon, port: int, key: str) -> None:
    body = encode(call("gone", "gone"))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(http_request(http_headers(key, "tools/call", "echo"), body)[:-10])
    well(port, key)
    said = fuzzed.said()
    assert "Traceback" not in said, said[said.find("Traceback") :][:3_000]


def test_a_client_that_accepts_nothing_of_ours_is_told_why(port: int, key: str) -> None:
    headers = [one for one in http_headers(key, "tools/list") if one[0] != "Accept"]
    tools = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": envelope()}}
    body = encode(tools)
    answer = exchange(port, http_request([*headers, ("Accept", "text/html")], body))[0]
    assert answer.status == 406
    assert answer.body.strip()


def test_the_reader_itself_tells_right_from_wrong() -> None:
    tag = new_tag()
    right = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tag": tag}}).encode()
    assert check_message(right, [1], tag)
    for ids, own in (([2], tag), (["1"], tag), ([True], tag), ([1], new_tag())):
        with pytest.raises(AssertionError):
            check_message(right, ids, own)
    for wrong in (
        b"[]",
        b"{}",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":null,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":" "}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}',
    ):
        with pytest.raises(AssertionError):
            check_message(wrong, [1], tag)
