"""A root, an outside and a state folder for the tests of the file tools."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.files import FileSpace, Limits, Roots, open_file_space, trash_folder


@dataclass(frozen=True)
class World:
    """`root` is open to the tools, `outside` is not, `state` lies inside the root and is closed."""

    root: Path
    outside: Path
    state: Path
    roots: Roots
    space: FileSpace

    def names_left(self) -> list[str]:
        """Temporary names that a tool should have removed."""
        return [str(p) for p in self.root.rglob(".hostwright-*")]


@contextmanager
def world_in(base: Path, limits: Limits | None = None) -> Generator[World]:
    """A fresh world below `base`."""
    root, outside = base / "root", base / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("SECRET")
    state = root / ".state" / "suite"
    roots = Roots(
        [root],
        protected=[state],
        home=root,
        working_folder=root,
        trash=trash_folder(state / "files"),
    )
    state.mkdir(parents=True, mode=0o700)
    space = open_file_space(roots, state / "files", limits)
    try:
        yield World(root, outside, state, roots, space)
    finally:
        space.close()


@contextmanager
def fast_folder() -> Generator[Path]:
    """A folder in memory where the system has one: for tests that sync thousands of times."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield base
    finally:
        shutil.rmtree(base)


def as_ordinary_user(scene: Callable[[Path], None]) -> None:
    """Run `scene(folder)` without root's powers: in a child as nobody when this is root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if os.geteuid() != 0:
            scene(Path(name))
            return
        os.chown(name, 65534, 65534)
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                scene(Path(name))
                code = 0
            except BaseException:  # noqa: BLE001 (the child must not run on as a second pytest)
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see its traceback above"


@contextmanager
def refused(code: str) -> Generator[list[HostError]]:
    """The block must raise a `HostError` with this code and a remedy."""
    caught: list[HostError] = []
    with pytest.raises(HostError) as info:
        yield caught
    caught.append(info.value)
    assert info.value.code == code, str(info.value)
    assert info.value.fix
