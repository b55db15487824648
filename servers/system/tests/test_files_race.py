"""A folder is exchanged for a link to the outside, over and over, while files in it are used.

The attacker is a process of its own that does nothing but renameat2(2) RENAME_EXCHANGE. A tool that
checks a path and then opens it leaks hundreds of times in as many tries; these leak never.
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.files import (
    Roots,
    directory_list,
    file_delete,
    file_read,
    file_search,
    file_write,
)
from hostwright_system.files import openat2 as calls

from .files_world import World, fast_folder, world_in

ROUNDS = 20_000

ATTACKER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, two = (os.fsencode(p) for p in sys.argv[1:3])
print("ready", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000):
        if libc.renameat2(-100, one, -100, two, 2):
            sys.exit(os.strerror(ctypes.get_errno()))
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the attack needs Linux' RENAME_EXCHANGE"
)


@contextmanager
def attacked(world: World) -> Generator[None]:
    """`root/t/x` is by turns a folder with the file `f` and a link to the outside."""
    (world.root / "t" / "x").mkdir(parents=True)
    (world.root / "t" / "x" / "f").write_text("inside")
    (world.root / "t" / "y").symlink_to(world.outside)
    (world.outside / "f").write_text("OUTSIDE")
    attacker = subprocess.Popen(
        [sys.executable, "-c", ATTACKER, world.root / "t" / "x", world.root / "t" / "y"],
        stdout=subprocess.PIPE,
    )
    try:
        assert attacker.stdout
        assert attacker.stdout.readline() == b"ready\n"
        yield
        assert attacker.poll() is None, "the attack ended before the test"
    finally:
        attacker.kill()
        attacker.wait()
        if attacker.stdout:
            attacker.stdout.close()


@pytest.fixture
def world() -> Generator[World]:
    with fast_folder() as base, world_in(base) as made, attacked(made):
        yield made


def outcomes(rounds: int, act: Callable[[int], str]) -> collections.Counter[str]:
    counted: collections.Counter[str] = collections.Counter()
    for n in range(rounds):
        try:
            counted[act(n)] += 1
        except HostError as error:
            counted[error.code] += 1
    return counted


def assert_untouched(world: World) -> None:
    assert (world.outside / "f").read_text() == "OUTSIDE"
    assert sorted(p.name for p in world.outside.iterdir()) == ["f", "secret"]


def test_the_attack_works_on_a_tool_that_checks_first(world: World) -> None:
    """Otherwise the tests below would prove nothing."""

    def naive(_: int) -> str:
        path = world.root / "t" / "x" / "f"
        try:
            real = os.path.realpath(path)
            return path.read_text() if real.startswith(f"{world.root}/") else "refused"
        except OSError as error:
            return str(error.errno)

    counted: collections.Counter[str] = collections.Counter()
    for _ in range(100):
        counted += outcomes(1000, naive)
        if counted["OUTSIDE"]:
            return
    pytest.fail(f"the attacker never won: {counted}")


def test_reads_never_leak(world: World) -> None:
    counted = outcomes(ROUNDS, lambda _: file_read(world.roots, "t/x/f").text or "")
    assert set(counted) <= {"inside", "outside_roots", "moving_target", "not_found"}, counted
    assert counted["inside"] > ROUNDS / 100, counted
    assert counted["outside_roots"] > ROUNDS / 100, counted


def test_reads_never_leak_with_the_portable_walk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "has_openat2", lambda: False)
    counted = outcomes(ROUNDS // 10, lambda _: file_read(world.roots, "t/x/f").text or "")
    assert "OUTSIDE" not in counted
    assert counted["inside"] > 0, counted


def test_writes_never_leave_the_root(world: World) -> None:
    def write(n: int) -> str:
        # Nine of ten replace or create without a backup, the tenth goes through the whole of it.
        written = file_write(
            world.space, f"t/x/{'f' if n % 2 else 'g'}", f"inside {n}", without_backup=n % 10 != 0
        )
        return "written" if Path(written.path).is_relative_to(world.root) else written.path

    counted = outcomes(ROUNDS, write)
    assert set(counted) <= {"written", "outside_roots", "moving_target", "changed"}, counted
    assert counted["written"] > ROUNDS / 100, counted
    assert_untouched(world)


def test_deletes_lists_and_searches_stay_inside(world: World) -> None:
    def act(n: int) -> str:
        if n % 3 == 0:
            file_write(world.space, "t/x/h", "inside", without_backup=True)
            return Path(file_delete(world.space, "t/x/h").path).parts[-1]
        if n % 3 == 1:
            page = directory_list(world.roots, "t/x")
            return "secret" if any(e.path == "secret" for e in page.entries) else "listed"
        found = file_search(world.roots, "t", content="OUTSIDE|SECRET", case="sensitive")
        return "leaked" if found.matches else "searched"

    counted = outcomes(1500, act)
    known = {"h", "listed", "searched", "outside_roots", "moving_target", "not_found", "changed"}
    assert set(counted) <= known, counted
    assert counted["listed"] > 0
    assert counted["searched"] > 0
    assert_untouched(world)


def test_the_state_folder_is_no_way_out_either(world: World) -> None:
    """A link that points into the suite's state by turns: refused, never read."""
    (world.state / "f").write_text("STATE")
    (world.root / "t" / "z").mkdir()
    (world.root / "t" / "z" / "f").write_text("inside")
    link = world.root / "t" / "w"
    link.symlink_to(world.state)
    attacker = subprocess.Popen(
        [sys.executable, "-c", ATTACKER, world.root / "t" / "z", link], stdout=subprocess.PIPE
    )
    try:
        assert attacker.stdout
        assert attacker.stdout.readline() == b"ready\n"
        roots: Roots = world.roots
        counted = outcomes(2000, lambda _: file_read(roots, "t/z/f").text or "")
    finally:
        attacker.kill()
        attacker.wait()
        if attacker.stdout:
            attacker.stdout.close()
    assert "STATE" not in counted
    assert {"inside", "denied"} <= set(counted), counted
