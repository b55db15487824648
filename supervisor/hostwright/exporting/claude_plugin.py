"""A Claude Code plugin, in a marketplace of its own.

Without names: one MCP server, the gateway with everything behind it (`hostwright connect`, found on
PATH: a plugin is shared between machines). With names: these servers by themselves, ours through
uvx. Format: https://code.claude.com/docs/en/plugins-reference. Checked with `claude plugin
validate --strict`, installed and connected.
"""

from __future__ import annotations

import json
from typing import Any

from hostwright.exporting.model import Export, File, Need, Options, Server, Setting, Suite, split

PLUGIN = "hostwright"
MARKETPLACE = "hostwright-local"
AUTHOR = {"name": "The Hostwright authors"}


def render(suite: Suite, options: Options) -> Export:
    """.claude-plugin/marketplace.json, and the plugin in a folder below it."""
    del options
    needs: dict[str, Need] = {}
    left_out = suite.left_out
    if not suite.named:
        servers: dict[str, Any] = {
            PLUGIN: {"type": "stdio", "command": "hostwright", "args": ["connect"]}
        }
        about = "The tools of this machine's Hostwright, under its owner's control."
        before = ("Hostwright has to be installed (`hostwright` on PATH) and up.",)
    else:
        carried, left_out = split(suite, {})
        servers = {server.name: _entry(server, needs) for server in carried}
        about = "; ".join(server.description or server.name for server in carried)[:1_000]
        before = ("uv has to be installed.",) if any(one.distribution for one in carried) else ()
    plugin: dict[str, Any] = {
        "name": PLUGIN,
        "version": suite.version,
        "description": about,
        "author": AUTHOR,
        "license": "Apache-2.0",
        "keywords": ["mcp", "hostwright"],
        "mcpServers": "./.mcp.json",
    }
    if needs:
        plugin["userConfig"] = {_key(need): _asked(need) for need in needs.values()}
    listed = {key: plugin[key] for key in ("name", "description", "version", "author", "keywords")}
    marketplace = {
        "name": MARKETPLACE,
        "owner": AUTHOR,
        "metadata": {"description": "What `hostwright export claude-plugin` made."},
        "plugins": [{**listed, "source": f"./{PLUGIN}", "category": "system"}],
    }
    return Export(
        format="claude-plugin",
        files=(
            File(path=".claude-plugin/marketplace.json", text=_json(marketplace)),
            File(path=f"{PLUGIN}/.claude-plugin/plugin.json", text=_json(plugin)),
            File(path=f"{PLUGIN}/.mcp.json", text=_json({"mcpServers": servers})),
            File(path=f"{PLUGIN}/README.md", text=_readme(about, before, tuple(needs.values()))),
        ),
        left_out=left_out,
        needs=tuple(needs.values()),
        next_steps=(
            *before,
            "claude plugin marketplace add ./FOLDER",
            f"claude plugin install {PLUGIN}@{MARKETPLACE}",
        ),
    )


def _readme(about: str, before: tuple[str, ...], needs: tuple[Need, ...]) -> str:
    """What people who install it read first."""
    asked = "".join(f"- `{need.name}`: for {need.why}\n" for need in needs)
    return (
        f"# Hostwright\n\n{about}\n\n"
        "Every call goes through the policy of the machine's owner, may have to be approved by "
        "them, and is written to a ledger before and after it is carried out. A call that waits "
        "for approval answers with an error that says how the owner gives it.\n\n"
        "## Set-up\n\n"
        + "".join(f"{line}\n" for line in before)
        + "Then install the plugin; its tools appear as those of an MCP server.\n"
        + (f"\nIt asks for these values when it is enabled:\n\n{asked}" if asked else "")
    )


def _entry(server: Server, needs: dict[str, Need]) -> dict[str, Any]:
    if server.url:
        headers = {one.key: _filled(one, needs) for one in server.headers}
        return {"type": "http", "url": server.url, **({"headers": headers} if headers else {})}
    if server.distribution is not None:
        package = server.distribution
        argv = ["uvx", "--from", f"{package.name}=={package.version}", package.script]
    else:
        argv = list(server.command or ())
    env = {one.key: _filled(one, needs) for one in server.env}
    return {
        "type": "stdio",
        "command": argv[0],
        "args": argv[1:],
        **({"env": env} if env else {}),
    }


def _filled(setting: Setting, needs: dict[str, Need]) -> str:
    text = setting.template
    for need in setting.needs:
        needs.setdefault(need.name, need)
        text = text.replace(f"${{{need.name}}}", f"${{user_config.{_key(need)}}}")
    return text


def _key(need: Need) -> str:
    return need.name.lower()


def _asked(need: Need) -> dict[str, Any]:
    return {
        "type": "string",
        "title": need.name,
        "description": f"For {need.why}.",
        "sensitive": need.secret,
        "required": need.default is None,
        **({"default": need.default} if need.default is not None else {}),
    }


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
