"""Malformed, oversized and hostile messages on every transport: an answer, and no harm done."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from .daemon_harness import ERAS, MODERN, Daemon, Era, failure, request, text

MEBIBYTE = 1 << 20
NOT_JSON = (
    b"hello",
    b"{",
    b'{"jsonrpc":"2.0","id":1,',
    b"\xff\xfe\x00",
    b'"just text"',
    b"null",
    b"[]",
    b"[1,2,3]",
    b"[" * 100_000,
    b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":"text"}',
    b'{"jsonrpc":"2.0","id":1}',
)


def still_well(gateway: Daemon) -> None:
    with gateway.wire("system") as wire:
        answer = wire.ask("tools/call", name="system_health", arguments={})
        assert answer["result"]["structuredContent"]


def test_what_is_no_message_is_refused_on_stdio_and_the_connection_goes_on(
    gateway: Daemon,
) -> None:
    with gateway.wire() as wire:
        wire.ask("tools/list")
        for line in NOT_JSON:
            wire.send(line + b"\n")
            answer = wire.answer()
            assert answer["error"]["code"] in (-32700, -32600, -32602), (line[:60], answer)
        wire.send(b"\n\r\n   \n")
        assert wire.ask("tools/list")["result"]["tools"]


@pytest.mark.parametrize("first", [b"hello\n", b"\n", b'{"connect": 7}\n', b"[" * 100_000 + b"\n"])
def test_what_is_no_connect_request_is_refused(gateway: Daemon, first: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(gateway.home.runtime / "connect.sock"))
        raw.sendall(first)
        answer = json.loads(raw.makefile().readline())
        assert answer["connected"] is False
        assert answer["error"]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(gateway.home.runtime / "connect.sock"))
        raw.sendall(b'{"connect": "no')
    still_well(gateway)


@pytest.mark.parametrize("version", [None, "2025-11-25", MODERN, "1999-01-01", "x"])
def test_what_is_no_message_is_refused_over_http(
    gateway: Daemon, token: str, version: str | None
) -> None:
    headers = {} if version is None else {"MCP_Protocol_Version": version}
    for body in (*NOT_JSON, b""):
        answer = gateway.post(body, token=token, **headers)
        assert 400 <= answer.status_code < 500, (body[:60], answer.status_code, answer.text)
    still_well(gateway)


def test_headers_that_contradict_the_message_are_refused(gateway: Daemon, token: str) -> None:
    body = request(1, "tools/call", name="system_health", arguments={})
    right = {"Mcp_Method": "tools/call", "Mcp_Name": "system_health"}
    wrong: list[dict[str, str]] = [
        {**right, "Mcp_Name": "shell_exec"},
        {**right, "Mcp_Method": "tools/list"},
        {"Mcp_Method": "tools/call"},
        {},
    ]
    for headers in wrong:
        answer = gateway.post(body, token=token, MCP_Protocol_Version=MODERN, **headers)
        assert answer.status_code == 400, (headers, answer.text)
        assert answer.json()["error"]["code"] == -32020
    fine = gateway.post(body, token=token, MCP_Protocol_Version=MODERN, **right)
    assert fine.status_code == 200


def test_other_methods_and_types_are_refused(gateway: Daemon, token: str) -> None:
    sent = {"Authorization": f"Bearer {token}"}
    for method in ("PUT", "PATCH", "TRACE"):
        assert httpx2.request(method, gateway.url, headers=sent).status_code == 405
    plain = gateway.post(b"{}", token=token, Content_Type="text/plain")
    assert 400 <= plain.status_code < 500
    assert httpx2.get(gateway.url, headers=sent).status_code in (400, 406)
    unknown = {**sent, "Mcp-Session-Id": "0" * 32}
    assert httpx2.delete(gateway.url, headers=unknown).status_code in (400, 404)


def test_a_body_beyond_the_bound_is_refused_unread(gateway: Daemon, token: str) -> None:
    answer = gateway.post(b" " * (16 * MEBIBYTE + 1), token=token)
    assert answer.status_code == 413
    # Before who it is was asked, too.
    assert gateway.post(b" " * (16 * MEBIBYTE + 1)).status_code == 413

    def chunks() -> Any:
        for _ in range(20):
            yield b" " * MEBIBYTE

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        status = httpx2.post(gateway.url, content=chunks(), headers=headers).status_code
    except httpx2.TransportError:
        status = 0
    assert status != 200
    still_well(gateway)


def test_a_line_beyond_the_bound_is_refused_on_stdio_and_the_connection_goes_on(
    gateway: Daemon,
) -> None:
    with gateway.wire() as wire:
        wire.ask("tools/list")
        wire.send(b'{"jsonrpc":"2.0","id":9,"x":"' + b"y" * (17 * MEBIBYTE) + b'"}\n')
        answer = wire.answer()
        assert answer["error"]["code"] == -32600
        assert "bytes" in answer["error"]["message"]
        assert wire.ask("tools/list")["result"]["tools"]


def test_a_request_that_only_just_fits_is_answered(gateway: Daemon) -> None:
    """Within the bound at the edge; with our envelope around it it may not fit inside."""
    with gateway.wire() as wire:
        for spare in (1_000, 250, 0):
            bare = len(request(1, "tools/call", name="alpha__echo", arguments={"x": ""}))
            size = 16 * MEBIBYTE - bare - spare
            answer = wire.ask("tools/call", name="alpha__echo", arguments={"x": "y" * size})
            if "error" in answer:
                assert "bytes" in answer["error"]["message"]
            elif answer["result"].get("isError"):
                code = answer["result"]["_meta"]["dev.hostwright/error"]["code"]
                assert code in ("request_too_large", "result_too_large")
    still_well(gateway)


@pytest.mark.parametrize("era", ERAS)
async def test_servers_that_answer_wrongly_are_errors_of_that_call(
    gateway: Daemon, era: Era
) -> None:
    async with gateway.client("socket", era) as client:
        for prefix in ("alpha__", "beta__"):
            for name in ("wrong_error", "no_result"):
                with pytest.raises(MCPError, match=r"odd|neither"):
                    await client.call_tool(f"{prefix}{name}", {})
            shape = await client.call_tool(f"{prefix}bad_shape", {}, raise_on_error=False)
            assert failure(shape)["code"] == "bad_answer"
            assert text(await client.call_tool(f"{prefix}garbage", {})) == "after garbage"
            for arguments in ({}, {"id_last": True}):
                result = await client.call_tool(f"{prefix}endless", arguments, raise_on_error=False)
                assert failure(result)["code"] == "result_too_large"
            assert text(await client.call_tool(f"{prefix}echo", {})).endswith("echo {}")
    assert gateway.server("alpha")["restarts"] == gateway.server("beta")["restarts"] == 0


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_asks_behind_the_gateway_is_told_no_and_goes_on(
    gateway: Daemon, era: Era
) -> None:
    async with gateway.client("socket", era) as client:
        assert text(await client.call_tool("beta__ask", {})) == "asked"


def test_bad_arguments_are_named_before_anything_is_done(gateway: Daemon) -> None:
    with gateway.wire("system") as wire:
        wrong: list[dict[str, Any]] = [
            {"argv": "not a list"},
            {"argv": []},
            {"argv": ["printf"], "timeout_seconds": 1e9},
            {"argv": ["printf"], "nonsense": True},
            {"argv": [{"a": 1}]},
            {"argv": ["x\0y"]},
            {"argv": ["printf"], "command": "both"},
            {},
        ]
        for arguments in wrong:
            result = wire.ask("tools/call", name="shell_exec", arguments=arguments)["result"]
            assert result["isError"] is True, arguments
            error = result["_meta"]["dev.hostwright/error"]
            assert error["code"]
            assert error["message"]
            assert error["fix"], arguments
        shapeless: list[dict[str, Any]] = [
            {"name": 7},
            {"arguments": {}},
            {"name": "x", "arguments": [1]},
        ]
        for params in shapeless:
            answer = wire.ask("tools/call", **params)
            assert answer["error"]["code"] == -32602, params


@pytest.mark.parametrize(
    "meta",
    [
        {"io.modelcontextprotocol/protocolVersion": "1999-01-01"},
        {"io.modelcontextprotocol/protocolVersion": 7},
        {"io.modelcontextprotocol/clientCapabilities": "all"},
        {"progressToken": {"a": 1}},
    ],
)
def test_a_bad_envelope_is_refused(gateway: Daemon, meta: dict[str, Any]) -> None:
    with gateway.wire() as wire:
        wire.ask("tools/list")
        answer = wire.ask("tools/list", meta)
        assert answer["error"]["code"] < 0
        assert wire.ask("tools/list")["result"]["tools"]
