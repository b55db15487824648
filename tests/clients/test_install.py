"""`hostwright install CLIENT`: what it writes is judged by the client itself."""

from __future__ import annotations

import pytest

from .agents import Agent, ClaudeCode, OpenClaw, OpenCode
from .conftest import Daemon
from .harness import Done, Endpoint, Room, program

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


def test_the_client_connects_and_keeps_what_it_had(agent: Agent, daemon: Daemon) -> None:
    agent.add(Endpoint(url=daemon.url, token=daemon.token(f"own-{agent.folder}")), "own")
    install(agent)
    found = agent.connected()
    assert len(found) > 1, found
    assert all(found.values()), found

    install(agent)
    assert agent.connected() == found

    install(agent, "--remove")
    assert agent.connected() == {"own": True}
