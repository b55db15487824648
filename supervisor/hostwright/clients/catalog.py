"""The MCP clients whose configuration Hostwright can edit: where the file is and what goes in.

One description per client, taken from the clients' own documentation and from driving them:
code.claude.com/docs/en/mcp, opencode.ai/docs/mcp-servers, docs.openclaw.ai/cli/mcp,
developers.openai.com/codex/mcp, cursor.com/docs/mcp and
code.visualstudio.com/docs/agents/reference/mcp-configuration. Pure data and functions: no file is
opened here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from hostwright_kit.errors import HostError

from .entry import Entry

Scope = Literal["user", "project"]
Format = Literal["json", "jsonc", "json5", "toml"]
Config = dict[str, Any]

# Opencode and OpenClaw cut a call at 60 s unless told otherwise; a tool of ours may take 50 s and
# an approval longer.
DEFAULT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Places:
    """What decides where a client keeps its files."""

    home: Path
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    platform: str = sys.platform

    def xdg_config(self) -> Path:
        return self._folder("XDG_CONFIG_HOME") or self.home / ".config"

    def app_config(self) -> Path:
        """Where desktop applications keep theirs."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.xdg_config()

    def variable(self, name: str, default: Path) -> Path:
        return self._folder(name) or default

    def _folder(self, name: str) -> Path | None:
        value = self.environ.get(name, "")
        # A relative value would depend on where the client is started; XDG says to ignore it.
        return Path(value) if value.startswith("/") else None


Files = Callable[[Places], list[Path]]


def _as_it_is(_data: Config) -> Client | None:
    return None


@dataclass(frozen=True)
class Client:
    """One client. File lists are in the client's order: the first that exists is edited."""

    name: str
    title: str
    format: Format
    container: tuple[str, ...]
    render: Callable[[Entry], Config]
    managed: frozenset[str]
    """Every key that an entry of ours may have here; other keys in it are the owner's."""
    user_files: Files
    project_files: Files | None = None
    has_http: bool = True
    has_cwd: bool = True
    seed: Config = field(default_factory=Config)
    """What a new file begins with."""
    notes: Callable[[Scope, tuple[Entry, ...]], list[str]] = lambda _scope, _entries: []
    variant: Callable[[Config], Client | None] = _as_it_is
    """Another description that fits what is already in the file."""

    def files(self, places: Places, scope: Scope) -> list[Path]:
        if scope == "user":
            return self.user_files(places)
        if self.project_files is None:
            raise HostError(
                f"{self.title} has no configuration of its own per project.",
                fix="Install for the user instead.",
                code="unsupported",
            )
        return self.project_files(places)


# -- what entries look like --------------------------------------------------------------------


def _headers(entry: Entry, reference: str) -> dict[str, str]:
    headers = dict(entry.headers)
    if entry.bearer_token is not None:
        headers["Authorization"] = f"Bearer {entry.bearer_token.get_secret_value()}"
    elif entry.bearer_token_env:
        headers["Authorization"] = "Bearer " + reference.format(entry.bearer_token_env)
    return headers


def _given(config: Config) -> Config:
    """Without what an entry does not have."""
    return {key: value for key, value in config.items() if value not in (None, {}, [])}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _stdio(entry: Entry) -> Config:
    # `args` stays when it is empty: some clients require the key.
    return {"command": entry.command, "args": list(entry.args), **_given({"env": dict(entry.env)})}


def _claude_code(entry: Entry) -> Config:
    timeout = _given({"timeout": _milliseconds(entry.timeout_seconds)})
    if entry.url is None:
        return {"type": "stdio", **_stdio(entry), **timeout}
    headers = _given({"headers": _headers(entry, "${{{}}}")})
    return {"type": "http", "url": entry.url, **headers, **timeout}


def _cursor(entry: Entry) -> Config:
    if entry.url is None:
        return _stdio(entry)
    return {"url": entry.url, **_given({"headers": _headers(entry, "${{env:{}}}")})}


def _vscode(entry: Entry) -> Config:
    if entry.url is None:
        return {"type": "stdio", **_stdio(entry), **_given({"cwd": entry.cwd})}
    return {"type": "http", "url": entry.url, **_given({"headers": _headers(entry, "${{env:{}}}")})}


