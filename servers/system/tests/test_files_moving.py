"""`file_move`, `file_delete`, `file_restore`: what is moved or deleted always exists somewhere."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from hostwright_system.files import (
    Limits,
    Roots,
    file_delete,
    file_move,
    file_restore,
    file_write,
    open_file_space,
    trash_folder,
    trash_list,
)
from hostwright_system.files import openat2 as calls

from .files_world import World, refused, world_in


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with world_in(tmp_path) as made:
        yield made
        assert made.names_left() == []


@pytest.fixture
def far(tmp_path: Path) -> Generator[World]:
    """Root and state on two file systems."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system for tests")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        root, state = Path(name).resolve(), tmp_path / "state"
        state.mkdir(mode=0o700)
        roots = Roots(
            [root, tmp_path / "other"],
            protected=[state],
            working_folder=root,
            trash=trash_folder(state / "files"),
        )
        (tmp_path / "other").mkdir()
        space = open_file_space(roots, state / "files")
        yield World(root, tmp_path / "other", state, roots, space)
        space.close()


def grow(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "f").write_text("content")
    (folder / "deep" / "script").write_text("#!/bin/sh\n")
    (folder / "deep" / "script").chmod(0o755)
    (folder / "deep" / "link").symlink_to("er/f")
    (folder / "deep" / "dangling").symlink_to("/nowhere/at/all")
    os.utime(folder / "deep" / "er" / "f", (1_000_000_000, 1_000_000_000))


def check(folder: Path) -> None:
    assert (folder / "deep" / "er" / "f").read_text() == "content"
    assert (folder / "deep" / "er" / "f").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((folder / "deep" / "script").stat().st_mode) == 0o755
    assert (folder / "deep" / "link").readlink() == Path("er/f")
    assert (folder / "deep" / "dangling").readlink() == Path("/nowhere/at/all")


@pytest.fixture(params=["system", "emulated"])
def either_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the kernel's exclusive rename and without it."""
    if request.param == "emulated":
        monkeypatch.setattr(calls, "_exclusive_rename", lambda: None)


@pytest.mark.usefixtures("either_rename")
def test_moves(world: World) -> None:
    grow(world.root)
    moved = file_move(world.space, "deep", "there/deep", create_parents=True)
    assert (moved.kind, moved.across_file_systems) == ("directory", False)
    check(world.root / "there")
    assert not (world.root / "deep").exists()
    file_move(world.space, "there/deep/link", "link")
    assert (world.root / "link").is_symlink()
    (world.root / "a").write_text("a")
    (world.root / "b").write_text("b")
    with refused("exists"):
        file_move(world.space, "a", "b")
    replaced = file_move(world.space, "a", "b", overwrite=True)
    assert (world.root / "b").read_text() == "a"
    file_restore(world.space, replaced.replaced_backup_id or "", overwrite=True)
    assert (world.root / "b").read_text() == "b"
    with refused("exists"):
        file_move(world.space, "b", "there", overwrite=True)
    with refused("not_found"):
        file_move(world.space, "absent", "c")
    # rename(2) between two names of one file says yes and does nothing.
    (world.root / "b2").hardlink_to(world.root / "b")
    for target in ("b2", "b"):
        with refused("exists"):
            file_move(world.space, "b", target, overwrite=True)
    assert (world.root / "b").read_text() == (world.root / "b2").read_text() == "b"


def test_what_stays(world: World) -> None:
    (world.root / "project" / ".aws").mkdir(parents=True)
    (world.root / "project" / ".aws" / "credentials").write_text("SECRET")
    (world.root / "project" / "f").write_text("f")
    for path in ("project", "project/.aws"):
        with refused("denied"):
            file_move(world.space, path, "elsewhere")
        with refused("denied"):
            file_delete(world.space, path, recursive=True)
    for path in (".state", ".state/suite", str(world.root)):
        with refused("is_a_folder" if path == str(world.root) else "denied"):
            file_move(world.space, path, "elsewhere")
        with refused("is_a_folder" if path == str(world.root) else "denied"):
            file_delete(world.space, path, recursive=True)
    (world.root / "venv").mkdir()
    (world.root / "venv" / "cacert.pem").write_text("public, but named like a key")
    with refused("exists"):
        file_move(world.space, "venv", "venv/inside/itself", create_parents=True)
    file_move(world.space, "venv", "venv2")
    with refused("denied"):
        file_move(world.space, "venv2/cacert.pem", "readable.txt")
    os.mkfifo(world.root / "venv2" / "fifo")
    with refused("not_a_regular_file"):
        file_delete(world.space, "venv2", recursive=True)
    (world.root / "out").symlink_to(world.outside)
    with refused("outside_roots"):
        file_delete(world.space, "out/secret")
    with refused("outside_roots"):
        file_move(world.space, "project/f", "out/f")
    file_delete(world.space, "out")  # the link itself
    assert (world.outside / "secret").read_text() == "SECRET"


