"""Dry runs: nothing is touched, everything is shown, exactly that is applied, or nothing is."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostwright_guard.sandbox.preview import apply as applying
from hostwright_guard.sandbox.preview import renaming, tree
from hostwright_guard.sandbox.preview.apply import Applying, InPartError
from hostwright_guard.sandbox.preview.changes import Change, read_changes
from hostwright_guard.sandbox.preview.store import Previews, Record
from hostwright_kit.vouching import ERROR_META

from .guard_world import World, call, failed

SCRIPT = """
echo changed > text.txt; echo new > made.txt; rm gone.txt; chmod 600 mode.txt
rm -r tree; mkdir tree; echo other > tree/other; rm -r whole; ln -sf made.txt link
rm file-to-folder; mkdir file-to-folder; echo in > file-to-folder/in
rm -r folder-to-file; echo flat > folder-to-file; mv moved deep/er
getent hosts tunnel.attacker.example || true
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.configure('[policy]\nprofile = "autonomous"\n')
    fill(found.work)
    return found


def fill(folder: Path) -> None:
    for name in ("text.txt", "gone.txt", "mode.txt", "file-to-folder", "same.txt"):
        (folder / name).write_text(f"line one\nof {name}\n")
        (folder / name).chmod(0o644)
    for name in ("tree/deep", "whole/deep", "folder-to-file", "moved", "deep"):
        (folder / name).mkdir(parents=True)
        (folder / name / "leaf").write_text("leaf\n")
    (folder / "binary").write_bytes(b"\0\1\2")