def _opencode(entry: Entry) -> Config:
    common: Config = {
        "enabled": True,
        "timeout": _milliseconds(entry.timeout_seconds or DEFAULT_TIMEOUT_SECONDS),
    }
    return _opencode_entry(entry, common)


def _opencode_2(entry: Entry) -> Config:
    seconds = entry.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    return _opencode_entry(entry, {"timeout": {"request": _milliseconds(seconds)}})


def _opencode_entry(entry: Entry, common: Config) -> Config:
    if entry.url is None:
        given = _given({"cwd": entry.cwd, "environment": dict(entry.env)})
        return {"type": "local", "command": [entry.command, *entry.args], **given, **common}
    headers = _given({"headers": _headers(entry, "{{env:{}}}")})
    # Without `oauth: false` it would answer a 401 by looking for an authorization server.
    return {"type": "remote", "url": entry.url, **headers, "oauth": False, **common}


def _openclaw(entry: Entry) -> Config:
    timeout = {"requestTimeoutMs": _milliseconds(entry.timeout_seconds or DEFAULT_TIMEOUT_SECONDS)}
    if entry.url is None:
        return {**_stdio(entry), **_given({"cwd": entry.cwd}), **timeout}
    headers = _given({"headers": _headers(entry, "${{{}}}")})
    # A url without a transport is taken for the old SSE one.
    return {"url": entry.url, "transport": "streamable-http", **headers, **timeout}


def _codex(entry: Entry) -> Config:
    timeout = _given({"tool_timeout_sec": entry.timeout_seconds})
    if entry.url is None:
        return {**_stdio(entry), **_given({"cwd": entry.cwd}), **timeout}
    literal = entry.model_copy(update={"bearer_token_env": None})
    return {
        "url": entry.url,
        **_given(
            {
                # Codex refuses a `bearer_token` in its file; a header is the literal form.
                "bearer_token_env_var": entry.bearer_token_env,
                "http_headers": _headers(literal, ""),
            }
        ),
        **timeout,
    }


# -- what to tell the owner --------------------------------------------------------------------


def _claude_code_notes(scope: Scope, _entries: tuple[Entry, ...]) -> list[str]:
    if scope != "project":
        return []
    return [
        "Project servers stay pending in Claude Code until they are approved: accept them in "
        "`claude` in that folder, or put “enableAllProjectMcpServers”: true into "
        "~/.claude/settings.json."
    ]


def _claude_desktop_notes(_scope: Scope, _entries: tuple[Entry, ...]) -> list[str]:
    return ["Claude Desktop reads the file when it starts: quit and reopen it."]


def _codex_notes(scope: Scope, entries: tuple[Entry, ...]) -> list[str]:
    notes: list[str] = []
    if scope == "project":
        notes.append("Codex reads a project's configuration only when the project is trusted.")
    if any(entry.url for entry in entries):
        notes.append(
            "Codex does not try a server again that refused one connection: start Hostwright first."
        )
    return notes


