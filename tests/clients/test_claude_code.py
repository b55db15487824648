"""The real Claude Code: it connects, calls tools, and meets the guard.

Its model is the scripted one of `fake_llm.py`; everything else is what a user runs: `claude mcp
add`, `claude mcp list`, and `claude -p` for one whole turn with tool calls.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from .conftest import Daemon, resolve
from .fake_llm import FakeLLM, ToolCall, ToolResult
from .harness import Done, Endpoint, Room, client, program
from .terminal import at_terminal

pytestmark = pytest.mark.clients

# Claude Code speaks 2026-07-28 by itself, and 2025-11-25 when it is told to.
ERAS = {"default": {}, "legacy": {"MCP_PROTOCOL_NEGOTIATION": "legacy"}}
OPENS_WITH = {"default": "server/discover", "legacy": "initialize"}


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    return request.param


def claude(room: Room, *options: str, env: Mapping[str, str] | None = None) -> Done:
    return room.run([client("claude-code", "claude"), *options], env)


def add(room: Room, endpoint: Endpoint, name: str = "hw") -> None:
    """`claude mcp add`, for the user."""
    options = ["mcp", "add", name, "--scope", "user"]
    if endpoint.url:
        options += ["--transport", "http", endpoint.url]
        for header, value in endpoint.headers.items():
            options += ["--header", f"{header}: {value}"]
    else:
        for variable, value in endpoint.env.items():
            options += ["--env", f"{variable}={value}"]
        options += ["--", *endpoint.argv]
    claude(room, *options).ok()


def statuses(room: Room, era: str) -> dict[str, str]:
    """Server → status, as `claude mcp list` shows it (its exit code is 0 even when all fail)."""
    done = claude(room, "mcp", "list", env=ERAS[era]).ok()
    lines = re.findall(r"^(\S+): .* - (.+)$", done.stdout, re.MULTILINE)
    return {name: status.strip() for name, status in lines}


def turn(room: Room, script: Sequence[ToolCall], era: str = "default") -> list[ToolResult]:
    """One turn of the agent over the script; what came of each call, as the model saw it."""
    with FakeLLM(script) as llm:
        env = {
            "ANTHROPIC_BASE_URL": llm.url,
            "ANTHROPIC_API_KEY": "none",
            # Tool search would hide the tools behind one that looks them up.
            "ENABLE_TOOL_SEARCH": "false",
            # Otherwise the model is asked before the servers have answered, and sees no tools yet.
            "MCP_CONNECTION_NONBLOCKING": "0",
            **ERAS[era],
        }
        # Claude Code's own permissions allow the server: what is refused, our guard refused.
        options = ["--allowedTools", "mcp__hw", "--output-format", "json"]
        done = claude(room, "-p", "go", *options, env=env).ok()
        assert len(llm.results) == len(script), f"{llm.offered}\n{done}"
        return llm.results


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


def test_list_shows_connected(room: Room, endpoint: Endpoint, era: str) -> None:
    add(room, endpoint)
    assert statuses(room, era) == {"hw": "✔ Connected"}


def test_opens_in_the_era_it_was_told_to(room: Room, era: str) -> None:
    """So that "both eras" above is true, and stays so when the client changes its default."""
    heard = room.folder / "heard"
    # tee, then our server: byte for byte what the client sends.
    line = f"tee {shlex.quote(str(heard))} | {shlex.quote(program('hostwright-system'))}"
    add(room, Endpoint(argv=("/bin/sh", "-c", line), env=room.marks))
    assert statuses(room, era) == {"hw": "✔ Connected"}
    assert json.loads(heard.read_text().splitlines()[0])["method"] == OPENS_WITH[era]


def test_a_wrong_token_does_not_connect(room: Room, daemon: Daemon) -> None:
    add(room, Endpoint(url=daemon.url, token="hw_wrong"))
    (status,) = statuses(room, "default").values()
    assert "Connected" not in status


def test_the_agent_reads_the_machine_and_is_on_record(
    room: Room, endpoint: Endpoint, era: str
) -> None:
    add(room, endpoint)
    script = [ToolCall("system_health"), ToolCall("event_log", {"limit": 20})]
    health, record = turn(room, script, era)
    assert health.is_error is False
    assert json.loads(health.text)["uptime_seconds"] > 0
    events = json.loads(record.text)["events"]
    by = next(e["detail"]["by"] for e in events if e["tool"] == "system_health")
    assert by["client"] == "claude-code"
    assert by.get("token") == ("client" if endpoint.token else None)


def test_unapproved_the_act_is_refused_and_waits(
    room: Room, prompting: Endpoint, era: str, tmp_path: Path
) -> None:
    """`claude -p` says that it can put questions to its user, and closes them unanswered."""
    trace = tmp_path / "trace"
    add(room, prompting)
    (result,) = turn(room, [appends_a_line(trace)], era)
    assert result.is_error is True
    assert re.search(r"`hostwright approve \S+`", result.text), result.text
    assert runs(trace) == 0


def test_a_yes_over_the_prompt_runs_the_act_once(
    room: Room, prompting: Endpoint, era: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    add(room, prompting)
    answer_questions(room, "accept")
    (result,) = turn(room, [appends_a_line(trace)], era)
    assert result.is_error is False, result.text
    assert runs(trace) == 1


def test_a_no_over_the_prompt_is_a_no(
    room: Room, prompting: Endpoint, era: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    add(room, prompting)
    answer_questions(room, "decline")
    (result,) = turn(room, [appends_a_line(trace)], era)
    assert result.is_error is True
    assert "denied" in result.text
    assert runs(trace) == 0


PIN = "correct horse"


@pytest.mark.parametrize("name", ["bare-stdio", "gateway"])
def test_what_the_owner_grants_at_the_terminal_runs_once(
    room: Room, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    act = appends_a_line(trace)
    add(room, resolve(name, request))
    owner = room if name == "bare-stdio" else request.getfixturevalue("daemon").room
    answers = {"New PIN": PIN, "same again": PIN}
    at_terminal(owner, [program("hostwright"), "init"], answers)

    (refused,) = turn(room, [act])
    approval = re.search(r"`hostwright approve (\S+)`", refused.text)
    assert approval, refused.text
    at_terminal(owner, [program("hostwright"), "approve", approval[1]], {"PIN: ": PIN})
    assert runs(trace) == 0

    (granted,) = turn(room, [act])
    assert granted.is_error is False, granted.text
    assert runs(trace) == 1

    (again,) = turn(room, [act])
    assert again.is_error is True
    assert runs(trace) == 1
