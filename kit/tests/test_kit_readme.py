"""The example of the README is a server that runs as it is printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from .kit_harness import Home, failure, text

README = Path(__file__).parents[1] / "README.md"


async def test_the_server_of_the_readme_runs_and_asks_before_it_destroys(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 40
    program = tmp_path / "notes.py"
    program.write_text(found[1])
    home = Home(tmp_path / "home")
    transport = StdioTransport(
        sys.executable,
        [str(program)],
        env=home.env(),
        keep_alive=False,
        log_file=home.stderr_file,
    )
    async with Client(transport) as client:
        await client.call_tool("note_add", {"name": "a", "text": "hello"})
        assert text(await client.call_tool("note_read", {"name": "a"})) == "hello"
        missing = await client.call_tool("note_read", {"name": "b"}, raise_on_error=False)
        assert failure(missing)["code"] == "not_found"
        refused = failure(
            await client.call_tool("note_delete", {"name": "a"}, raise_on_error=False)
        )
        home.grant(refused["approval_id"])
        await client.call_tool("note_delete", {"name": "a"})
        missing = await client.call_tool("note_read", {"name": "a"}, raise_on_error=False)
        assert failure(missing)["code"] == "not_found"
    home.assert_ledger_holds()
