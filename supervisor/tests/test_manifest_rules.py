"""The keys that the keeper obeys: bounds, faults with their lines, and the reference page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hostwright.manifest import OURS_SLEEP_AFTER_SECONDS, Manifest
from hostwright.manifest_files import load_manifests, tables_in

ROOT = Path(__file__).resolve().parents[2]
COMMAND = {"name": "a", "command": ["x"]}


def load(folder: Path, **texts: str):
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(f'name = "{name}"\ncommand = ["sh"]\n{text}')
    return load_manifests((folder,), environ={"PATH": "/usr/bin:/bin"}, installed={})


def test_the_reference_page_is_what_the_model_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/manifest_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [one for field in model.model_fields.values() for one in tables_in(field.annotation)]
    return [model, *(deeper for one in inner for deeper in models(one))]


def test_every_key_says_what_it_means() -> None:
    silent = [
        f"{model.__name__}.{key}"
        for model in models(Manifest)
        for key, field in model.model_fields.items()
        if not field.description and not tables_in(field.annotation)
    ]
    assert silent == []


def test_who_sleeps_when_nothing_is_said() -> None:
    def after(**extra: object) -> float:
        return Manifest.model_validate({"name": "a"} | extra).sleeps_after_seconds

    assert after(entry_point="a") == OURS_SLEEP_AFTER_SECONDS
    assert after(entry_point="a", background=True) == 0
    assert after(entry_point="a", idle_after_seconds=0) == 0
    assert after(command=["x"]) == 0
    assert after(command=["x"], idle_after_seconds=5) == 5
    assert after(url="http://127.0.0.1:1/mcp") == 0
    assert after(fastmcp="/a/b.py:mcp") == OURS_SLEEP_AFTER_SECONDS
    assert after(fastmcp="/a/b.py:mcp", session="per-client") == 0


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"limits": {"memory_mb": 1}}, "greater than or equal to 16"),
        ({"limits": {"memory_gb": 1}}, "Extra inputs"),
        ({"when": {"os": "windows"}}, "'windows' is no system"),
        ({"requires": ["a"]}, "cannot require, or come after, itself"),
        ({"background": True, "idle_after_seconds": 5}, "contradict"),
        ({"canary": {"tool": "x", "expect": {"pointer": "no-slash", "equals": 1}}}, "pattern"),
        ({"log": {"keep": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(extra: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate(COMMAND | extra)


def test_a_remote_server_has_no_process_to_limit() -> None:
    remote = {"name": "a", "url": "http://127.0.0.1:1/mcp"}
    for extra in ({"limits": {"open_files": 64}}, {"idle_after_seconds": 5}):
        with pytest.raises(ValueError, match="no meaning with a url"):
            Manifest.model_validate(remote | extra)


def test_one_word_needs_no_brackets() -> None:
    found = Manifest.model_validate(COMMAND | {"requires": "b", "when": {"os": "linux"}})
    assert (found.requires, found.when.os) == (("b",), ("linux",))


def test_circles_and_unknown_names_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    manifests, problems = load(
        tmp_path,
        a='description = "x"\nrequires = ["b"]\n',
        b='after = ["a"]\n',
        c='requires = [\n  "nobody",\n]\nafter = ["lost"]\n',
    )
    assert [one.name for one in manifests] == ["a", "b", "c"]
    assert {(p.file.name if p.file else "", p.key, p.line) for p in problems} == {
        ("a.toml", "requires", 4),
        ("c.toml", "requires", 3),
        ("c.toml", "after", 6),
    }
    assert all(problem.level == "error" and problem.fix for problem in problems)


def test_what_its_conditions_rule_out_is_no_problem(tmp_path: Path) -> None:
    _, problems = load(tmp_path, a='cwd = "/nowhere"\n[when]\npath_exists = "/nowhere"\n')
    (problem,) = problems
    assert problem.level == "info"
    assert "does not run on this machine: /nowhere does not exist" in problem.message


def test_an_unknown_key_deep_down_names_what_is_known_there(tmp_path: Path) -> None:
    _, problems = load(
        tmp_path, a='[canary]\ntool = "x"\nexpect = {pointer = "/a", equals = 1, colour = 2}\n'
    )
    assert any("pointer, equals" in problem.fix for problem in problems)
    _, problems = load(tmp_path, a="[limits]\nmemory = 5\n")
    assert problems[0].fix == (
        "Remove it; known here: memory_mb, cpu_percent, processes, open_files."
    )


@pytest.mark.parametrize(
    "kind",
    [{"command": ["x"]}, {"url": "http://a/mcp"}, {"fastmcp": "/a/server.py:mcp"}],
)
def test_only_third_party_servers_have_a_session_for_each_client(kind: dict[str, Any]) -> None:
    assert Manifest.model_validate({"name": "a", **kind}).session == "shared"
    assert Manifest.model_validate({"name": "a", "session": "per-client", **kind})
    with pytest.raises(ValueError, match="our own keep nothing"):
        Manifest(name="a", entry_point="a", session="per-client")
    with pytest.raises(ValueError, match="session"):
        Manifest.model_validate({"name": "a", "session": "mine", **kind})
