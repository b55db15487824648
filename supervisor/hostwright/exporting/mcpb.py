"""MCP bundles (.mcpb), one folder per server of ours, to be packed with `mcpb pack`.

Manifest 0.4, server type `uv`: the host application makes the environment from `pyproject.toml`, so
the bundle is small and fits every system. Checked with the format's own tool, @anthropic-ai/mcpb.
"""

from __future__ import annotations

import json
import re
from typing import Any

import tomlkit

from hostwright.exporting.model import Distribution, Export, File, Options, Server, Suite, split

MANIFEST_VERSION = "0.4"


def render(suite: Suite, options: Options) -> Export:
    """NAME/manifest.json, NAME/pyproject.toml and NAME/server.py."""
    del options
    why = {
        server.name: "A bundle carries its server inside; this one is another's program."
        if server.command
        else "It runs elsewhere; a bundle carries its server inside."
        for server in suite.servers
        if server.distribution is None
    }
    carried, left_out = split(suite, why)
    files: list[File] = []
    for server in carried:
        if server.distribution is not None:
            files += _bundle(server, server.distribution)
    packing = " && ".join(f"npx @anthropic-ai/mcpb pack {server.name}" for server in carried)
    return Export(format="mcpb", files=tuple(files), left_out=left_out, next_steps=(f"{packing}",))


def _bundle(server: Server, package: Distribution) -> list[File]:
    module, _, function = package.target.partition(":")
    project = tomlkit.dumps(
        {
            "project": {
                "name": f"{package.name}-bundle",
                "version": package.version,
                "requires-python": ">=3.11",
                "dependencies": [f"{package.name}=={package.version}"],
            }
        }
    )
    code = (
        f'"""Starts the server {server.name}, as its own command does."""\n\n'
        f"from {module} import {function}\n\n{function}()\n"
    )
    return [
        File(path=f"{server.name}/manifest.json", text=_json(_manifest(server, package))),
        File(path=f"{server.name}/pyproject.toml", text=project),
        File(path=f"{server.name}/server.py", text=code),
    ]


def _manifest(server: Server, package: Distribution) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    env: dict[str, str] = {}
    for setting in server.env:
        text = setting.template
        for need in setting.needs:
            key = re.sub(r"\W", "_", need.name).lower()
            text = text.replace(f"${{{need.name}}}", f"${{user_config.{key}}}")
            asked[key] = {
                "type": "string",
                "title": need.name,
                "description": f"For {need.why}.",
                "required": need.default is None,
                "sensitive": need.secret,
                **({"default": need.default} if need.default is not None else {}),
            }
        env[setting.key] = text
    config: dict[str, Any] = {
        "command": "uv",
        "args": ["run", "--directory", "${__dirname}", "server.py"],
        **({"env": env} if env else {}),
    }
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": package.name,
        "display_name": f"Hostwright {server.name}",
        "version": package.version,
        "description": server.description or package.summary or f"The MCP server {server.name}.",
        "author": {"name": "The Hostwright authors"},
        **({"license": package.license} if package.license else {}),
        "server": {"type": "uv", "entry_point": "server.py", "mcp_config": config},
        "tools_generated": True,
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": ">=3.11"},
        },
        **({"user_config": asked} if asked else {}),
    }


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
