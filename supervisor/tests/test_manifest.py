"""Manifests: every problem at once with its line, strictness, variables, overriding, defaults."""

from __future__ import annotations

import string
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.keeper.environment import build_environment
from hostwright.manifest import (
    Fork,
    Manifest,
    ToolFilter,
    argv_for,
    executable_for,
    expand,
    fork_for,
)
from hostwright.manifest_files import (
    Problem,
    _line_of,
    installed_servers,
    load_manifests,
    suite_folder,
)
from hostwright_kit.errors import HostError

ENV = {"PATH": "/usr/bin:/bin"}


def load(
    *folders: Path, env: dict[str, str] | None = None, installed: dict[str, str] | None = None
):
    return load_manifests(folders, environ=env or ENV, installed=installed or {})


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def by_key(problems: list[Problem]) -> dict[str, Problem]:
    return {problem.key: problem for problem in problems}


def test_every_problem_of_every_file_at_once_with_its_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a",
        'name = "Bad Name"\n\n# a comment\ncommand = [\n  "cat",\n]\ncolour = "red"\n'
        "[health]\ninterval_seconds = 0\nretries = 3\n[env]\nA = 5\n",
    )
    write(tmp_path, "b", 'name = "b"\ncommand = ["cat"\nenabled = true\n')
    write(
        tmp_path, "c", 'name = "c"\ncommand = ["no-such-program-here"]\ncwd = "/no/such/folder"\n'
    )
    (tmp_path / "d.toml").write_bytes(b'name = "d"\n# \xff\n')
    write(tmp_path, "e", 'name = "e"\n')
    manifests, problems = load(tmp_path)
    assert [m.name for m in manifests] == ["c"]  # valid, shown in status, cannot run yet

    a = by_key([p for p in problems if p.file == tmp_path / "a.toml"])
    assert {key: p.line for key, p in a.items()} == {
        "name": 1,
        "colour": 7,
        "health.interval_seconds": 9,
        "health.retries": 10,
        "env.A": 12,
    }
    assert "interval_seconds" in a["health.retries"].fix  # names the keys that are known there
    (b,) = [p for p in problems if p.file == tmp_path / "b.toml"]
    assert b.line == 3
    assert "not TOML" in b.message
    c = by_key([p for p in problems if p.file == tmp_path / "c.toml"])
    assert {key: p.line for key, p in c.items()} == {"command": 2, "cwd": 3}
    (d,) = [p for p in problems if p.file == tmp_path / "d.toml"]
    assert d.line == 2
    (e,) = [p for p in problems if p.file == tmp_path / "e.toml"]
    assert "exactly one of" in e.message
    assert all(p.level == "error" and p.fix for p in problems)
    assert str(b).startswith(f"{tmp_path}/b.toml:3: ")


@pytest.mark.parametrize(
    "body",
    [
        'command = ["cat"]\nurl = "http://127.0.0.1:1/mcp"',
        'command = ["cat"]\nheaders = {A = "b"}',
        'url = "http://127.0.0.1:1/mcp"\nenv = {A = "b"}',
        'url = "file:///etc/passwd"',
        "command = []",
        'command = [""]',
        'command = "cat"',
        'command = ["cat"]\nenabled = "yes"',
        'command = ["cat"]\nera = "newest"',
        'command = ["cat"]\ncwd = "here"',
        'command = ["cat"]\n[restart]\nfirst_delay_seconds = 9\nmax_delay_seconds = 1',
        'command = ["cat"]\n[restart]\njitter = 1.5',
        'command = ["cat"]\n[health]\ninterval_seconds = true',
        'fastmcp = "/srv/notes.py"',
        'fastmcp = "notes.py:mcp"',
        'fastmcp = "/srv/notes.py:not a name"',
        'fastmcp = "/srv/notes.py:mcp"\ncommand = ["cat"]',
        'command = ["cat"]\npreload = ["numpy"]',
        'entry_point = "system"\npreload = ["numpy; import os"]',
    ],
)
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, body: str) -> None:
    write(tmp_path, "x", f'name = "x"\n{body}\n')
    manifests, problems = load(tmp_path)
    assert manifests == []
    assert problems
    assert all(p.level == "error" and p.fix for p in problems)


def test_the_owner_overrides_ours_and_twice_the_same_name_in_one_folder_is_an_error(
    tmp_path: Path,
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours, "x", 'name = "x"\ncommand = ["true"]\n')
    write(theirs, "x", 'name = "x"\ncommand = ["cat"]\n')
    write(theirs, "y", 'name = "x"\ncommand = ["false"]\n')
    manifests, problems = load(ours, theirs, tmp_path / "absent")
    assert [m.command for m in manifests] == [("cat",)]
    assert sorted(p.level for p in problems) == ["error", "info"]


def test_an_installed_server_without_manifest_appears_with_defaults(tmp_path: Path) -> None:
    write(tmp_path, "mine", 'name = "renamed"\nentry_point = "one"\nenabled = false\n')
    manifests, problems = load(tmp_path, installed={"one": "", "two": "Two.", "Bad_Name": ""})
    assert [(m.name, m.entry_point, m.enabled) for m in manifests] == [
        ("renamed", "one", False),
        ("two", "two", True),
    ]
    assert manifests[1].description == "Two."
    assert [p.key for p in problems] == ["Bad_Name"]


def test_an_entry_point_that_is_not_installed_is_named(tmp_path: Path) -> None:
    write(tmp_path, "x", 'name = "x"\n\nentry_point = "gone"\n')
    manifests, problems = load(tmp_path)
    assert [m.name for m in manifests] == ["x"]
    assert (problems[0].key, problems[0].line) == ("entry_point", 3)