def picture(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Everything that can be seen of a tree: kind and mode, content."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = f"{path.lstat().st_mode:o}" if not path.is_symlink() else "link"
        content = (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes().hex()
            if path.is_file()
            else ""
        )
        found[name] = (mode, content, "")
    return found


async def previewed(client: Any, folder: Path, script: str = SCRIPT) -> dict[str, Any]:
    return await call(client, "sandbox_preview", argv=["sh", "-c", script], folder=str(folder))


async def test_it_shows_everything_and_touches_nothing(world: World) -> None:
    before = picture(world.work)
    async with world.client() as client:
        result = await previewed(client, world.work)
    assert (result["exit_code"], picture(world.work)) == (0, before)
    shown = {one["path"]: one for one in result["changes"]}
    assert {path: (one["action"], one["kind"]) for path, one in shown.items()} == {
        "deep/er": ("created", "folder"),
        "deep/er/leaf": ("created", "file"),
        "file-to-folder": ("created", "folder"),
        "file-to-folder/in": ("created", "file"),
        "folder-to-file": ("created", "file"),
        "folder-to-file/leaf": ("deleted", "file"),
        "gone.txt": ("deleted", "file"),
        "link": ("created", "link"),
        "made.txt": ("created", "file"),
        "mode.txt": ("mode", "file"),
        "moved": ("deleted", "folder"),
        "moved/leaf": ("deleted", "file"),
        "text.txt": ("changed", "file"),
        "tree/deep": ("deleted", "folder"),
        "tree/deep/leaf": ("deleted", "file"),
        "tree/other": ("created", "file"),
        "whole": ("deleted", "folder"),
        "whole/deep": ("deleted", "folder"),
        "whole/deep/leaf": ("deleted", "file"),
    }
    assert shown["text.txt"]["diff"].splitlines()[2:] == [
        "@@ -1,2 +1 @@", "-line one", "-of text.txt", "+changed",
    ]  # fmt: skip
    assert (shown["mode.txt"]["old_mode"], shown["mode.txt"]["mode"]) == ("0644", "0600")
    assert [(one["target"], one["verdict"]) for one in result["network"]] == [
        ("tunnel.attacker.example", "refused")
    ]


async def test_exactly_what_was_shown_is_applied_and_once(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world.work, copy, symlinks=True)
    subprocess.run(["sh", "-c", SCRIPT], cwd=copy, check=True, capture_output=True)
    async with world.client() as client:
        commit = (await previewed(client, world.work))["commit"]
        done = await call(client, "sandbox_commit", **commit)
        assert done["applied"] == 19
        again = await failed(client, "sandbox_commit", **commit)
        assert again["code"] == "already_done"
    assert picture(world.work) == picture(copy)


async def test_the_owner_reads_what_would_be_applied(world: World) -> None:
    world.configure("")
    async with world.client() as client:
        commit = (await previewed(client, world.work, "echo x > text.txt; rm gone.txt"))["commit"]
        assert commit["changes"] == ["deleted file gone.txt", "changed file text.txt"]
        error = await failed(client, "sandbox_commit", **commit)
        assert error["code"] == "approval_needed"
        with world.approvals() as approvals:
            (waiting,) = approvals.pending()
            assert "deleted file gone.txt" in str(waiting.arguments)
        world.decide(error["approval_id"])
        lied = {**commit, "changes": ["changed file text.txt"]}
        assert (await failed(client, "sandbox_commit", **lied))["code"] == "approval_needed"
        assert (await call(client, "sandbox_commit", **commit))["applied"] == 2
    assert not (world.work / "gone.txt").exists()


def rewrite_in_place(work: Path) -> None:
    """Same size, same time: only the time of change tells."""
    info = (work / "same.txt").stat()
    (work / "same.txt").write_text("LINE one\nof same.txt\n")
    os.utime(work / "same.txt", ns=(info.st_atime_ns, info.st_mtime_ns))


MEANWHILE: dict[str, Callable[[Path], Any]] = {
    "another file is written": lambda work: (work / "same.txt").write_text("x"),
    "the same file is written": lambda work: (work / "text.txt").write_text("x"),
    "a file is added": lambda work: (work / "tree/new").write_text("x"),
    "a file is removed": lambda work: (work / "same.txt").unlink(),
    "a mode is changed": lambda work: (work / "same.txt").chmod(0o600),
    "a file is rewritten without a trace": rewrite_in_place,
    "a link is put in the place of a folder": lambda work: (
        shutil.rmtree(work / "deep"),
        (work / "deep").symlink_to("/etc"),
    ),
    "the folder is another one": lambda work: (
        work.rename(work.parent / "old"),
        shutil.copytree(work.parent / "old", work, symlinks=True),
    ),
}


async def test_what_changed_meanwhile_is_not_overwritten(world: World) -> None:
    async with world.client() as client:
        for number, (what, change) in enumerate(MEANWHILE.items()):
            folder = world.work / f"folder{number}"
            folder.mkdir()
            fill(folder)
            commit = (await previewed(client, folder))["commit"]
            change(folder)
            before = picture(folder)
            error = await failed(client, "sandbox_commit", **commit)
            assert error["code"] == "conflict", what
            assert picture(folder) == before, what


async def test_nobody_else_and_nothing_else_can_be_committed(world: World) -> None:
    async with world.client() as client:
        commit = (await previewed(client, world.work))["commit"]
        for altered in (
            {**commit, "digest": "0" * 64},
            {**commit, "changes": commit["changes"][:-1]},
            {**commit, "changes": [*commit["changes"], "changed file more"]},
        ):
            assert (await failed(client, "sandbox_commit", **altered))["code"] == "conflict"
        upper = world.state / "previews" / commit["preview_id"] / "upper"
        (upper / "made.txt").write_text("tampered")
        assert (await failed(client, "sandbox_commit", **commit))["code"] == "conflict"
    async with world.client(name="other") as other:
        assert (await failed(other, "sandbox_commit", **commit))["code"] == "not_found"


async def test_it_looks_only_where_the_owner_allows(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with world.client() as client:
        error = await failed(client, "sandbox_preview", argv=["ls"], folder=str(elsewhere))
        assert error["code"] == "not_granted"
        minted = await call(client, "capability_mint", grant={"write": [str(elsewhere)]})
        result = await call(
            client, "sandbox_preview", argv=["touch", "new"], folder=str(elsewhere),
            token=minted["token"],
        )  # fmt: skip
        assert [one["path"] for one in result["changes"]] == ["new"]


def operations(chance: random.Random) -> str:
    """A shell script of things that programs do to trees, some of which fail."""
    names = ["a", "b", "c", "a/x", "b/y", "a/x/z", "c/w"]
    lines: list[str] = []
    for _ in range(40):
        one, two = chance.choice(names), chance.choice(names)
        lines.append(
            chance.choice(
                (
                    f"mkdir -p {one}",
                    f"echo {chance.random()} > {one}",
                    f"echo more >> {one}",
                    f"rm -rf {one}",
                    f"mv -T {one} {two}",
                    f"cp -a {one} {two}",
                    f"ln -sfn {two} {one}",
                    f"chmod {chance.choice(('700', '750', '755'))} {one}",
                    f"rm -rf {one}; mkdir {one}",
                )
            )
        )
    return "umask 022\n" + "\n".join(f"{line} 2>/dev/null" for line in lines) + "\ntrue"


async def test_any_sequence_of_operations_comes_to_the_same(world: World, tmp_path: Path) -> None:
    """What is shown and applied is what the same commands do directly."""
    async with world.client() as client:
        for seed in range(5):
            chance = random.Random(seed)  # noqa: S311 - the same every time
            folders = [world.work / f"one{seed}", tmp_path / f"two{seed}"]
            start = operations(chance)
            for folder in folders:
                folder.mkdir()
                subprocess.run(["sh", "-c", start], cwd=folder, check=True)
            assert picture(folders[0]) == picture(folders[1])
            script = operations(chance)
            subprocess.run(["sh", "-c", script], cwd=folders[1], check=True)
            result = await previewed(client, folders[0], script)
            if result["commit"] is not None:
                await call(client, "sandbox_commit", **result["commit"])
            assert picture(folders[0]) == picture(folders[1]), seed


def test_a_commit_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """After any number of steps, applying again comes to the same end."""
    upper = tmp_path / "upper"
    (upper / "made").mkdir(parents=True)
    (upper / "made/file").write_text("new")
    (upper / "text.txt").write_text("changed")
    os.mknod(upper / "gone.txt", 0o600 | 0o020000, 0) if os.geteuid() == 0 else None
    for stop in range(5):
        folder = tmp_path / f"folder{stop}"
        folder.mkdir()
        (folder / "text.txt").write_text("old")
        (folder / "gone.txt").write_text("old")
        lower, over = (os.open(path, os.O_RDONLY) for path in (folder, upper))
        changes = read_changes(lower, over)
        assert len(changes) >= 3
        # The parent of what is left may be missing: then that step is among those that were done.
        done = [one for one in changes if one.kind == "folder"] + changes[:stop]
        Applying(lower, over, "0", None).run(done)
        Applying(lower, over, "0", None).run(changes)
        assert (folder / "text.txt").read_text() == "changed"
        assert (folder / "made/file").read_text() == "new"
        assert read_changes(lower, over) == [] or os.geteuid() != 0
        for handle in (lower, over):
            os.close(handle)


def some_changes(tmp_path: Path) -> tuple[Path, int, int, list[Change]]:
    """A folder, and aside: a file changed, one created in a new folder, one mode, one link."""
    folder, upper = tmp_path / "folder", tmp_path / "upper"
    folder.mkdir()
    fill(folder)
    (upper / "made/deep").mkdir(parents=True)
    (upper / "made/deep/file").write_text("new")
    (upper / "made/deep").chmod(0o555)
    (upper / "text.txt").write_text("changed")
    (upper / "link").symlink_to("text.txt")
    shutil.copy2(folder / "mode.txt", upper / "mode.txt")
    (upper / "mode.txt").chmod(0o600)
    lower, over = (os.open(path, os.O_RDONLY) for path in (folder, upper))
    gone = [
        Change(path="moved", action="deleted", kind="folder", old_mode="0755"),
        Change(path="moved/leaf", action="deleted", kind="file", old_mode="0644"),
    ]
    return folder, lower, over, sorted([*read_changes(lower, over), *gone], key=lambda c: c.path)


def test_a_commit_that_fails_takes_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step: a disk that is full, a permission that is missing."""
    folder, lower, over, changes = some_changes(tmp_path)
    before = picture(folder)
    steps = ("exchange", "into_nothing")
    failed_at = 0
    for stop in range(20):
        left = [stop]

        def failing(real: Callable[..., None], left: list[int] = left) -> Callable[..., None]:
            def step(*arguments: Any) -> None:
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(28, "No space left on device", "x")
                real(*arguments)

            return step

        with monkeypatch.context() as patch:
            for name in steps:
                patch.setattr(applying.renaming, name, failing(getattr(renaming, name)))
            expected: dict[str, os.stat_result] = {}
            tree.fingerprint(lower, expected)
            try:
                Applying(lower, over, "0", expected).run(changes)
            except OSError:
                failed_at += 1
                assert picture(folder) == before, stop
            else:
                break
    assert failed_at >= 3
    assert (folder / "text.txt").read_text() == "changed"
    assert (folder / "made/deep").stat().st_mode & 0o777 == 0o555
    assert (folder / "mode.txt").stat().st_mode & 0o777 == 0o600
    assert not (folder / "moved").exists()
    assert not list(folder.glob(".hostwright-*"))
    (folder / "made/deep").chmod(0o755)


def test_what_is_written_between_the_check_and_the_change_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very moment before each step somebody writes what the preview never saw."""
    folder, lower, over, changes = some_changes(tmp_path)
    intruders: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("text.txt", lambda: (folder / "text.txt").write_text("theirs")),
        ("made", lambda: (folder / "made").write_text("theirs")),
        ("link", lambda: (folder / "link").write_text("theirs")),
        ("moved/theirs", lambda: (folder / "moved/theirs").write_text("theirs")),
    )
    for path, write in intruders:
        before = picture(folder)
        expected: dict[str, os.stat_result] = {}
        tree.fingerprint(lower, expected)
        one = Applying(lower, over, "0", expected)
        write()
        with pytest.raises(Exception, match="changed since"):
            one.run(changes)
        assert (folder / path).read_text() == "theirs"
        (folder / path).unlink()
        if path == "text.txt":
            (folder / path).write_text("line one\nof text.txt\n")
            (folder / path).chmod(0o644)
        assert picture(folder) == before, path


def test_what_cannot_be_taken_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lower, over, changes = some_changes(tmp_path)
    expected: dict[str, os.stat_result] = {}
    tree.fingerprint(lower, expected)
    one = Applying(lower, over, "0", expected)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(one, "_set_mode", full)
    monkeypatch.setattr(one, "_bring_back", full)
    with pytest.raises(InPartError) as error:
        one.run(changes)
    assert "No space" in str(error.value)
    assert set(error.value.left) == {"moved", "moved/leaf"}
    held = [path for path in (folder / error.value.folder).iterdir() if path.is_file()]
    assert "leaf\n" in [path.read_text() for path in held]


async def test_names_attributes_and_links_are_told_as_they_are(world: World) -> None:
    (world.work / "many").write_text("one\n")
    os.link(world.work / "many", world.work / "other-name")
    os.setxattr(world.work / "same.txt", "user.note", b"before")
    script = (
        "echo two > many; printf x > \"$(printf 'a\\nchanged file b')\"; "
        "echo more >> same.txt; mkdir ro; echo x > ro/in; chmod 555 ro; chmod 200 mode.txt"
    )
    async with world.client() as client:
        result = await previewed(client, world.work, script)
        assert result["commit"]["changes"][0] == "created file a\\nchanged file b"
        shown = {one["path"]: one for one in result["changes"]}
        assert "1 more names" in shown["many"]["note"]
        await call(client, "sandbox_commit", **result["commit"])
        assert (world.work / "many").read_text() == "two\n"
        assert (world.work / "other-name").read_text() == "one\n"
        assert os.getxattr(world.work / "same.txt", "user.note") == b"before"
        assert (world.work / "ro").stat().st_mode & 0o777 == 0o555
        assert (world.work / "mode.txt").stat().st_mode & 0o777 == 0o200
        (world.work / "ro").chmod(0o755)
        odd = await previewed(client, world.work, "echo x > \"$(printf 'a\\377')\"")
        assert odd["commit"] is None and "UTF-8" in odd["note"]
        own = await failed(
            client, "sandbox_preview", argv=["ls"], folder=str(world.work.parent),
            token=(await call(client, "capability_mint",
                              grant={"write": [str(world.work.parent)]}))["token"],
        )  # fmt: skip
        assert own["code"] == "denied" and "own state" in own["message"]


async def test_two_commits_of_one_preview_apply_it_once(world: World) -> None:
    async with world.client() as client:
        commit = (await previewed(client, world.work))["commit"]
        both = await asyncio.gather(
            *(client.call_tool("sandbox_commit", commit, raise_on_error=False) for _ in range(4))
        )
    assert sum(not one.is_error for one in both) == 1
    codes = {(one.meta or {})[ERROR_META]["code"] for one in both if one.is_error}
    assert codes <= {"busy", "already_done"}


def test_records_are_kept_whole_and_found_by_their_owner(tmp_path: Path) -> None:
    previews = Previews(tmp_path)
    layers = previews.begin(tmp_path.stat())
    preview_id, upper = layers.preview_id, layers.upper
    record = Record(
        id=preview_id, bound="me", folder="/x", device=1, inode=2, fingerprint="f",
        changes=(Change(path="a", action="deleted", kind="file"),), created="now",
    )  # fmt: skip
    previews.keep(record)
    assert previews.find(preview_id, "me") == record
    assert upper == previews.upper(preview_id)
    for wrong in (preview_id[:-1], "../x", "0" * 16):
        with pytest.raises(Exception, match="no preview"):
            previews.find(wrong, "me")
    old = tmp_path / "previews" / preview_id
    os.utime(old, (1, 1))
    previews.begin(tmp_path.stat())
    assert old.exists(), "somebody works on it"
    os.close(layers.lock)
    os.utime(old, (1, 1))
    previews.begin(tmp_path.stat())
    assert not old.exists()


def test_a_fingerprint_changes_with_anything(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    handle = os.open(tmp_path, os.O_RDONLY)
    marks = [tree.fingerprint(handle)]
    assert tree.fingerprint(handle) == marks[0]
    for act in (
        lambda: (tmp_path / "a").write_text("y"),
        lambda: (tmp_path / "a").chmod(0o600),
        lambda: (tmp_path / "b").symlink_to("a"),
        (tmp_path / "c").mkdir,
        lambda: (tmp_path / "c/d").write_text(""),
    ):
        act()
        marks.append(tree.fingerprint(handle))
    assert len(set(marks)) == len(marks)
    os.close(handle)
