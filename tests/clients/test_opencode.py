"""The real opencode (2025-11-25, no elicitation): it connects, reads, and is refused what needs
the owner.

The download is large, so these tests run in `make test-clients`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import pytest

from .conftest import ENDPOINTS, resolve
from .fake_llm import FakeLLM, ToolCall, ToolResult
from .harness import Done, Endpoint, Room, client

pytestmark = pytest.mark.clients_large


def opencode(room: Room, *options: str, env: Mapping[str, str] | None = None) -> Done:
    return room.run([client("opencode", "opencode"), *options], env)


def add(room: Room, endpoint: Endpoint) -> None:
    options = ["mcp", "add", "hw"]
    if endpoint.url:
        options += ["--url", endpoint.url]
        for name, value in endpoint.headers.items():
            options += ["--header", f"{name}={value}"]
    else:
        for name, value in endpoint.env.items():
            options += ["--env", f"{name}={value}"]
        options += ["--", *endpoint.argv]
    opencode(room, *options).ok()


def turn(room: Room, script: Sequence[ToolCall]) -> list[ToolResult]:
    """One turn of the agent over the script; what came of each call, as the model saw it."""
    with FakeLLM(script) as llm:
        model = {"name": "fake", "tool_call": True, "limit": {"context": 200_000, "output": 8_000}}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Fake",
            "options": {"baseURL": f"{llm.url}/v1", "apiKey": "none"},
            "models": {"fake": model},
        }
        config = {
            "provider": {"fake": provider},
            "model": "fake/fake",
            "small_model": "fake/fake",
            "share": "disabled",
            "autoupdate": False,
        }
        env = {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}
        done = opencode(room, "run", "--format", "json", "go", env=env).ok()
        assert len(llm.results) == len(script), f"{llm.offered}\n{done}"
        return llm.results


def status(room: Room) -> str:
    """What `opencode mcp list` says of our server (its exit code is always 0)."""
    done = opencode(room, "mcp", "list").ok()
    found = re.search(r"[✓✗○⚠] hw (.*)", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))
    assert found, str(done)
    return found[1].strip()


@pytest.mark.parametrize("name", ENDPOINTS)
def test_list_shows_connected(room: Room, name: str, request: pytest.FixtureRequest) -> None:
    add(room, resolve(name, request))
    assert status(room) == "connected"


@pytest.mark.parametrize("name", ["connect", "gateway"])
def test_the_agent_reads_and_is_refused_what_the_owner_must_approve(
    room: Room, name: str, request: pytest.FixtureRequest
) -> None:
    add(room, resolve(name, request))
    trace = room.folder / "it-ran"
    act = ToolCall("shell_exec", {"command": f"touch {trace}"})
    health, refused = turn(room, [ToolCall("system_health"), act])
    assert json.loads(health.text)["uptime_seconds"] > 0
    assert re.search(r"`hostwright approve \S+`", refused.text), refused.text
    assert not trace.exists()
