"""Draws the README's picture of `hostwright top`, as SVG, from the real thing.

`.venv/bin/python scripts/picture_top.py docs/top.svg` starts a supervisor of its own in folders
that are removed afterwards, lets clients call tools through it, and takes a picture of what `top`
shows of that.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as mcp
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from hostwright.top.app import Top
from hostwright.top.daemon import Daemon
from hostwright_kit.paths import Paths, resolve_paths

PROGRAM = Path(sys.executable).with_name("hostwright")
PATIENCE_SECONDS = 60.0
SIZE = (100, 30)
# A server of somebody else, in the fewest lines: it works for a while and says how far it is.
INDEXER = """
import asyncio, sys
from fastmcp import Context, FastMCP
app = FastMCP("{name}")
print("{name}: index opened, 18,204 documents", file=sys.stderr, flush=True)
@app.tool
async def {tool}(ctx: Context, steps: int = 40) -> int:
    for step in range(steps):
        await ctx.report_progress(step, steps)
        print("{name}: part", step + 1, "of", steps, "done", file=sys.stderr, flush=True)
        await asyncio.sleep(0.5)
    return steps
app.run(show_banner=False)
"""


def draw(target: Path) -> None:
    """Everything from the folders to the file."""
    with tempfile.TemporaryDirectory(prefix="hw-") as folder:
        _prepare(Path(folder))
        subprocess.run([PROGRAM, "up", "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            svg = asyncio.run(_picture(resolve_paths()))
        finally:
            subprocess.run([PROGRAM, "down"], check=True, stdout=subprocess.DEVNULL)
    target.write_text(svg, encoding="utf-8")


def _prepare(folder: Path) -> None:
    for name in ("state", "config", "runtime"):
        (folder / name).mkdir(mode=0o700)
        os.environ[f"HOSTWRIGHT_{name.upper()}_DIR"] = str(folder / name)
    # The usual address is in the picture, whichever one is free here.
    os.environ["HOSTWRIGHT_GATEWAY__PORT"] = os.environ.get("HOSTWRIGHT_GATEWAY__PORT", "18790")
    manifests = folder / "config" / "manifests"
    manifests.mkdir()
    for name, tool in (("papers", "index_folder"), ("tickets", "sync_board")):
        program = folder / f"{name}.py"
        program.write_text(INDEXER.format(name=name, tool=tool))
        command = f"command = [{sys.executable!r}, {str(program)!r}]"
        quiet = '[env]\nFASTMCP_LOG_LEVEL = "WARNING"'
        (manifests / f"{name}.toml").write_text(f'name = "{name}"\n{command}\n{quiet}\n')
    roots = f'roots = ["{folder / "work"}"]'
    (folder / "work").mkdir()
    (folder / "work" / "report-2025.md").write_text("# 2025\n")
    (folder / "config" / "config.toml").write_text(
        f'[policy]\nprofile = "standard"\n[system]\n{roots}\n'
    )
    os.chdir(folder / "work")


def _client(paths: Paths, name: str) -> Client[Any]:
    def over_socket(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,
    ) -> httpx2.AsyncClient:
        way = httpx2.AsyncHTTPTransport(uds=str(paths.runtime_dir / "gateway.sock"))
        return httpx2.AsyncClient(transport=way, headers=headers, timeout=timeout, auth=auth)

    transport = StreamableHttpTransport("http://gateway/mcp", httpx_client_factory=over_socket)
    return Client(transport, client_info=mcp.Implementation(name=name, version="1"))


@asynccontextmanager
async def _calls(paths: Paths) -> AsyncGenerator[None]:
    """Three clients at work: one asks for what needs approval, the others wait for long calls."""
    async with (
        _client(paths, "claude-code") as claude,
        _client(paths, "opencode") as opencode,
        _client(paths, "openclaw") as openclaw,
    ):
        for tool, given in (
            ("service_control", {"unit": "nginx.service", "action": "restart"}),
            ("shell_exec", {"argv": ["git", "push", "--force", "origin", "main"]}),
        ):
            await claude.call_tool(tool, given, raise_on_error=False)
        running: list[asyncio.Task[Any]] = [
            asyncio.create_task(opencode.call_tool("papers__index_folder", {"steps": 60})),
            asyncio.create_task(openclaw.call_tool("tickets__sync_board", {"steps": 90})),
            asyncio.create_task(_busy(claude)),
        ]
        await asyncio.sleep(8)
        try:
            yield
        finally:
            for call in running:
                call.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _busy(client: Client[Any]) -> None:
    while True:
        await client.call_tool("system_health", {})
        await client.call_tool("directory_list", {"path": str(Path.cwd())})
        await asyncio.sleep(0.2)


async def _picture(paths: Paths) -> str:
    app = Top(Daemon(paths))
    async with _calls(paths), app.run_test(size=SIZE) as pilot:

        async def until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not condition():
                if time.monotonic() > deadline:
                    sys.exit("top did not come to show what the picture is to show")
                await pilot.pause(0.1)

        await until(lambda: app.model.daemon is not None and len(app.model.calls()) >= 2)
        await until(lambda: len(app.model.approvals) == 2)
        await pilot.pause(3)
        svg = app.export_screenshot(title="hostwright top")
    # The picture must not fetch fonts from anywhere; the reader's own monospace will do.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    draw(Path(sys.argv[1]).absolute())
