"""`hostwright install CLIENT`: what it writes is judged by the client itself."""

from __future__ import annotations

import sys

import pytest

from .agents import Agent, ClaudeCode, OpenClaw, OpenCode
from .conftest import Daemon
from .harness import Done, Endpoint, Room, program

# Somebody else's server, which must stay as it is.
FOREIGN = """
from fastmcp import FastMCP
app = FastMCP("foreign")
app.tool(lambda: "hello", name="hello", description="Says hello.")
app.run(show_banner=False)
"""

CLIENTS = {
    "claude-code": pytest.param(ClaudeCode, marks=pytest.mark.clients),
    "opencode": pytest.param(OpenCode, marks=pytest.mark.clients_large),
    "openclaw": pytest.param(OpenClaw, marks=pytest.mark.clients_large),
}


@pytest.fixture(params=CLIENTS.values(), ids=list(CLIENTS))
def agent(request: pytest.FixtureRequest, room: Room, daemon: Daemon) -> Agent:
    """The client of a user whose supervisor runs: same folders, but a home of its own."""
    return request.param(room, daemon.room.marks)


def install(agent: Agent, *options: str) -> Done:
    argv = [program("hostwright"), "install", agent.folder, *options]
    return agent.room.run(argv, agent.env).ok()


@pytest.mark.parametrize("transport", [[], ["--http"]], ids=["stdio", "http"])
def test_the_client_connects_and_keeps_what_it_had(agent: Agent, transport: list[str]) -> None:
    agent.add(Endpoint(argv=(sys.executable, "-c", FOREIGN)), "foreign")
    install(agent, *transport)
    found = agent.connected()
    assert len(found) > 1, found
    assert all(found.values()), found

    install(agent, *transport)
    assert agent.connected() == found

    install(agent, "--remove")
    assert agent.connected() == {"foreign": True}
