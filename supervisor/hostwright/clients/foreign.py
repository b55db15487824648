"""Read one server out of another program's configuration, whatever that program calls things.

Ways to name a variable become `${VAR}`; everything that does not carry over, or looks like a
secret, is noted with its key. Pure; `importing` finds the servers and writes the manifests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from .catalog import Config
from .ownership import Origin, is_ours
from .secrets import looks_secret

Format = Literal["auto", "claude", "opencode", "openclaw", "codex", "vscode"]


class UnusableError(Exception):
    """An entry cannot become a manifest; the message says why, `key` where in it."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@dataclass
class Draft:
    """A server on its way from a client's words to ours."""

    command: list[str] = field(default_factory=list[str])
    url: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    folder: Path | None = None
    """Where the client would have started it, if that is known."""
    notes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def note(self, key: str, message: str) -> None:
        self.notes.append((key, message))


_KNOWN = {
    "type", "command", "args", "env", "environment", "cwd", "workingDirectory", "url", "serverUrl",
    "headers", "http_headers", "env_http_headers", "bearer_token_env_var", "env_vars", "transport",
    "enabled", "disabled", "timeout", "requestTimeoutMs", "connectionTimeoutMs", "connectTimeout",
    "startup_timeout_sec", "startup_timeout_ms", "tool_timeout_sec",
}  # fmt: skip


def reason_to_skip(entry: Any, gateways: frozenset[Origin]) -> str | None:
    """Why a server is left out on purpose."""
    if not isinstance(entry, dict):
        raise UnusableError("is not a table of settings")
    settings = cast("Config", entry)
    if settings.get("disabled") is True or settings.get("enabled") is False:
        return "is disabled"
    if is_ours(settings, gateways):
        return "leads back to Hostwright"
    return None


def read(kind: Format, entry: Config, folder: Path | None) -> Draft:
    """The server that an entry describes; `folder` is where its client would start it."""
    draft = Draft(folder=folder)
    argv = _argv(entry)
    url = entry.get("url", entry.get("serverUrl"))
    if argv and url is not None:
        raise UnusableError("has both a command and a url")
    if not argv and url is None:
        raise UnusableError("has neither a command nor a url")
    value = _Values(kind, draft)
    if argv:
        draft.command = [value.text(f"command.{n}", word) for n, word in enumerate(argv)]
        for key in ("env", "environment"):
            draft.env.update(value.table(key, entry.get(key)))
        draft.env.update(value.forwarded(entry.get("env_vars")))
        _working_folder(value, draft, entry)
    else:
        _remote(value, draft, entry, url)
    for key in sorted(entry.keys() - _KNOWN):
        draft.note(key, "is not carried over")
    return draft


def _argv(entry: Config) -> list[Any]:
    command = entry.get("command")
    if command is None:
        return []
    if isinstance(command, list):
        words = cast("list[Any]", command)
    elif isinstance(command, str):
        args = entry.get("args") or []
        if not isinstance(args, list):
            raise UnusableError("is not a list", "args")
        words = [command, *cast("list[Any]", args)]
    else:
        raise UnusableError("is neither text nor a list of texts", "command")
    if not words or not isinstance(words[0], str) or not words[0].strip():
        raise UnusableError("is empty", "command")
    return words


def _remote(value: _Values, draft: Draft, entry: Config, url: Any) -> None:
    # An address that begins with a variable can only be judged when it is used.
    usable = r"https?://[^\s/]|\$\{|\{env:"
    if not isinstance(url, str) or not re.match(usable, url, re.IGNORECASE):
        raise UnusableError("is not an http or https address", "url")
    draft.url = value.text("url", url)
    for key in ("headers", "http_headers"):
        draft.headers.update(value.table(key, entry.get(key)))
    for name, variable in value.table("env_http_headers", entry.get("env_http_headers")).items():
        draft.headers[name] = f"${{{variable}}}"
    variable = entry.get("bearer_token_env_var")
    if isinstance(variable, str):
        draft.headers["Authorization"] = f"Bearer ${{{variable}}}"
        draft.note("bearer_token_env_var", f"is read from the environment as ${{{variable}}}")
    transport = entry.get("transport", entry.get("type"))
    implied = value.format == "openclaw" and transport is None
    if transport == "sse" or implied:
        draft.note("url", "is meant for the older SSE transport; check that it also speaks HTTP")


