"""`file_write`, `file_edit` and backups: all or nothing, and nothing lost."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.files import (
    Edit,
    Limits,
    backup_list,
    file_edit,
    file_read,
    file_restore,
    file_write,
)
from hostwright_system.files.editing import apply_edits, unified_diff

from .files_world import World, as_ordinary_user, refused, world_in


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with world_in(tmp_path) as made:
        yield made
        assert made.names_left() == []


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_write_backup_restore(world: World) -> None:
    created = file_write(world.space, "f", "one")
    assert (created.created, created.backup_id, created.sha256) == (True, None, sha256(b"one"))
    written = file_write(world.space, "f", "two", expected_sha256=created.sha256)
    assert (written.created, written.sha256_before) == (False, created.sha256)
    assert written.backup_id
    with refused("exists"):
        file_restore(world.space, written.backup_id)
    restored = file_restore(world.space, written.backup_id, overwrite=True)
    assert (world.root / "f").read_text() == "one"
    assert restored.replaced_backup_id
    file_restore(world.space, restored.replaced_backup_id, overwrite=True)
    assert (world.root / "f").read_text() == "two"
    (world.root / "f").unlink()
    file_restore(world.space, written.backup_id)
    assert (world.root / "f").read_text() == "one"


def test_expected_sha256_guards(world: World) -> None:
    (world.root / "f").write_text("theirs")
    with refused("changed"):
        file_write(world.space, "f", "mine", expected_sha256=sha256(b"older"))
    with refused("bad_sha256"):
        file_write(world.space, "f", "mine", expected_sha256="xyz")
    with refused("not_found"):
        file_write(world.space, "absent", "mine", expected_sha256=sha256(b"older"))
    with refused("exists"):
        file_write(world.space, "f", "mine", must_be_new=True)
    assert (world.root / "f").read_text() == "theirs"
    assert backup_list(world.space).total == 0


def test_mode_owner_and_attributes_stay(world: World) -> None:
    path = world.root / "f"
    path.write_text("one")
    path.chmod(0o6751)
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    path.chmod(0o6751)
    try:
        os.setxattr(path, "user.note", b"kept")
        attributes = True
    except OSError:
        attributes = False  # this file system has none
    written = file_write(world.space, "f", "two")
    info = path.stat()
    assert (info.st_uid, info.st_gid) == owner
    # setuid and setgid go, as with write(2): new content must not run with the old one's rights.
    assert stat.S_IMODE(info.st_mode) == 0o751
    assert (written.mode, written.attributes_lost) == ("0751", ())
    if attributes:
        assert os.getxattr(path, "user.note") == b"kept"
    assert file_write(world.space, "f", "two", mode=0o600).changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    restored = file_restore(world.space, written.backup_id or "", overwrite=True)
    info = path.stat()
    assert (stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid)) == (0o6751, owner)
    assert restored.owner_kept
    with refused("bad_mode"):
        file_write(world.space, "f", "x", mode=0o4755)


def test_an_unchanged_file_is_left_alone(world: World) -> None:
    (world.root / "f").write_text("same")
    before = (world.root / "f").stat()
    written = file_write(world.space, "f", "same")
    assert (written.changed, written.backup_id) == (False, None)
    assert (world.root / "f").stat().st_ino == before.st_ino


def test_a_link_is_written_through_and_hard_links_break_openly(world: World) -> None:
    (world.root / "real").write_text("one")
    (world.root / "link").symlink_to("real")
    file_write(world.space, "link", "two")
    assert (world.root / "link").is_symlink()
    assert (world.root / "real").read_text() == "two"
    (world.root / "other").hardlink_to(world.root / "real")
    assert file_write(world.space, "real", "three").hard_link_broken
    assert (world.root / "other").read_text() == "two"


def test_base64_and_encodings(world: World) -> None:
    file_write(world.space, "b", base64.b64encode(b"\0\xff").decode(), encoding="base64")
    assert (world.root / "b").read_bytes() == b"\0\xff"
    file_write(world.space, "l", "ä", encoding="latin-1")
    assert (world.root / "l").read_bytes() == b"\xe4"
    with refused("bad_base64"):
        file_write(world.space, "b", "no base64!", encoding="base64")
    with refused("bad_encoding"):
        file_write(world.space, "l", "日", encoding="latin-1")
    assert (world.root / "l").read_bytes() == b"\xe4"


def test_what_an_ordinary_user_may_not_write_stays() -> None:
    """A rename asks for no permission on the file that it replaces; we do."""

    def scene(base: Path) -> None:
        with world_in(base) as world:
            (world.root / "f").write_text("one")
            (world.root / "f").chmod(0o444)
            with refused("permission"):
                file_write(world.space, "f", "two")
            assert (world.root / "f").read_text() == "one"
            (world.root / "f").chmod(0o644)
            assert file_write(world.space, "f", "two").changed
            (world.root / "closed").mkdir(mode=0o500)
            with refused("permission"):
                file_write(world.space, "closed/f", "x")
            (world.root / "closed").chmod(0o700)

    as_ordinary_user(scene)


def test_backups_are_bounded_and_say_what_went(tmp_path: Path) -> None:
    limits = Limits(backups_per_path=3, backup_file_bytes=1000)
    with world_in(tmp_path, limits) as world:
        made: list[str] = []
        pruned: list[str] = []
        for n in range(8):
            written = file_write(world.space, "f", f"content {n}")
            made += [written.backup_id] if written.backup_id else []
            pruned += written.pruned_backup_ids
        assert backup_list(world.space, "f").total == 3
        assert pruned == made[:4]
        with refused("not_found"):
            file_restore(world.space, pruned[0])
        assert len(list((world.state / "files" / "blobs").glob("*/*"))) == 3
        (world.root / "large").write_bytes(b"x" * 2000)
        with refused("too_large"):
            file_write(world.space, "large", "small")
        assert (world.root / "large").stat().st_size == 2000
        assert file_write(world.space, "large", "small", without_backup=True).backup_id is None


def test_backup_list_pages(world: World) -> None:
    for n in range(6):
        file_write(world.space, "f", str(n))
    file_write(world.space, "g", "0")
    file_write(world.space, "g", "1")
    seen, cursor = list[str](), None
    while True:
        page = backup_list(world.space, "f", limit=2, cursor=cursor)
        assert page.total == 5
        seen += [backup.backup_id for backup in page.backups]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(set(seen)) == 5
    with refused("bad_cursor"):
        backup_list(world.space, "g", cursor=backup_list(world.space, "f", limit=1).next_cursor)


def test_a_damaged_backup_is_not_restored(world: World) -> None:
    file_write(world.space, "f", "one")
    backup_id = file_write(world.space, "f", "two").backup_id or ""
    blob = next((world.state / "files" / "blobs").glob("*/*"))
    blob.chmod(0o600)
    blob.write_text("rotten")
    with refused("damaged"):
        file_restore(world.space, backup_id, overwrite=True)
    assert (world.root / "f").read_text() == "two"


def test_two_writers_with_the_same_expectation(world: World) -> None:
    """Only one of many may replace the content that all of them saw."""
    seen = file_write(world.space, "f", "start").sha256
    outcomes: list[str] = []

    def write(n: int) -> None:
        try:
            file_write(world.space, "f", f"writer {n}", expected_sha256=seen)
            outcomes.append("written")
        except HostError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["changed"] * 7 + ["written"]


def test_edits_in_order_with_a_diff(world: World) -> None:
    (world.root / "f").write_text("one\ntwo\nthree\n")
    edits = [Edit(old_text="two", new_text="2"), Edit(old_text="2\nthree", new_text="2\n3")]
    dry = file_edit(world.space, "f", edits, dry_run=True)
    assert (world.root / "f").read_text() == "one\ntwo\nthree\n"
    assert dry.written is None
    assert "-two\n-three\n+2\n+3\n" in dry.diff
    done = file_edit(world.space, "f", edits, expected_sha256=dry.sha256_before)
    assert (world.root / "f").read_text() == "one\n2\n3\n"
    assert done.sha256 == dry.sha256 == sha256(b"one\n2\n3\n")
    assert (done.replacements, done.diff) == (2, dry.diff)
    assert done.written
    file_restore(world.space, done.written.backup_id or "", overwrite=True)
    assert (world.root / "f").read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("old", "code"), [("absent", "no_match"), ("aa", "ambiguous_match"), ("b", "ambiguous_match")]
)
def test_an_edit_that_does_not_fit_changes_nothing(world: World, old: str, code: str) -> None:
    (world.root / "f").write_text("aaa b b")
    with refused(code):
        file_edit(
            world.space,
            "f",
            [Edit(old_text="aaa", new_text="aaa"), Edit(old_text=old, new_text="x")],
        )
    assert (world.root / "f").read_text() == "aaa b b"
    assert backup_list(world.space).total == 0


def test_edits_keep_line_ends_encoding_and_mark(world: World) -> None:
    (world.root / "crlf").write_bytes(b"one\r\ntwo\r\n")
    file_edit(world.space, "crlf", [Edit(old_text="one\ntwo", new_text="1\nand\n2")])
    assert (world.root / "crlf").read_bytes() == b"1\r\nand\r\n2\r\n"
    (world.root / "mixed").write_bytes(b"one\r\ntwo\nthree\n")
    file_edit(world.space, "mixed", [Edit(old_text="two\nthree", new_text="2\n3")])
    assert (world.root / "mixed").read_bytes() == b"one\r\n2\n3\n"
    utf16 = b"\xff\xfe" + "größe\r\n".encode("utf-16-le")
    (world.root / "wide").write_bytes(utf16)
    file_edit(world.space, "wide", [Edit(old_text="größe", new_text="Maß")])
    assert (world.root / "wide").read_bytes() == b"\xff\xfe" + "Maß\r\n".encode("utf-16-le")
    (world.root / "latin").write_bytes("Größe\n".encode("latin-1"))
    with refused("bad_encoding"):
        edit = [Edit(old_text="Gr", new_text="日")]
        file_edit(world.space, "latin", edit, encoding="latin-1")
    assert (world.root / "latin").read_bytes() == "Größe\n".encode("latin-1")
    (world.root / "binary").write_bytes(b"\0\1\2text")
    with refused("not_text"):
        file_edit(world.space, "binary", [Edit(old_text="text", new_text="x")])


def test_a_diff_deep_in_a_long_file() -> None:
    lines = [f"line {n}\n" for n in range(30_000)]
    changed = lines.copy()
    changed[20_000] = "other\n"
    diff, cut = unified_diff("".join(lines), "".join(changed), "/f")
    assert not cut
    assert "@@ -19998,7 +19998,7 @@" in diff
    diff, cut = unified_diff("a\n" * 30_000, "b\n" * 30_000, "/f")
    assert cut
    assert len(diff) <= 64 * 1024
    assert unified_diff("x", "x\n", "/f")[0].count("\\ No newline") == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3000))
def test_written_bytes_come_back(world: World, data: bytes) -> None:
    written = file_write(world.space, "f", base64.b64encode(data).decode(), encoding="base64")
    assert (world.root / "f").read_bytes() == data
    read = file_read(world.roots, "f", encoding="base64")
    assert base64.b64decode(read.base64 or "") == data
    assert read.sha256 == written.sha256


_WORDS = st.text("ab\n", max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    text=_WORDS,
    edits=st.lists(
        st.builds(
            Edit,
            old_text=st.text("ab\n", min_size=1, max_size=3),
            new_text=st.text("abc\n", max_size=3),
            replace_all=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_edits_are_all_or_none(text: str, edits: list[Edit]) -> None:
    """Against the obvious model: every piece fits in turn, or there is an error."""
    expected: str | None = text
    for edit in edits:
        places = [n for n in range(len(expected)) if expected.startswith(edit.old_text, n)]
        if not places or (len(places) > 1 and not edit.replace_all):
            expected = None
            break
        expected = expected.replace(edit.old_text, edit.new_text)
    if expected is None:
        with pytest.raises(HostError) as caught:
            apply_edits(text, edits)
        assert caught.value.code in {"no_match", "ambiguous_match"}
    else:
        assert apply_edits(text, edits)[0] == expected


@settings(max_examples=300, deadline=None)
@given(old=_WORDS, new=_WORDS)
def test_a_diff_applied_to_the_old_text_gives_the_new(old: str, new: str) -> None:
    diff, cut = unified_diff(old, new, "/f")
    assert not cut
    assert patched(old, diff) == new


def patched(text: str, diff: str) -> str:
    """`text` after a unified diff, by the format's own rules."""
    source = text.splitlines(keepends=True)
    result: list[str] = []
    taken, last = 0, ""
    for line in diff.splitlines(keepends=True)[2:]:
        if line.startswith("@@"):
            start, _, length = line.split()[1][1:].partition(",")
            at = int(start) - (length != "0")
            result += source[taken:at]
            taken = at
        elif line.startswith("\\"):
            result[-1:] = [result[-1].removesuffix("\n")] if last == "+" else result[-1:]
        elif line[0] == "+":
            result.append(line[1:])
        else:
            assert source[taken].removesuffix("\n") == line[1:].removesuffix("\n")
            if line[0] == " ":
                result.append(source[taken])
            taken += 1
        last = line[0]
    return "".join(result + source[taken:])
