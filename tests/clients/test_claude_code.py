"""The real Claude Code: it connects, calls tools, and meets the guard.

Its model is the scripted one of `fake_llm.py`; everything else is what a user runs: `claude mcp
add`, `claude mcp list`, and `claude -p` for one whole turn with tool calls.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from .agents import ClaudeCode
from .conftest import Daemon, resolve
from .fake_llm import ToolCall
from .harness import Endpoint, Room, program
from .terminal import at_terminal

pytestmark = pytest.mark.clients

ERAS = {"default": {}, "legacy": {"MCP_PROTOCOL_NEGOTIATION": "legacy"}}
OPENS_WITH = {"default": "server/discover", "legacy": "initialize"}
PIN = "correct horse"


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def claude(room: Room, era: str) -> ClaudeCode:
    """Claude Code, in each era."""
    return ClaudeCode(room, ERAS[era])


def answer_questions(room: Room, action: str) -> None:
    """Let the user's own hook answer what servers ask: `claude -p` has nobody to show it to."""
    content = {"approve": True} if action == "accept" else {}
    reply = {"hookEventName": "Elicitation", "action": action, "content": content}
    command = f"echo {shlex.quote(json.dumps({'hookSpecificOutput': reply}))}"
    hooks = {"Elicitation": [{"hooks": [{"type": "command", "command": command}]}]}
    folder = room.home / ".claude"
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"hooks": hooks}))


def appends_a_line(file: Path) -> ToolCall:
    """A command whose every run leaves a trace."""
    return ToolCall("shell_exec", {"command": f"echo ran >> {shlex.quote(str(file))}"})


def runs(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_list_shows_connected(claude: ClaudeCode, endpoint: Endpoint) -> None:
    claude.add(endpoint)
    assert claude.connected() == {"hw": True}


def test_it_opens_in_the_era_it_was_told_to(claude: ClaudeCode, era: str) -> None:
    """So that "each era" is true here, and stays so when the client changes its default."""
    heard = claude.room.folder / "heard"
    # tee, then our server: byte for byte what the client sends.
    line = f"tee {shlex.quote(str(heard))} | {shlex.quote(program('hostwright-system'))}"
    claude.add(Endpoint(argv=("/bin/sh", "-c", line), env=claude.room.marks))
    assert claude.connected() == {"hw": True}
    assert json.loads(heard.read_text().splitlines()[0])["method"] == OPENS_WITH[era]


def test_a_wrong_token_does_not_connect(room: Room, daemon: Daemon) -> None:
    claude = ClaudeCode(room)
    claude.add(Endpoint(url=daemon.url, token="hw_wrong"))
    assert claude.connected() == {"hw": False}


def test_it_reads_the_machine_and_is_on_record(claude: ClaudeCode, endpoint: Endpoint) -> None:
    claude.add(endpoint)
    script = [ToolCall("system_health"), ToolCall("event_log", {"limit": 20})]
    health, record = claude.turn(script)
    assert health.is_error is False
    assert json.loads(health.text)["uptime_seconds"] > 0
    events = json.loads(record.text)["events"]
    by = next(e["detail"]["by"] for e in events if e["tool"] == "system_health")
    assert by["client"] == "claude-code"
    assert by.get("token") == ("client" if endpoint.token else None)


def test_unapproved_the_act_is_refused_and_waits(
    claude: ClaudeCode, prompting: Endpoint, tmp_path: Path
) -> None:
    """`claude -p` says that it can put questions to its user, and closes them unanswered."""
    trace = tmp_path / "trace"
    claude.add(prompting)
    (result,) = claude.turn([appends_a_line(trace)])
    assert result.is_error is True
    assert re.search(r"`hostwright approve \S+`", result.text), result.text
    assert runs(trace) == 0


def test_a_yes_over_the_prompt_runs_the_act_once(
    claude: ClaudeCode, prompting: Endpoint, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    claude.add(prompting)
    answer_questions(claude.room, "accept")
    (result,) = claude.turn([appends_a_line(trace)])
    assert result.is_error is False, result.text
    assert runs(trace) == 1


def test_a_no_over_the_prompt_is_a_no(
    claude: ClaudeCode, prompting: Endpoint, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    claude.add(prompting)
    answer_questions(claude.room, "decline")
    (result,) = claude.turn([appends_a_line(trace)])
    assert result.is_error is True
    assert "denied" in result.text
    assert runs(trace) == 0


@pytest.mark.parametrize("name", ["bare-stdio", "gateway"])
def test_what_the_owner_grants_at_the_terminal_runs_once(
    room: Room, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    act = appends_a_line(trace)
    claude = ClaudeCode(room)
    claude.add(resolve(name, request))
    owner = room if name == "bare-stdio" else request.getfixturevalue("daemon").room
    chosen = {"New PIN": PIN, "same again": PIN}
    at_terminal(owner, [program("hostwright"), "init"], chosen)

    (refused,) = claude.turn([act])
    approval = re.search(r"`hostwright approve (\S+)`", refused.text)
    assert approval, refused.text
    at_terminal(owner, [program("hostwright"), "approve", approval[1]], {"PIN: ": PIN})
    assert runs(trace) == 0

    (granted,) = claude.turn([act])
    assert granted.is_error is False, granted.text
    assert runs(trace) == 1

    (again,) = claude.turn([act])
    assert again.is_error is True
    assert runs(trace) == 1