def test_the_suites_own_manifests_are_right() -> None:
    manifests, problems = load_manifests([suite_folder()], environ=ENV)
    assert [p for p in problems if p.level == "error"] == []
    system = next(m for m in manifests if m.name == "system")
    assert argv_for(system) == (sys.executable, "-P", "-m", "hostwright_kit.run", "system")
    assert "system" in installed_servers()


def test_variables_expand_and_all_missing_ones_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "x",
        'name = "x"\ncommand = ["cat"]\n[env]\nA = "${HERE}-$HERE-$${HERE}-${NO:-d}"\n'
        'API_TOKEN = "${SECRET_TOKEN}"\n',
    )
    manifests, problems = load(tmp_path, env={**ENV, "HERE": "h", "SECRET_TOKEN": "hunter22"})
    assert problems == []
    got = expand(manifests[0], {"HERE": "h", "SECRET_TOKEN": "hunter22"})
    assert got.env == {"A": "h-$HERE-${HERE}-d", "API_TOKEN": "hunter22"}
    assert got.secret_values == {"hunter22"}
    assert "hunter22" not in f"{got!r} {got} {manifests[0]!r}"

    manifests, problems = load(tmp_path)
    (problem,) = problems
    assert "${HERE} in A" in problem.message
    assert "${SECRET_TOKEN} in API_TOKEN" in problem.message
    assert (problem.file, problem.line) == (path, 3)
    with pytest.raises(HostError, match="HERE") as caught:
        expand(manifests[0], {})
    assert caught.value.fix


def test_a_fastmcp_server_in_a_file_of_the_owners(tmp_path: Path) -> None:
    write(tmp_path, "x", 'name = "x"\n\nfastmcp = "~/none-such.py:app.mcp"\npreload = ["numpy"]\n')
    (x,), (problem,) = load(tmp_path)
    target = f"{Path.home()}/none-such.py:app.mcp"
    assert argv_for(x) == (sys.executable, "-P", "-m", "hostwright_kit.run_file", target)
    assert fork_for(x) == Fork(kind="file", target=target, preload=("numpy",))
    assert (problem.key, problem.line) == ("fastmcp", 3)
    # A stranger's code, whoever wrote the file: nothing exported reaches it unasked.
    env = build_environment(x, {"PATH": "/bin", "API_TOKEN": "x", "PYTHONPATH": "p"}, {}, "mark")
    assert env == {"PATH": "/bin", "PYTHONPATH": "p", "HOSTWRIGHT_CHILD": "mark"}
    assert fork_for(Manifest(name="y", command=("cat",))) is None


def test_a_disabled_manifest_may_lack_what_it_needs(tmp_path: Path) -> None:
    write(tmp_path, "x", 'name = "x"\nenabled = false\ncommand = ["nope-nope"]\nenv = {A="${Q}"}\n')
    manifests, problems = load(tmp_path)
    assert [m.enabled for m in manifests] == [False]
    assert problems == []


def test_headers_expand_and_are_secrets() -> None:
    remote = Manifest(
        name="r", url="https://example.test/mcp", headers={"Authorization": "Bearer ${TOKEN}"}
    )
    got = expand(remote, {"TOKEN": "abcdefgh"})
    assert got.headers == {"Authorization": "Bearer abcdefgh"}
    assert got.secret_values == {"abcdefgh", "Bearer abcdefgh"}
    with pytest.raises(HostError, match="remote"):
        argv_for(remote)


def test_tool_filter() -> None:
    tools = ToolFilter(include=("file_*", "shell_exec"), exclude=("*_delete",))
    assert tools.offers("file_read")
    assert tools.offers("shell_exec")
    assert not tools.offers("file_delete")
    assert not tools.offers("job_status")


def test_programs_are_found_on_the_path_and_relative_to_cwd(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert executable_for("./tool", "/usr/bin", tmp_path) == str(tool)
    assert executable_for("tool", str(tmp_path), None) == str(tool)
    tool.chmod(0o644)
    with pytest.raises(HostError, match="not found"):
        executable_for("tool", str(tmp_path), None)


def test_an_unreadable_and_an_oversized_file_are_problems(tmp_path: Path) -> None:
    (tmp_path / "dir.toml").mkdir()
    (tmp_path / "big.toml").write_text("#" * 300_000)
    manifests, problems = load(tmp_path)
    assert manifests == []
    assert len(problems) == 2


KEYS = st.text(string.ascii_lowercase, min_size=1, max_size=6)
SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8),
)


@given(st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=4)), max_size=6))
def test_a_keys_line_is_found_whatever_stands_around_it(data: dict[str, Any]) -> None:
    def literal(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + "".join(f"  {literal(item)},\n" for item in value) + "]"  # type: ignore[reportUnknownVariableType]
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            escaped = value.replace("\\", "\\\\").replace('"""', '""\\"')
            return f'"""\n{escaped} """'
        return str(value)

    lines: list[str] = []
    expected: dict[str, int] = {}
    for key, value in data.items():
        lines += ["# x = 1", ""]
        expected[key] = len(lines) + 1
        lines += f"{key} = {literal(value)}".split("\n")
    text = "\n".join(lines) + "\n"
    assert set(tomllib.loads(text)) == set(data)
    assert {key: _line_of(text, (key,)) for key in data} == expected
    assert _line_of(text, ("NOT-THERE",)) is None
