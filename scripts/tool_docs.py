"""Writes each server's tool table into its README from the code; `--check` only compares.

A table stands between `<!-- tools:begin -->` and `<!-- tools:end -->`. The servers are built as
they are when they start, over an empty state of their own, so the table says what clients see.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import mcp_types as mcp

from hostwright.manifest import SUPERVISOR
from hostwright_kit.config import load_kit_config, read_settings
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer
from hostwright_kit.vouching import ENTRY_POINT_GROUP

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tools:begin (make docs) -->", "<!-- tools:end -->"


async def main(*, check: bool) -> int:
    """Update or compare every README; the exit code."""
    stale: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        for readme, app, runtime in _servers(Path(folder)):
            table = render([tool.to_mcp_tool() for tool in await app.list_tools()])
            await runtime.close()
            text = readme.read_text(encoding="utf-8")
            updated = _replace(text, table, readme)
            if updated != text:
                stale.append(readme)
                if not check:
                    readme.write_text(updated, encoding="utf-8")
    for readme in stale:
        where = readme.relative_to(ROOT)
        print(f"{where}: the tool table is {'out of date (make docs)' if check else 'written'}")
    return 1 if check and stale else 0


def _servers(folder: Path) -> list[tuple[Path, HostServer, Runtime]]:
    found: list[tuple[Path, HostServer, Runtime]] = []
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda one: one.name):
        folders = (ROOT / "servers" / point.name, ROOT / "supervisor")
        readme = folders[point.name == SUPERVISOR] / "README.md"
        if readme.exists():
            runtime = _runtime(point.name, folder)
            found.append((readme, point.load()(runtime), runtime))
    return found


def _runtime(name: str, folder: Path) -> Runtime:
    place = folder / name
    paths = Paths(
        config_dir=place / "config", state_dir=place / "state", runtime_dir=place / "run"
    ).ensure()
    settings = read_settings(paths, env={})
    return Runtime(name, paths, settings, load_kit_config(settings))


def render(tools: list[mcp.Tool]) -> str:
    """A Markdown table: name and effect, parameters with what is required, the first sentence."""
    lines = ["| tool | effect | parameters | what it does |", "|---|---|---|---|"]
    for tool in tools:
        properties = tool.input_schema.get("properties", {})
        required = set(tool.input_schema.get("required", ()))
        names = [f"**{name}**" if name in required else name for name in properties]
        summary = " ".join((tool.description or "").strip().split("\n\n", 1)[0].split())
        cells = (f"`{tool.name}`", _effect(tool), ", ".join(names) or "–", summary)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    lines.append("\nParameters in bold are required; all are bounded, with units in their schema.")
    return "\n".join(lines)


def _effect(tool: mcp.Tool) -> str:
    hints = tool.annotations
    if hints is None:
        return "unknown"
    if hints.read_only_hint:
        return "reads"
    grave = "destructive" if hints.destructive_hint else "changes"
    return f"{grave}, open world" if hints.open_world_hint else grave


def _replace(text: str, table: str, readme: Path) -> str:
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{readme}: has no {BEGIN} … {END} to put the table into")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(check="--check" in sys.argv[1:])))
