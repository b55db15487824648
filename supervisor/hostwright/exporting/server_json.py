"""server.json for the MCP registry, one per server: `packages` for what is installed, `remotes`
for what is reached by URL.

Schema: https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json. The registry
checks that a package's README names the server (`<!-- mcp-name: NAMESPACE/NAME -->`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from hostwright.exporting.model import Export, File, Options, Server, Setting, Suite, split
from hostwright.exporting.values import REFERENCE
from hostwright_kit.errors import HostError

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
MAX_DESCRIPTION = 100
_NAMESPACE = re.compile(r"[a-zA-Z0-9.-]{1,130}")
# Exactly one version; a range would let the registry's readers run what nobody looked at.
_NPM = re.compile(r"(?P<name>(?:@[\w.-]+/)?[\w.-]+)@(?P<version>\d[\w.+-]*)", re.ASCII)
_PYPI = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(?:==|@)(?P<version>\d[\w.+!-]*)", re.ASCII)


def render(suite: Suite, options: Options) -> Export:
    """One NAME.server.json per server, or server.json when there is only one."""
    if not _NAMESPACE.fullmatch(options.namespace):
        raise HostError(
            f"{options.namespace!r} cannot be a namespace of the registry.",
            fix="Use the reverse of a domain of yours, or io.github.USER.",
            code="usage",
        )
    bodies: dict[str, dict[str, Any]] = {}
    why: dict[str, str] = {}
    for server in suite.servers:
        body = _body(server, options.namespace)
        if isinstance(body, str):
            why[server.name] = body
        else:
            bodies[server.name] = body
    carried, left_out = split(suite, why)
    one = len(carried) == 1
    files = tuple(
        File(
            path="server.json" if one else f"{server.name}/server.json",
            text=json.dumps(bodies[server.name], indent=2, ensure_ascii=False) + "\n",
        )
        for server in carried
    )
    return Export(
        format="server-json",
        files=files,
        left_out=left_out,
        next_steps=(
            "The README of each package has to hold its line: "
            + ", ".join(f"<!-- mcp-name: {options.namespace}/{one.name} -->" for one in carried),
            "mcp-publisher login … && mcp-publisher publish (in the folder of a server.json)",
        ),
    )


def _body(server: Server, namespace: str) -> dict[str, Any] | str:
    body: dict[str, Any] = {
        "$schema": SCHEMA,
        "name": f"{namespace}/{server.name}",
        "description": _short(server.description or f"The MCP server {server.name}."),
    }
    if server.url:
        remote: dict[str, Any] = {"type": "streamable-http", "url": server.url}
        if server.headers:
            remote["headers"] = [_input(one) for one in server.headers]
        return {**body, "version": "1.0.0", "remotes": [remote]}
    package = _package(server)
    if isinstance(package, str):
        return package
    return {**body, "version": package["version"], "packages": [package]}


def _package(server: Server) -> dict[str, Any] | str:
    arguments: list[str] = []
    if server.distribution is not None:
        kind, hint = "pypi", "uvx"
        name, version = server.distribution.name, server.distribution.version
    else:
        program, *words = server.command or ("",)
        hint = program.rpartition("/")[2]
        words = [word for word in words if word not in ("-y", "--yes")]
        kind, pattern = {"npx": ("npm", _NPM), "uvx": ("pypi", _PYPI)}.get(hint, ("", None))
        found = pattern.fullmatch(words[0]) if pattern and words else None
        if found is None:
            return (
                "The registry takes packages of exact version; its command is not "
                "`npx -y PACKAGE@VERSION …` or `uvx PACKAGE==VERSION …`."
            )
        name, version, arguments = found["name"], found["version"], words[1:]
    package: dict[str, Any] = {
        "registryType": kind,
        "identifier": name,
        "version": version,
        "runtimeHint": hint,
        "transport": {"type": "stdio"},
    }
    if arguments:
        package["packageArguments"] = [{"type": "positional", "value": one} for one in arguments]
    if server.env:
        package["environmentVariables"] = [_input(one) for one in server.env]
    return package


def _input(setting: Setting) -> dict[str, Any]:
    """A variable or header; what is needed is asked of the user, in braces where text is around."""
    if not setting.needs:
        return {"name": setting.key, "value": setting.template}
    secret = any(need.secret for need in setting.needs)
    if len(setting.needs) == 1 and setting.template == f"${{{setting.needs[0].name}}}":
        return {"name": setting.key, **_asked(setting, 0), "isSecret": secret}
    variables = {
        need.name: {**_asked(setting, at), "isSecret": need.secret}
        for at, need in enumerate(setting.needs)
    }
    value = REFERENCE.sub(lambda found: f"{{{found['name']}}}", setting.template)
    return {"name": setting.key, "value": value, "variables": variables}


def _asked(setting: Setting, at: int) -> dict[str, Any]:
    need = setting.needs[at]
    asked: dict[str, Any] = {"description": need.why, "isRequired": need.default is None}
    return asked if need.default is None else {**asked, "default": need.default}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_DESCRIPTION else line[: MAX_DESCRIPTION - 1].rstrip() + "…"
