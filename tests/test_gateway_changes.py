"""Clients hear when the offer changes; the owner sees how it is at the plain HTTP routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .daemon_harness import MODERN, SUITE, WAYS, Daemon, Installation, Way, request, text, wait_for

CHANGED = "notifications/tools/list_changed"


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_of_the_handshake_era_is_told_and_sees_the_new_tool(
    gateway: Daemon, token: str, way: Way
) -> None:
    heard = asyncio.Event()

    async def listen(message: Any) -> None:
        if getattr(message, "method", "") == CHANGED:
            heard.set()

    for server, prefix in (("", "alpha__"), ("alpha", "")):
        heard.clear()
        async with gateway.client(
            way, "legacy", token=token, server=server, messages=listen
        ) as client:
            assert client.session.server_capabilities
            assert client.session.server_capabilities.tools
            assert client.session.server_capabilities.tools.list_changed is True
            before = {tool.name for tool in await client.list_tools()}
            # Over HTTP it opens the stream for such messages in the background: what changes before
            # that is not told.
            async with asyncio.timeout(60):
                while not heard.is_set():
                    assert text(await client.call_tool(f"{prefix}grow", {})) == "grown"
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(heard.wait(), 1)
            new = {tool.name for tool in await client.list_tools()} - before
            assert new
            assert text(await client.call_tool(new.pop(), {})).startswith("alpha.grown")


def test_a_client_of_the_new_era_is_told_what_it_asked_for(gateway: Daemon) -> None:
    with gateway.wire() as wire, gateway.wire("beta") as elsewhere, gateway.wire("alpha") as one:
        for listener in (wire, elsewhere, one):
            number = listener.begin(
                "subscriptions/listen", notifications={"toolsListChanged": True}
            )
            acknowledged = listener.message()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        wire.begin("tools/call", name="alpha__grow", arguments={})
        got = [wire.message(), wire.message()]
        told = next(one for one in got if one.get("method") == CHANGED)
        assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == number
        assert one.message()["method"] == CHANGED
        # Who listens to beta does not hear of alpha: the next message is the answer to this.
        assert elsewhere.ask("tools/list")["result"]["tools"]


def test_a_client_of_the_new_era_is_told_over_http(gateway: Daemon, token: str) -> None:
    body = request(1, "subscriptions/listen", notifications={"toolsListChanged": True})
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "subscriptions/listen",
    }
    with httpx2.stream("POST", gateway.url, content=body, headers=headers, timeout=15) as events:
        assert events.status_code == 200
        lines = (line for line in events.iter_lines() if line.startswith("data:"))
        assert "acknowledged" in next(lines)
        with gateway.wire("alpha") as wire:
            wire.ask("tools/call", name="grow", arguments={})
        assert json.loads(next(lines).removeprefix("data:"))["method"] == CHANGED


def test_health_and_readiness_need_no_token(gateway: Daemon) -> None:
    answer = httpx2.get(f"{gateway.origin}/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    ready = httpx2.get(f"{gateway.origin}/readyz")
    assert ready.status_code == 200
    names = ("alpha", "beta", "gamma", "hostwright", *SUITE)
    assert ready.json() == {"ready": True, "servers": dict.fromkeys(names, "ready")}


def samples(gateway: Daemon) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = httpx2.get(f"{gateway.origin}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics_count_calls_and_show_the_servers(
    gateway: Daemon, shared_home: Installation
) -> None:
    del shared_home
    labels = (("outcome", "ok"), ("server", "beta"), ("tool", "echo"))
    before = samples(gateway).get(("hostwright_call_seconds_count", labels), 0)
    async with gateway.client() as client:
        for _ in range(3):
            await client.call_tool("beta__echo", {})
        # Names that nobody offers must not become labels without end.
        await client.call_tool("no_such_tool_1", {}, raise_on_error=False)
        bad = await client.call_tool("shell_exec", {}, raise_on_error=False)
        assert bad.is_error
    found = samples(gateway)
    assert found["hostwright_call_seconds_count", labels] == before + 3
    failed = (("outcome", "error"), ("server", "system"), ("tool", "shell_exec"))
    assert found["hostwright_call_seconds_count", failed] >= 1
    assert "no_such_tool_1" not in str(list(found))
    for server in ("alpha", "beta", "gamma", "system"):
        one = (("server", server),)
        assert found["hostwright_server_up", one] == 1
        assert found["hostwright_server_restarts_total", one] == 0
        assert found["hostwright_server_health_seconds", one] < 60
        assert found["hostwright_server_health_age_seconds", one] < 60
    wait_for(
        lambda: ("hostwright_server_memory_bytes", (("server", "system"),)) in samples(gateway)
    )
