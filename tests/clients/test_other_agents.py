"""The real opencode and OpenClaw (2025-11-25, no elicitation): they connect, read, and are refused
what needs the owner.

The downloads are large, so these tests run in `make test-clients`.
"""

from __future__ import annotations

import re

import pytest

from .agents import Agent, OpenClaw, OpenCode
from .conftest import ENDPOINTS, resolve
from .fake_llm import ToolCall
from .harness import Room

pytestmark = pytest.mark.clients_large


@pytest.fixture(params=(OpenCode, OpenClaw))
def agent(request: pytest.FixtureRequest, room: Room) -> Agent:
    return request.param(room)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_it_connects(agent: Agent, name: str, request: pytest.FixtureRequest) -> None:
    agent.add(resolve(name, request))
    assert agent.connected() == {"hw": True}


@pytest.mark.parametrize("name", ["connect", "gateway"])
def test_it_reads_and_is_refused_what_the_owner_must_approve(
    agent: Agent, name: str, request: pytest.FixtureRequest
) -> None:
    agent.add(resolve(name, request))
    trace = agent.room.folder / "it-ran"
    act = ToolCall("shell_exec", {"command": f"touch {trace}"})
    health, refused = agent.turn([ToolCall("system_health"), act])
    assert '"uptime_seconds"' in health.text
    assert re.search(r"`hostwright approve \S+`", refused.text), refused.text
    assert not trace.exists()