# Variables with which a program can be made to run something else; OpenClaw refuses the server.
_OPENCLAW_BLOCKED = {"PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "PERL5OPT", "RUBYOPT"}


def _openclaw_notes(_scope: Scope, entries: tuple[Entry, ...]) -> list[str]:
    return [
        f"OpenClaw refuses to start “{entry.name}” with {', '.join(blocked)} in its environment."
        for entry in entries
        if (blocked := sorted(_OPENCLAW_BLOCKED & entry.env.keys()))
    ]


def _opencode_layout(data: Config) -> Client | None:
    """Opencode 2 keeps its servers one level deeper and knows no `enabled`."""
    mcp = data.get("mcp")
    servers = cast("Config", mcp).get("servers") if isinstance(mcp, dict) else None
    if not isinstance(servers, dict) or "type" in servers:
        return None
    return _OPENCODE_2


def _opencode_names(folder: Path) -> list[Path]:
    # Both are read; the .jsonc one is merged last and wins.
    return [folder / "opencode.jsonc", folder / "opencode.json"]


_STDIO_KEYS = frozenset({"type", "command", "args", "env"})
_HTTP_KEYS = frozenset({"type", "url", "headers"})

_CLAUDE_CODE = Client(
    name="claude-code",
    title="Claude Code",
    format="json",
    container=("mcpServers",),
    render=_claude_code,
    managed=_STDIO_KEYS | _HTTP_KEYS | {"timeout"},
    user_files=lambda at: [at.variable("CLAUDE_CONFIG_DIR", at.home) / ".claude.json"],
    project_files=lambda at: [at.cwd / ".mcp.json"],
    has_cwd=False,
    notes=_claude_code_notes,
)
_CLAUDE_DESKTOP = Client(
    name="claude-desktop",
    title="Claude Desktop",
    format="json",
    container=("mcpServers",),
    render=_stdio,
    managed=_STDIO_KEYS,
    user_files=lambda at: [at.app_config() / "Claude" / "claude_desktop_config.json"],
    has_http=False,
    has_cwd=False,
    notes=_claude_desktop_notes,
)
_OPENCODE = Client(
    name="opencode",
    title="opencode",
    format="jsonc",
    container=("mcp",),
    render=_opencode,
    managed=frozenset(
        {"type", "command", "cwd", "environment", "url", "headers", "oauth", "enabled", "timeout"}
    ),
    user_files=lambda at: _opencode_names(at.xdg_config() / "opencode"),
    project_files=lambda at: _opencode_names(at.cwd),
    seed={"$schema": "https://opencode.ai/config.json"},
    variant=_opencode_layout,
)
_OPENCODE_2 = replace(
    _OPENCODE,
    container=("mcp", "servers"),
    render=_opencode_2,
    managed=_OPENCODE.managed - {"enabled"},
    variant=_as_it_is,
)
_OPENCLAW = Client(
    name="openclaw",
    title="OpenClaw",
    format="json5",
    container=("mcp", "servers"),
    render=_openclaw,
    managed=_STDIO_KEYS | _HTTP_KEYS | {"cwd", "transport", "requestTimeoutMs"},
    user_files=lambda at: [
        at.variable(
            "OPENCLAW_CONFIG_PATH",
            at.variable("OPENCLAW_STATE_DIR", at.home / ".openclaw") / "openclaw.json",
        )
    ],
    notes=_openclaw_notes,
)
_CODEX = Client(
    name="codex",
    title="Codex",
    format="toml",
    container=("mcp_servers",),
    render=_codex,
    managed=frozenset(
        {
            "command",
            "args",
            "env",
            "cwd",
            "url",
            "bearer_token_env_var",
            "http_headers",
            "tool_timeout_sec",
        }
    ),
    user_files=lambda at: [at.variable("CODEX_HOME", at.home / ".codex") / "config.toml"],
    project_files=lambda at: [at.cwd / ".codex" / "config.toml"],
    notes=_codex_notes,
)
_CURSOR = Client(
    name="cursor",
    title="Cursor",
    format="jsonc",
    container=("mcpServers",),
    render=_cursor,
    managed=_STDIO_KEYS | _HTTP_KEYS,
    user_files=lambda at: [at.home / ".cursor" / "mcp.json"],
    project_files=lambda at: [at.cwd / ".cursor" / "mcp.json"],
    has_cwd=False,
)
_VSCODE = Client(
    name="vscode",
    title="VS Code",
    format="jsonc",
    container=("servers",),
    render=_vscode,
    managed=_STDIO_KEYS | _HTTP_KEYS | {"cwd"},
    user_files=lambda at: [at.app_config() / "Code" / "User" / "mcp.json"],
    project_files=lambda at: [at.cwd / ".vscode" / "mcp.json"],
)

CLIENTS: dict[str, Client] = {
    client.name: client
    for client in (
        _CLAUDE_CODE,
        _CLAUDE_DESKTOP,
        _OPENCODE,
        _OPENCLAW,
        _CODEX,
        _CURSOR,
        _VSCODE,
    )
}


def client_named(name: str) -> Client:
    if name not in CLIENTS:
        raise HostError(
            f"“{name}” is no client that Hostwright knows.",
            fix=f"Use one of: {', '.join(CLIENTS)}.",
            code="not_found",
        )
    return CLIENTS[name]
