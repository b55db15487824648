"""The command line: a real process on the same indexes as the server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from .graph_world import World, write

PROGRAM = "from hostwright_codegraph.server import main; main()"


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    write(
        found.project,
        {
            "a.py": 'from b import g\ndef f():\n    """Say "x"."""\n    g()\n',
            "b.py": "def g(): ...\n",
        },
    )
    return found


def run(world: World, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=world.env,
        cwd=world.project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 3) else done.stderr


def test_index_status_query_and_exit_codes(world: World) -> None:
    assert "There is no project yet" in run(world, "query", "search", "f", code=1)
    assert "2 files, 2 read" in run(world, "index")
    assert json.loads(run(world, "index", "--json"))["read"] == 0
    assert "3 definitions" not in run(world, "status")
    (state,) = json.loads(run(world, "status", "--json"))
    assert (state["files"], state["calls_resolved"]) == (2, 1)
    assert run(world, "query", "callers", "g") == "a.py:2  f  (calls, lines 4)\n"
    assert json.loads(run(world, "query", "callees", "f", "--json"))[0]["name"] == "g"
    assert run(world, "query", "search", "nothing", code=3) == ""
    assert "fix:" in run(world, "query", "callers", "nothing", code=1)
    assert "usage:" in run(world, "query", "nonsense", "x", code=2)
    assert "forgotten" in run(world, "index", "--remove")
    assert json.loads(run(world, "status", "--json")) == []


def test_exports_are_what_they_say(world: World) -> None:
    run(world, "index")
    graph = json.loads(run(world, "export"))
    assert {(one["source"], one["kind"], one["target"]) for one in graph["edges"]} == {
        ("a.py::f", "calls", "b.py::g"),
        ("a.py::", "imports", "b.py::g"),
    }
    files = json.loads(run(world, "export", "--files"))
    assert {one["id"] for one in files["nodes"]} == {"a.py", "b.py"}
    assert '"a.py::f" -> "b.py::g" [label="calls"];' in run(world, "export", "--format", "dot")
    assert "-->|calls|" in run(world, "export", "--format", "mermaid")
    run(world, "export", "--format", "graphml", "--output", "out.xml")
    root = ET.parse(world.project / "out.xml").getroot()  # noqa: S314 - we wrote it
    assert len(root.findall(".//{*}edge")) == 2
