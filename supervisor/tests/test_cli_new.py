"""`new` in a copy of this checkout: what it makes passes every check as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hostwright.scaffolding import MAX_NAME_CHARS, find_checkout, scaffold, wire
from hostwright_kit.errors import HostError

from .cli_world import World

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# One that sorts before the kit and has a hyphen, one that sorts behind; the longest there may be.
NAMES = ("a-b", "z" * MAX_NAME_CHARS)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as it would be committed now."""
    copy = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, listed):
        source, target = ROOT / os.fsdecode(name), copy / os.fsdecode(name)
        if not source.exists():
            continue  # deleted, and not committed yet
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    (copy / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    return copy


@pytest.fixture(scope="module")
def made(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both servers made by the command and installed; the environment in which they are."""
    world = World(tmp_path_factory.mktemp("cli"))
    world.work = checkout / "servers" / "system"  # anywhere in the checkout
    target = tmp_path_factory.mktemp("installed")
    for name in NAMES:
        document = world.json("new", name)
        assert document["folder"] == str(checkout / "servers" / name)
        assert f"servers/{name}/pyproject.toml" in document["files"]
        argv = [BIN / "uv", "pip", "install", "-q", "--no-deps", "--target", target]
        subprocess.run([*argv, checkout / "servers" / name], check=True)
    sources = [checkout / "servers" / name for name in NAMES]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*sources, target]))}


def run(checkout: Path, env: dict[str, str], *argv: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in argv], cwd=checkout, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_server_passes_the_linters(checkout: Path, made: dict[str, str]) -> None:
    folders = [f"servers/{name}" for name in NAMES]
    run(checkout, made, BIN / "ruff", "check", *folders)
    run(checkout, made, BIN / "ruff", "format", "--check", *folders)
    run(checkout, made, BIN / "pyright", *folders)


def test_a_new_server_keeps_the_import_rules_and_its_tool_table(
    checkout: Path, made: dict[str, str]
) -> None:
    assert "0 broken" in run(checkout, made, BIN / "lint-imports")
    run(checkout, made, sys.executable, "scripts/tool_docs.py", "--check")


def test_a_server_that_breaks_the_import_rules_is_caught(
    checkout: Path, made: dict[str, str]
) -> None:
    """So that the rules in the root really name the new package."""
    module = checkout / "servers" / "a-b" / "hostwright_a_b" / "bad.py"
    module.write_text("import hostwright_system\n")
    try:
        done = subprocess.run(
            [BIN / "lint-imports"], cwd=checkout, env=made, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    finally:
        module.unlink()
    assert done.returncode == 1
    assert "hostwright_a_b" in done.stdout


def test_a_new_servers_own_tests_pass(checkout: Path, made: dict[str, str]) -> None:
    passed = run(checkout, made, sys.executable, "-m", "pytest", "-q", "servers/a-b")
    assert " passed" in passed


def test_the_workspace_holds_the_new_server_and_is_else_as_it_was(
    checkout: Path, made: dict[str, str]
) -> None:
    before = (ROOT / "pyproject.toml").read_text().splitlines()
    after = (checkout / "pyproject.toml").read_text().splitlines()
    changed = [line for line in after if line not in before]
    gone = [line for line in before if line not in after]
    assert len(changed) == len(gone) + len(NAMES)
    data = tomllib.loads("\n".join(after))
    assert "hostwright-a-b" in data["project"]["dependencies"]
    assert data["tool"]["uv"]["sources"]["hostwright-a-b"] == {"workspace": True}
    linter = data["tool"]["importlinter"]
    assert "hostwright_a_b" in linter["root_packages"]
    assert "hostwright_a_b" in linter["contracts"][0]["modules"]
    assert "hostwright_a_b" in linter["contracts"][1]["forbidden_modules"]
    manifest = tomllib.loads((checkout / "manifests" / "a-b.toml").read_text())
    assert manifest["entry_point"] == manifest["name"] == "a-b"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("system", "exists"),
        ("a-b", "exists"),
        ("kit", "bad_name"),
        ("Upper", "bad_name"),
        ("a_b", "bad_name"),
        ("a--b", "bad_name"),
        ("-a", "bad_name"),
        ("../x", "bad_name"),
        ("9a", "bad_name"),
        ("", "bad_name"),
        ("x" * (MAX_NAME_CHARS + 1), "bad_name"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(
    checkout: Path, made: dict[str, str], name: str, code: str
) -> None:
    before = (checkout / "pyproject.toml").read_text()
    with pytest.raises(HostError) as refused:
        scaffold(name, checkout)
    assert refused.value.code == code
    assert (checkout / "pyproject.toml").read_text() == before


def test_outside_a_checkout_it_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.work / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    done = world.run("new", "notes", "--json")
    assert done.code == 1
    assert done.error["code"] == "no_checkout"
    assert [path.name for path in world.work.iterdir()] == ["pyproject.toml"]
    assert find_checkout(Path(__file__).parent) == ROOT


def test_a_step_that_fails_undoes_the_ones_before(checkout: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "servers").mkdir(parents=True)
    shutil.copy(checkout / "pyproject.toml", root)
    before = (root / "pyproject.toml").read_text()
    (root / "manifests").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="manifests"):
        scaffold("notes", root)
    assert (root / "pyproject.toml").read_text() == before
    assert list((root / "servers").iterdir()) == []


def test_a_workspace_that_is_laid_out_otherwise_is_refused() -> None:
    with pytest.raises(HostError, match="not laid out as expected"):
        wire('[project]\nname = "hostwright-workspace"\n', "notes")
