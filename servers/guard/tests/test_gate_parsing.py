"""What a sandbox sends to the gate, whatever it is: understood in one way, or refused."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from hostwright_guard.sandbox.gate.answers import GATE_ADDRESS, answer
from hostwright_guard.sandbox.gate.hello import BadHelloError, MoreNeeded, server_name
from hostwright_guard.sandbox.gate.names import (
    NotAName,
    canonical_host,
    is_public,
    parse_target,
)
from hostwright_guard.sandbox.gate.requests import parse
from hostwright_guard.sandbox.gate.rules import Allowance, Credential, RefusedError, Rules
from hostwright_kit.errors import HostError


def real_hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = real_hello("www.example.com")


def test_the_name_in_a_real_hello_is_found() -> None:
    assert server_name(HELLO) == "www.example.com"


@given(cut=st.integers(0, len(HELLO) - 1))
def test_an_incomplete_hello_waits(cut: int) -> None:
    with pytest.raises(MoreNeeded):
        server_name(HELLO[:cut])


@given(cuts=st.lists(st.integers(1, len(HELLO) - 6), max_size=12))
def test_the_name_is_found_over_any_number_of_records(cuts: list[int]) -> None:
    body = HELLO[5:]
    places = [0, *sorted(set(cuts)), len(body)]
    records = b"".join(
        b"\x16\x03\x01" + struct.pack(">H", end - start) + body[start:end]
        for start, end in itertools.pairwise(places)
        if end > start
    )
    assert server_name(records) == "www.example.com"


@given(data=st.binary(max_size=400) | st.builds(bytes.__add__, st.just(HELLO[:60]), st.binary()))
def test_noise_is_refused_or_waits_and_never_anything_else(data: bytes) -> None:
    try:
        name = server_name(data)
    except (BadHelloError, MoreNeeded):
        return
    assert name == "www.example.com" or name.isascii()


@given(at=st.integers(0, len(HELLO) - 1), value=st.integers(0, 255))
def test_a_changed_byte_changes_no_more_than_what_it_says(at: int, value: int) -> None:
    data = bytearray(HELLO)
    data[at] = value
    with contextlib.suppress(BadHelloError, MoreNeeded):
        assert server_name(bytes(data)).isascii()


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "1.2.3", "0x7f.1"),
        *("::1", "[::1]", "localhost", "a", "", ".", "a..b", "-a.b", "a-.b", "a.b:80", "a@b.c"),
        *("a.b/c", "a.b?c", "a.b#c", "a b.c", "a.b\r\nx", "a.b\0.c", "*.b.c", "a.123", "a.0x1f"),
        *("a%2eb.c", "x" * 64 + ".c", "a." * 130 + "c"),
    ],
)
def test_what_is_not_a_name_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(NotAName):
        canonical_host(text)


def test_a_name_has_one_spelling() -> None:
    assert canonical_host("WWW.Example.COM.") == "www.example.com"
    assert canonical_host("bücher.example") == "xn--bcher-kva.example"
    assert canonical_host("www。example。com") == "www.example.com"


@given(text=st.text(max_size=40))
def test_a_canonical_name_stays_as_it_is_and_is_no_address(text: str) -> None:
    try:
        name = canonical_host(text)
    except NotAName:
        return
    assert canonical_host(name) == name
    with pytest.raises(OSError):
        socket.inet_aton(name)


def test_targets_admit_what_they_say() -> None:
    assert parse_target("a.example").admits("a.example", 443)
    assert parse_target("a.example").admits("a.example", 80)
    assert not parse_target("a.example").admits("b.a.example", 443)
    assert not parse_target("a.example:8443").admits("a.example", 443)
    wild = parse_target("*.a.example")
    assert wild.admits("b.a.example", 443)
    assert not wild.admits("a.example", 443)
    assert not wild.admits("ba.example", 443)
    assert not wild.admits(".a.example", 443)
    assert wild.covers(parse_target("b.a.example:443"))
    assert wild.covers(parse_target("*.b.a.example"))
    assert not wild.covers(parse_target("a.example"))
    for text in ("a.example:0", "a.example:99999", "a.example:x", "*", "*.", "*.127.0.0.1", "x"):
        with pytest.raises(HostError):
            parse_target(text)


PRIVATE = (
    *("0.0.0.0", "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1"),  # noqa: S104
    "100.64.0.1",
    *("169.254.169.254", "100.100.100.200", "168.63.129.16", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
    *("fc00::1", "fec0::1", "ff02::1", "fd00:ec2::254", "::ffff:10.0.0.1", "::ffff:7f00:1"),
    *("::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1"),
    *("2001:0:0:0:0:0:f5ff:fffe", "2001:db8::1", "2a00::5efe:10.0.0.1", "not an address", ""),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_no_spelling_of_a_private_address_is_public(address: str) -> None:
    assert not is_public(address)


@given(low=st.integers(0, 2**32 - 1))
def test_an_address_that_carries_a_private_one_is_private(low: int) -> None:
    inner = ipaddress.IPv4Address(low)
    for high in ("::ffff:0:0/96", "64:ff9b::/96"):
        carried = ipaddress.IPv6Network(high)[low]
        if not is_public(str(inner)):
            assert not is_public(str(carried))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address) or address.startswith("::ffff")


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">xHH", kind, 1)


def test_an_allowed_name_has_the_gates_address_and_no_other_exists() -> None:
    given_ = answer(question("a.example"), lambda name: name == "a.example")
    assert given_.allowed and given_.message is not None
    assert given_.message[-4:] == socket.inet_aton(GATE_ADDRESS)
    refused = answer(question("b.example"), lambda name: name == "a.example")
    assert refused.message is not None and refused.message[3] & 0xF == 3
    six = answer(question("a.example", 28), lambda name: name == "a.example")
    assert six.message is not None and six.message[6:8] == b"\0\0" and six.message[3] & 0xF == 0


@given(data=st.binary(max_size=600))
def test_a_question_of_any_bytes_is_answered_or_dropped(data: bytes) -> None:
    given_ = answer(data, lambda _: False)
    assert not given_.allowed
    assert given_.message is None or given_.message[:2] == data[:2]


def head(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"


def test_a_request_is_written_anew() -> None:
    request = parse(
        head(
            "POST /x?y HTTP/1.1\nHost: A.example\nX-One: 1\nAuthorization: mine\n"
            "Accept-Encoding: gzip\nConnection: keep-alive\nContent-Length: 4\n"
            "Proxy-Authorization: p"
        )
    )
    text = request.forwarded(
        "a.example", Credential("Authorization", SecretStr("s"), 443, "Bearer ")
    )
    assert text == head(
        "POST /x?y HTTP/1.1\nHost: a.example\nX-One: 1\nAuthorization: Bearer s\n"
        "Accept-Encoding: identity\nContent-Length: 4\nConnection: close"
    )


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\nHost: a.example\nHost: b.example",
        "GET / HTTP/1.1\nHost: a.example:8080",
        "GET http://b.example/ HTTP/1.1\nHost: a.example",
        "CONNECT b.example:443 HTTP/1.1\nHost: a.example",
        "TRACE / HTTP/1.1\nHost: a.example",
        "POST / HTTP/1.1\nHost: a.example\nContent-Length: 1\nContent-Length: 2",
        "POST / HTTP/1.1\nHost: a.example\nContent-Length: 1\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: a.example\nTransfer-Encoding: gzip, chunked",
        "POST / HTTP/1.1\nHost: a.example\nTransfer-Encoding: chunked\nTransfer-Encoding: x",
        "POST / HTTP/1.1\nHost: a.example\nContent-Length: +1",
        "GET / HTTP/1.1\nHost: a.example\nConnection: Upgrade\nUpgrade: h2c",
        "GET / HTTP/1.1\nHost : a.example",
        "PRI * HTTP/2.0",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse(head(text))


@given(data=st.binary(max_size=300))
def test_noise_is_no_request(data: bytes) -> None:
    try:
        request = parse(b"GET / HTTP/1.1\r\nHost: a.example\r\n" + data + b"\r\n\r\n")
    except RefusedError:
        return
    text = request.forwarded("a.example", None)
    # One head, and nothing in it that a parser could take for the end of it.
    assert text.count(b"\r\n\r\n") == 1 and text.endswith(b"\r\n\r\n")
    assert text.count(b"\r\nHost:") == 1


async def test_the_budget_is_never_overdrawn() -> None:
    allowance = Allowance(requests=1, bytes=10)
    await allowance.take_request()
    with pytest.raises(RefusedError):
        await allowance.take_request()
    await allowance.take_bytes(10)
    with pytest.raises(RefusedError):
        await allowance.take_bytes(1)


def test_what_was_closed_admits_nothing() -> None:
    rules = Rules((parse_target("a.example"),), Allowance(9, 9))
    assert rules.admit("A.example", 443) == "a.example"
    with pytest.raises(RefusedError, match="not among"):
        rules.admit("b.example", 443)
    rules.closed = "revoked"
    with pytest.raises(RefusedError, match="revoked"):
        rules.admit("a.example", 443)
