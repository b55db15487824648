"""The peers that are not in our own environment, each pinned, each in an environment of its own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from bench.home import DEPS
from bench.processes import clean_environment, run

MCP_PROXY = "mcp-proxy==0.13.0"
# Without this, what it depends on would drift from one run to the next.
MCP_PROXY_SDK = "mcp==1.30.0"
_FOLDER = DEPS / "mcp-proxy"


class Peer:
    """An installed program, or why it is not there."""

    def __init__(self, program: Path, problem: str | None) -> None:
        self.program = str(program)
        self.problem = problem


async def install_mcp_proxy() -> Peer:
    """mcp-proxy from PyPI; its MCP SDK is older than ours, hence a venv of its own."""
    program = _FOLDER / "bin" / "mcp-proxy"
    stamp = _FOLDER / ".installed"
    wanted = f"{MCP_PROXY} {MCP_PROXY_SDK} {sys.version.split()[0]}"
    if program.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return Peer(program, None)
    uv = str(Path(sys.executable).with_name("uv"))
    DEPS.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    env = clean_environment()
    python = str(_FOLDER / "bin" / "python")
    make = [uv, "venv", "--quiet", "--python", sys.executable, str(_FOLDER)]
    fill = [uv, "pip", "install", "--quiet", "--python", python, MCP_PROXY, MCP_PROXY_SDK]
    try:
        await run(make, env=env)
        await run(fill, env=env, seconds=180)
    except (RuntimeError, OSError, TimeoutError) as error:
        return Peer(program, f"{MCP_PROXY} could not be installed: {str(error)[-300:]}")
    stamp.write_text(wanted)
    return Peer(program, None)


async def mcp_proxy_versions() -> str:
    """What is installed in its environment, of the parts that decide its speed."""
    uv = str(Path(sys.executable).with_name("uv"))
    argv = [uv, "pip", "list", "--format", "json", "--python", str(_FOLDER / "bin" / "python")]
    found = json.loads(await run(argv, env=clean_environment()))
    names = ("mcp-proxy", "mcp", "uvicorn", "anyio", "pydantic")
    return ", ".join(f"{one['name']} {one['version']}" for one in found if one["name"] in names)
