"""`scripts/test_deps.py`: what counts as installed, and that nothing to do is quickly done."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .harness import NODE_BIN, ROOT, client

SCRIPT = ROOT / "scripts" / "test_deps.py"


@pytest.fixture
def deps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, working in a folder of its own."""
    spec = importlib.util.spec_from_file_location("hostwright_test_deps", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DEPS", tmp_path)
    return module


def test_a_folder_counts_only_when_it_was_completed_for_this_version(
    deps: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "npm" / "thing"
    partial = deps.fresh(folder)
    (partial / "command").touch()
    assert not deps.installed(folder, "thing@1", folder / "command")

    deps.complete(partial, folder, "thing@1")
    assert deps.installed(folder, "thing@1", folder / "command")
    assert not deps.installed(folder, "thing@2", folder / "command")
    (folder / "command").unlink()
    assert not deps.installed(folder, "thing@1", folder / "command")


def test_what_an_interrupted_run_left_is_cleared_away(deps: ModuleType, tmp_path: Path) -> None:
    (deps.fresh(tmp_path / "thing") / "half").touch()
    assert list(deps.fresh(tmp_path / "thing").iterdir()) == []


def test_a_new_version_replaces_the_old_one_whole(deps: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    for version in ("1", "2"):
        partial = deps.fresh(folder)
        (partial / version).touch()
        deps.complete(partial, folder, version)
    assert sorted(path.name for path in folder.iterdir()) == [".installed", "2"]


def test_a_failing_installer_is_shown(deps: ModuleType) -> None:
    with pytest.raises(deps.InstallError, match=r"ended with 3\nno such package"):
        deps.run("thing@1", ["/bin/sh", "-c", "echo no such package; exit 3"])


def test_missing_system_packages_are_named(
    deps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent"
    packages = (
        deps.SystemPackage("here", tmp_path),
        deps.SystemPackage("lacking", absent),
        deps.SystemPackage("for-root", absent, root_only=True),
    )
    monkeypatch.setattr(deps, "SYSTEM_PACKAGES", packages)
    monkeypatch.setattr(sys, "platform", "linux")
    assert deps.missing_system_packages(as_root=True) == ["lacking", "for-root"]
    assert deps.missing_system_packages(as_root=False) == ["lacking"]
    monkeypatch.setattr(deps.os, "geteuid", lambda: 1000)
    with pytest.raises(deps.InstallError, match=r"as root: lacking$"):
        deps.install_system_packages()


@pytest.mark.clients
def test_the_clients_run_on_the_pinned_node(deps: ModuleType) -> None:
    version = deps.NODE_WHEEL.partition("==")[2]
    shown = subprocess.check_output([NODE_BIN / "node", "--version"], text=True)
    assert shown.strip() == f"v{version}"
    for package in deps.CLIENTS:
        assert client(package.folder, package.command)


@pytest.mark.clients
def test_with_nothing_to_do_nothing_is_said() -> None:
    said = subprocess.check_output([sys.executable, SCRIPT], stderr=subprocess.STDOUT, timeout=60)
    assert said == b""
