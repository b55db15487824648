"""Three real agents behind one interface: add a server, ask how it is, take one turn.

Each does what its user would do at the command line; only the model is the scripted one of
`fake_llm.py`. Configuration lands in the room's home.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .fake_llm import FakeLLM, ToolCall, ToolResult
from .harness import Done, Endpoint, Room, client

JSON = dict[str, Any]


class Agent(ABC):
    """A client in a room, with the environment that it is started with."""

    folder: ClassVar[str]
    command: ClassVar[str]

    def __init__(self, room: Room, env: Mapping[str, str] | None = None) -> None:
        self.room = room
        self.env = dict(env or {})

    def run(self, *options: str, env: Mapping[str, str] | None = None) -> Done:
        """The client's command line."""
        argv = [client(self.folder, self.command), *options]
        return self.room.run(argv, {**self.env, **(env or {})}, timeout=120)

    def turn(self, script: Sequence[ToolCall]) -> list[ToolResult]:
        """One turn of the agent over the script; what came of each call, as the model saw it."""
        with FakeLLM(script) as llm:
            done = self._go(llm).ok()
            assert len(llm.results) == len(script), f"offered: {llm.offered}\n{done}"
            return llm.results

    @abstractmethod
    def add(self, endpoint: Endpoint, name: str = "hw") -> None:
        """Configure a server with the client's own command."""

    @abstractmethod
    def connected(self) -> dict[str, bool]:
        """Which of its servers the client reaches."""

    @abstractmethod
    def _go(self, llm: FakeLLM) -> Done: ...


class ClaudeCode(Agent):
    """Speaks 2026-07-28 by itself; `MCP_PROTOCOL_NEGOTIATION=legacy` makes it 2025-11-25."""

    folder, command = "claude-code", "claude"

    def add(self, endpoint: Endpoint, name: str = "hw") -> None:
        options = ["mcp", "add", name, "--scope", "user"]
        if endpoint.url:
            options += ["--transport", "http", endpoint.url]
            for header, value in endpoint.headers.items():
                options += ["--header", f"{header}: {value}"]
        else:
            for variable, value in endpoint.env.items():
                options += ["--env", f"{variable}={value}"]
            options += ["--", *endpoint.argv]
        self.run(*options).ok()

    def connected(self) -> dict[str, bool]:
        # The exit code is 0 even when every server fails.
        lines = self.run("mcp", "list").ok().stdout.splitlines()
        found = [re.fullmatch(r"(\S+): .* - (.+)", line) for line in lines]
        return {match[1]: match[2] == "✔ Connected" for match in found if match}

    def _go(self, llm: FakeLLM) -> Done:
        env = {
            "ANTHROPIC_BASE_URL": llm.url,
            "ANTHROPIC_API_KEY": "none",
            # Tool search would hide the tools behind one that looks them up.
            "ENABLE_TOOL_SEARCH": "false",
            # Otherwise the model is asked before the servers have answered, and sees no tools yet.
            "MCP_CONNECTION_NONBLOCKING": "0",
        }
        # Claude Code's own permissions allow the server: what is refused, our guard refused.
        return self.run("-p", "go", "--allowedTools", "mcp__hw", env=env)


class OpenCode(Agent):
    """Speaks 2025-11-25, without elicitation."""

    folder, command = "opencode", "opencode"

    def add(self, endpoint: Endpoint, name: str = "hw") -> None:
        options = ["mcp", "add", name]
        if endpoint.url:
            options += ["--url", endpoint.url]
            for header, value in endpoint.headers.items():
                options += ["--header", f"{header}={value}"]
        else:
            for variable, value in endpoint.env.items():
                options += ["--env", f"{variable}={value}"]
            options += ["--", *endpoint.argv]
        self.run(*options).ok()

    def connected(self) -> dict[str, bool]:
        # The exit code is always 0, and the colours are always there.
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.run("mcp", "list").ok().stdout)
        found = re.findall(r"^●  \S (\S+) (.+)$", plain, re.MULTILINE)
        return {name: status.strip() == "connected" for name, status in found}

    def _go(self, llm: FakeLLM) -> Done:
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
        return self.run("run", "--format", "json", "go", env=env)


class OpenClaw(Agent):
    """Speaks 2025-11-25, without elicitation; hands servers hardly any of its environment."""

    folder, command = "openclaw", "openclaw"

    def add(self, endpoint: Endpoint, name: str = "hw") -> None:
        options = ["mcp", "add", name]
        if endpoint.url:
            # Without the transport it takes a URL for the old SSE one.
            options += ["--url", endpoint.url, "--transport", "streamable-http"]
            for header, value in endpoint.headers.items():
                options += ["--header", f"{header}={value}"]
        else:
            command, *arguments = endpoint.argv
            options += ["--command", command]
            for argument in arguments:
                options += ["--arg", argument]
            for variable, value in endpoint.env.items():
                options += ["--env", f"{variable}={value}"]
        self.run(*options).ok()

    def connected(self) -> dict[str, bool]:
        probe = self.run("mcp", "probe", "--json").json()
        servers: JSON = probe["servers"]
        return {name: server.get("tools", 0) > 0 for name, server in servers.items()}

    def _go(self, llm: FakeLLM) -> Done:
        file = self.room.home / ".openclaw" / "openclaw.json"
        config: JSON = json.loads(file.read_text())
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
        session = ["--local", "--session-id", "test"]
        return self.run("agent", *session, "--message", "go", "--json")
