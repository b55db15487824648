"""Which host names and origins come in, and which headers must repeat what."""

from __future__ import annotations

from typing import Any

import pytest

from hostwright.gateway.codec import RpcError
from hostwright.gateway.envelope import decoded
from hostwright.gateway.hosts import Hosts
from hostwright.gateway.mirrored import check, mirrored


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:1", "", None),
        ("LOCALHOST", "http://127.0.0.1:9", None),
        ("127.0.0.1:18790", "http://localhost", None),
        ("[::1]:1", "https://[::1]:2", None),
        ("", "", 421),
        ("127.0.0.1.evil.example", "", 421),
        ("localhost.evil.example", "", 421),
        ("evil.example:1", "http://evil.example:1", 421),
        ("localhost", "null", 403),
        ("localhost", "http://evil.example", 403),
        ("localhost", "http://localhost.evil.example", 403),
        ("localhost", "http://[", 403),
        ("localhost", "file://", 403),
    ],
)
def test_on_loopback_only_its_own_names(host: str, origin: str, status: int | None) -> None:
    refused = Hosts("127.0.0.1", ()).refusal(host, origin)
    assert (refused[0] if refused else None) == status


def test_configured_names_come_in_and_pages_only_from_there() -> None:
    hosts = Hosts("10.0.0.5", ("gate.example", "*.lab"))
    assert hosts.refusal("gate.example:80", "") is None
    assert hosts.refusal("a.lab", "http://a.lab") is None
    assert hosts.refusal("10.0.0.5:18790", "http://10.0.0.5:18790") is None
    for host, origin in (("other", ""), ("gate.example", "http://other")):
        assert hosts.refusal(host, origin) is not None
    # Elsewhere a browser's word is all there is, and a token is required.
    assert Hosts("10.0.0.5", ()).refusal("anything", "") is None


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {
            "type": "object",
            "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}},
        },
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
    },
}


@pytest.mark.parametrize(
    ("arguments", "headers", "fine"),
    [
        ({}, {}, True),
        ({"region": "eu"}, {"mcp-param-region": "eu"}, True),
        ({"region": "ü"}, {"mcp-param-region": "=?base64?w7w=?="}, True),
        ({"region": "ü"}, {"mcp-param-region": "=?base64?w7x=?="}, False),
        ({"region": "eu"}, {"mcp-param-region": "us"}, False),
        ({"region": "eu"}, {}, False),
        ({}, {"mcp-param-region": "eu"}, False),
        ({"region": None}, {}, True),
        ({"deep": {"count": 42}}, {"mcp-param-count": "42.0"}, True),
        ({"deep": {"count": 42}}, {"mcp-param-count": "43"}, False),
        ({"deep": 7}, {}, True),
        ({"dry": True}, {"mcp-param-dry": "true"}, True),
        ({"dry": True}, {"mcp-param-dry": "True"}, False),
    ],
)
def test_headers_repeat_their_arguments(
    arguments: dict[str, Any], headers: dict[str, str], fine: bool
) -> None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        check(mirrored(SCHEMA), arguments, sent)
    except RpcError as error:
        assert error.code == -32020
        assert not fine
    else:
        assert fine
    if headers:
        with pytest.raises(RpcError):
            check(mirrored(SCHEMA), arguments, sent + sent)


@pytest.mark.parametrize(
    "schema",
    [
        {"x-mcp-header": "Root"},
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "not a token"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 7}}},
        {"items": {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}},
        {
            "properties": {
                "a": {"type": "string", "x-mcp-header": "A"},
                "b": {"type": "string", "x-mcp-header": "a"},
            }
        },
        None,
        [],
    ],
)
def test_a_schema_that_annotates_wrongly_mirrors_nothing(schema: Any) -> None:
    assert mirrored(schema) == ()


def test_names_come_through_headers_whole() -> None:
    assert decoded("=?base64?w6k=?=") == "é"
    assert decoded("plain") == "plain"
    assert decoded(None) is None
    assert decoded("=?base64?!?=") is None
    assert decoded("=?base64?/w==?=") is None