def test_a_root_within_a_root_stays(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    state = tmp_path / "state"
    roots = Roots(
        [tmp_path, tmp_path / "a" / "b"],
        protected=[state],
        working_folder=tmp_path,
        trash=trash_folder(state / "files"),
    )
    space = open_file_space(roots, state / "files")
    try:
        with refused("denied"):
            file_delete(space, "a", recursive=True)
    finally:
        space.close()


def test_delete_and_restore(world: World) -> None:
    grow(world.root)
    with refused("not_empty"):
        file_delete(world.space, "deep")
    deleted = file_delete(world.space, "deep", recursive=True)
    assert (deleted.kind, deleted.entries) == ("directory", 6)
    assert not (world.root / "deep").exists()
    page = trash_list(world.space)
    assert [item.trash_id for item in page.items] == [deleted.trash_id]
    assert page.total_size_bytes == deleted.size_bytes
    (world.root / "deep").write_text("in the way")
    with refused("exists"):
        file_restore(world.space, deleted.trash_id)
    restored = file_restore(world.space, deleted.trash_id, overwrite=True)
    check(world.root)
    assert trash_list(world.space).total == 1
    with refused("not_found"):
        file_restore(world.space, deleted.trash_id)
    file_delete(world.space, "deep", recursive=True)
    file_restore(world.space, restored.replaced_trash_id or "")
    assert (world.root / "deep").read_text() == "in the way"


def test_restore_makes_the_lost_parents(world: World) -> None:
    file_write(world.space, "a/b/f", "x", create_parents=True)
    first = file_delete(world.space, "a/b/f")
    file_delete(world.space, "a", recursive=True)
    file_restore(world.space, first.trash_id)
    assert (world.root / "a/b/f").read_text() == "x"
    with refused("bad_id"):
        file_restore(world.space, "nonsense")


def test_the_trash_is_bounded(tmp_path: Path) -> None:
    with world_in(tmp_path, Limits(trash_items=3, trash_bytes=100)) as world:
        made: list[str] = []
        pruned: list[str] = []
        for n in range(6):
            (world.root / "f").write_text(str(n))
            deleted = file_delete(world.space, "f")
            made.append(deleted.trash_id)
            pruned += deleted.pruned_trash_ids
        assert pruned == made[:3]
        assert len(list((world.state / "files" / "trash").iterdir())) == 3
        (world.root / "large").write_bytes(b"x" * 101)
        with refused("too_large"):
            file_delete(world.space, "large")
        assert (world.root / "large").exists()


def test_trash_after_a_crash_in_between(world: World) -> None:
    """The row is there, the item is or is not: the next start finds out which."""
    (world.root / "f").write_text("x")
    kept = file_delete(world.space, "f").trash_id
    (world.root / "g").write_text("y")
    lost = file_delete(world.space, "g").trash_id
    folder = world.state / "files"
    world.space.history.db.execute("UPDATE trash SET arrived = 0")
    (folder / "trash" / lost / "item").rename(world.root / "g")
    again = open_file_space(world.roots, folder)
    try:
        assert [item.trash_id for item in trash_list(again).items] == [kept]
        file_restore(again, kept)
    finally:
        again.close()
    assert (world.root / "f").read_text() == "x"
    assert list((folder / "trash").iterdir()) == []


def test_across_file_systems(far: World) -> None:
    grow(far.root)
    moved = file_move(far.space, "deep", str(far.outside / "deep"))
    assert moved.across_file_systems
    check(far.outside)
    assert not (far.root / "deep").exists()
    file_move(far.space, str(far.outside / "deep"), "deep")
    check(far.root)
    deleted = file_delete(far.space, "deep", recursive=True)
    assert not (far.root / "deep").exists()
    file_restore(far.space, deleted.trash_id)
    check(far.root)
    (far.root / "f").write_text("new")
    (far.outside / "f").write_text("old")
    over = file_move(far.space, "f", str(far.outside / "f"), overwrite=True)
    assert (far.outside / "f").read_text() == "new"
    assert (over.across_file_systems, over.replaced_backup_id is not None) == (True, True)
    assert far.names_left() == []
    assert not list(far.outside.glob(".hostwright-*"))


def test_a_locked_or_foreign_page_is_refused(world: World) -> None:
    for n in range(4):
        (world.root / "f").write_text(str(n))
        file_delete(world.space, "f")
    first = trash_list(world.space, limit=3)
    second = trash_list(world.space, limit=3, cursor=first.next_cursor)
    assert (len(first.items), len(second.items), second.next_cursor) == (3, 1, None)
    with refused("bad_cursor"):
        trash_list(world.space, cursor="rubbish")
    with refused("bad_limit"):
        trash_list(world.space, limit=0)
