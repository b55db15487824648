"""The real OpenClaw (2025-11-25, no elicitation): it probes, reads, and is refused what needs the
owner.

The download is large, so these tests run in `make test-clients`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from .conftest import ENDPOINTS, resolve
from .fake_llm import FakeLLM, ToolCall, ToolResult
from .harness import Done, Endpoint, Room, client

pytestmark = pytest.mark.clients_large


def openclaw(room: Room, *options: str) -> Done:
    return room.run([client("openclaw", "openclaw"), *options], timeout=120)


def add(room: Room, endpoint: Endpoint) -> None:
    """`openclaw mcp add`, which connects before it saves."""
    options = ["mcp", "add", "hw"]
    if endpoint.url:
        # Without the transport OpenClaw takes a URL for the old SSE one.
        options += ["--url", endpoint.url, "--transport", "streamable-http"]
        for name, value in endpoint.headers.items():
            options += ["--header", f"{name}={value}"]
    else:
        command, *arguments = endpoint.argv
        options += ["--command", command]
        for argument in arguments:
            options += ["--arg", argument]
        for name, value in endpoint.env.items():
            options += ["--env", f"{name}={value}"]
    openclaw(room, *options).ok()


def turn(room: Room, script: Sequence[ToolCall]) -> list[ToolResult]:
    """One turn of the agent over the script; what came of each call, as the model saw it."""
    with FakeLLM(script) as llm:
        file = room.home / ".openclaw" / "openclaw.json"
        config = json.loads(file.read_text())
        model = {"id": "fake", "name": "fake", "contextWindow": 200_000, "maxTokens": 8_000}
        provider = {
            "baseUrl": f"{llm.url}/v1",
            "apiKey": "none",
            "api": "openai-completions",
            "models": [model],
        }
        config["models"] = {"mode": "replace", "providers": {"fake": provider}}
        config["agents"] = {"defaults": {"model": {"primary": "fake/fake"}}}
        # Tool search would hide the tools behind one that looks them up.
        config["tools"] = {"toolSearch": False}
        file.write_text(json.dumps(config))
        options = ["--local", "--session-id", "test", "--message", "go", "--json"]
        done = openclaw(room, "agent", *options).ok()
        assert len(llm.results) == len(script), f"{llm.offered}\n{done}"
        return llm.results


@pytest.mark.parametrize("name", ENDPOINTS)
def test_probe_connects_and_lists_the_tools(
    room: Room, name: str, request: pytest.FixtureRequest
) -> None:
    add(room, resolve(name, request))
    probe = openclaw(room, "mcp", "probe", "--json").ok().json()
    assert probe["diagnostics"] == []
    assert any(tool.endswith("system_health") for tool in probe["tools"])


@pytest.mark.parametrize("name", ["connect", "gateway"])
def test_the_agent_reads_and_is_refused_what_the_owner_must_approve(
    room: Room, name: str, request: pytest.FixtureRequest
) -> None:
    add(room, resolve(name, request))
    trace = room.folder / "it-ran"
    act = ToolCall("shell_exec", {"command": f"touch {trace}"})
    health, refused = turn(room, [ToolCall("system_health"), act])
    assert '"uptime_seconds"' in health.text
    assert re.search(r"`hostwright approve \S+`", refused.text), refused.text
    assert not trace.exists()