def _working_folder(value: _Values, draft: Draft, entry: Config) -> None:
    cwd = entry.get("cwd", entry.get("workingDirectory"))
    if isinstance(cwd, str) and cwd:
        folder = value.text("cwd", cwd)
        if folder.startswith(("/", "~", "${")):
            draft.cwd = folder
        elif draft.folder:
            draft.cwd = str((draft.folder / folder).resolve())
            draft.note("cwd", f"was relative and is now {draft.cwd}")
        else:
            draft.note("cwd", "is relative to a folder that is not known; left out")
    elif "/" in draft.command[0] and not draft.command[0].startswith(("/", "~", "${")):
        if draft.folder:
            draft.cwd = str(draft.folder)
            draft.note("command", f"is relative; it is started in {draft.cwd}")
        else:
            draft.note("command", "is relative to a folder that is not known")


class _Values:
    """Turns a client's values into text, and its ways to name a variable into `${VAR}`."""

    def __init__(self, kind: Format, draft: Draft) -> None:
        self.format = kind
        self._draft = draft

    def text(self, key: str, value: Any) -> str:
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, int | float):
            value = str(value)
        if not isinstance(value, str):
            raise UnusableError("is not text", key)
        if "\0" in value:
            raise UnusableError("has a null character", key)
        return self._variables(key, value)

    def table(self, key: str, value: Any) -> dict[str, str]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise UnusableError("is not a table", key)
        result: dict[str, str] = {}
        for name, item in cast("Config", value).items():
            if item is None:
                self._draft.note(f"{key}.{name}", "is null and left out")
            else:
                result[name] = self.text(f"{key}.{name}", item)
        return result

    def forwarded(self, value: Any) -> dict[str, str]:
        """Codex's `env_vars`: names of variables to pass on."""
        names = cast("list[Any]", value) if isinstance(value, list) else []
        result: dict[str, str] = {}
        for item in names:
            name = cast("Config", item).get("name") if isinstance(item, dict) else item
            if isinstance(name, str):
                result[name] = f"${{{name}}}"
                self._draft.note("env_vars", f"passes ${{{name}}} on")
        return result

    def _variables(self, key: str, value: str) -> str:
        if self.format == "opencode":
            value = re.sub(r"\{env:([A-Za-z_]\w*)\}", r"${\1}", value)
            if re.search(r"\{file:[^}]*\}", value):
                self._draft.note(key, "takes in a file ({file:…}); put the value there by hand")
        value = re.sub(r"\$\{env:([A-Za-z_]\w*)\}", r"${\1}", value)

        def ask(found: re.Match[str]) -> str:
            name = re.sub(r"\W", "_", found[1]).upper()
            self._draft.note(key, f"is asked for by VS Code; set the variable {name}")
            return f"${{{name}}}"

        value = re.sub(r"\$\{input:([^}]+)\}", ask, value)
        for found in re.finditer(r"\$\{([^}]*)\}", value):
            if re.fullmatch(r"[A-Za-z_]\w*(:-.*)?", found[1]) and not _editor_variable(found[1]):
                self._draft.note(key, f"is read from the environment as {found[0]}")
            else:
                self._draft.note(key, f"has {found[0]}, which only the editor can fill in")
        return value


def _editor_variable(name: str) -> bool:
    # https://code.visualstudio.com/docs/reference/variables-reference
    return name in ("workspaceFolder", "workspaceFolderBasename", "userHome", "pathSeparator")


def look_for_secrets(draft: Draft) -> None:
    message = "looks like a secret and is copied as it is; better kept outside the manifest"
    for table, values in (("env", draft.env), ("headers", draft.headers)):
        for name, value in values.items():
            if looks_secret(name, value):
                draft.note(f"{table}.{name}", message)
    if draft.url and looks_secret("url", draft.url):
        draft.note("url", message)
    previous = ""
    for number, word in enumerate(draft.command):
        flag, _, value = word.partition("=") if word.startswith("-") else (previous, "", word)
        named = flag if flag.startswith("-") else ""
        if number and value and looks_secret(named, value):
            draft.note(f"command.{number}", message)
        previous = word
