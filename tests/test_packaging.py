"""What a user installs: from a clone by uvx, and from the built wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv" / "bin" / "uv"
UVX = ROOT / ".venv" / "bin" / "uvx"


def run(*argv: str | Path, cwd: Path) -> str:
    """The command's output; a failure shows what it said."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, "UV_PYTHON": str(ROOT / ".venv" / "bin" / "python")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a clone of the working tree would have."""
    target = tmp_path_factory.mktemp("clone")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        if not source.exists() and not source.is_symlink():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
    return target


@pytest.fixture(scope="module")
def wheels(clone: Path) -> Path:
    """What `make dist` builds."""
    run(UV, "build", "--quiet", "--all-packages", "--wheel", "--out-dir", "dist", cwd=clone)
    return clone / "dist"


def test_uvx_runs_a_server_from_a_clone(clone: Path) -> None:
    command = ("--from", "./servers/system", "hostwright-system", "--version")
    assert run(UVX, *command, cwd=clone) == "hostwright-system 0.1.0\n"


def test_uvx_runs_a_server_from_the_built_wheels(wheels: Path, tmp_path: Path) -> None:
    command = ("--find-links", wheels, "hostwright-system", "--version")
    assert run(UVX, *command, cwd=tmp_path) == "hostwright-system 0.1.0\n"


def test_every_distribution_has_a_wheel(wheels: Path) -> None:
    built = {wheel.name.split("-")[0] for wheel in wheels.glob("*.whl")}
    assert built == {
        "hostwright",
        "hostwright_codegraph",
        "hostwright_guard",
        "hostwright_kit",
        "hostwright_system",
    }


def test_the_supervisors_wheel_carries_manifests_and_templates(wheels: Path) -> None:
    wheel = next(wheels.glob("hostwright-0*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "hostwright/manifests/system.toml" in names
    assert any(name.startswith("hostwright/templates/") for name in names)
    assert "hostwright/py.typed" in names
