"""`python -m hostwright_kit.run_file`: somebody's FastMCP server over our stdio, in both eras."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from .kit_harness import ERAS, Era

SERVER = """
import helper
from fastmcp import FastMCP
print("loading")
class Box: pass
box = Box()
box.mcp = FastMCP("theirs")
number = 5

@box.mcp.tool
async def where() -> list[str]:
    import sys
    print("working")
    return [__name__, helper.NAME, *sys.argv]

if __name__ == "__main__":
    raise SystemExit("not run as the program")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("NAME = 'beside'")
    found = tmp_path / "theirs.py"
    found.write_text(textwrap.dedent(SERVER))
    return found


@pytest.mark.parametrize("era", ERAS)
async def test_it_is_served_as_it_is(file: Path, era: Era) -> None:
    command = ["-P", "-m", "hostwright_kit.run_file", f"{file}:box.mcp"]
    async with Client(StdioTransport(sys.executable, command), mode=era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["where"]
        result = await client.call_tool("where", {})
        assert result.data == ["theirs", "beside", str(file)]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("{file}:mcp", "no 'mcp'"),
        ("{file}:number", "is a int, not a FastMCP server"),
        ("{file}.gone:mcp", "does not exist"),
        ("{folder}/notes.txt:mcp", "no Python file"),
    ],
)
def test_what_cannot_be_served_is_one_clear_error(file: Path, target: str, text: str) -> None:
    (file.parent / "notes.txt").write_text("")
    named = target.format(file=file, folder=file.parent)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostwright_kit.run_file", named],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert text in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
