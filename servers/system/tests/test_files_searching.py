"""`directory_list` and `file_search`: complete over pages, honest about what they left out."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_system.files import directory_list, file_search
from hostwright_system.files.matching import Pattern, searchable
from hostwright_system.files.models import SearchPage

from .files_world import World, refused, world_in


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with world_in(tmp_path) as made:
        yield made


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def hits(page: SearchPage) -> list[tuple[str, int]]:
    return [(match.path, match.line) for match in page.matches]


def test_list_in_three_orders(world: World) -> None:
    plant(world.root, {"a/x": "12", "b": "123", "c": "1", ".hidden": ""})
    for n, name in enumerate(("c", "a/x", "b", "a")):
        os.utime(world.root / name, (n, n))
    assert [e.path for e in directory_list(world.roots, ".").entries] == ["a", "b", "c"]
    deep = directory_list(world.roots, "~", depth=3, include_hidden=True)
    shown = [e.path for e in deep.entries]
    assert shown == [".hidden", ".state", ".state/suite", "a", "a/x", "b", "c"]
    assert next(e for e in deep.entries if e.path == ".state/suite").denied
    by_size = directory_list(world.roots, ".", depth=2, sort="size")
    assert [e.path for e in by_size.entries] == ["b", "a/x", "c", "a"]
    newest = directory_list(world.roots, ".", depth=2, sort="modified")
    assert [e.path for e in newest.entries] == ["a", "b", "a/x", "c"]


@pytest.mark.parametrize("sort", ["name", "size", "modified"])
def test_list_pages_join(world: World, sort: Any) -> None:
    plant(world.root, {f"d{n % 3}/f{n}": "x" * (n % 4) for n in range(25)})
    whole = directory_list(world.roots, ".", depth=2, sort=sort)
    assert whole.total == len(whole.entries) == 28
    parts, cursor = list[str](), None
    while True:
        page = directory_list(world.roots, ".", depth=2, sort=sort, limit=5, cursor=cursor)
        parts += [e.path for e in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert parts == [e.path for e in whole.entries]


def test_list_shows_links_and_odd_names(world: World) -> None:
    (world.root / "out").symlink_to(world.outside)
    (world.root / "id_rsa").write_text("SECRET")
    with open(os.fsencode(world.root) + b"/odd\xff", "wb"):  # noqa: PTH123 (no valid str)
        pass
    page = directory_list(world.roots, ".", depth=5)
    entries = {e.path: e for e in page.entries}
    assert set(entries) == {"out", "id_rsa", "odd\\xff"}
    assert entries["out"].link_target == str(world.outside)
    assert entries["id_rsa"].denied
    assert entries["odd\\xff"].unaddressable
    assert page.model_dump_json()
    with refused("outside_roots"):
        directory_list(world.roots, "out")
    with refused("not_a_folder"):
        directory_list(world.roots, "id_rsa/x")
    with refused("not_found"):
        directory_list(world.roots, "absent")


def test_search_content(world: World) -> None:
    plant(
        world.root,
        {
            "a/one.py": "import os\n\ndef main():\n    pass\n",
            "a/two.txt": "def other():\r\nend\r\n",
            ".hidden/three.py": "def hidden():\n",
            "b.py": "# nothing\n",
        },
    )
    page = file_search(world.roots, ".", content=r"^def \w+\(\):$", context_lines=1)
    assert hits(page) == [("a/one.py", 3), ("a/two.txt", 1)]
    assert (page.matches[0].before, page.matches[0].after) == (("",), ("    pass",))
    assert page.matches[0].column == 1
    assert (page.next_cursor, page.incomplete, page.files_searched) == (None, None, 3)
    hidden = file_search(world.roots, ".", content="def", names=["*.py"], include_hidden=True)
    assert hits(hidden) == [(".hidden/three.py", 1), ("a/one.py", 3)]
    single = file_search(world.roots, "a/one.py", content="pass")
    assert hits(single) == [("one.py", 4)]


def test_search_case_and_literal(world: World) -> None:
    plant(world.root, {"f": "Grüße a.c\nGRÜSSE abc\nGRÜßE\n"})

    def lines(content: str, **more: Any) -> list[int]:
        return [m.line for m in file_search(world.roots, ".", content=content, **more).matches]

    assert lines("grüße") == [1, 3]
    assert lines("Grüße") == [1]
    assert lines("Grüße", case="insensitive") == [1, 3]
    assert lines("grüße", case="sensitive") == []
    assert lines(r"gr\S+") == [1, 2, 3]
    assert lines("a.c") == [1, 2]
    assert lines("a.c", literal=True) == [1]
    assert lines("(", literal=True) == []
    for bad in ("(", r"(a)\1", "a(?=b)", "x)|(y"):
        with refused("bad_pattern"):
            file_search(world.roots, ".", content=bad)
    with refused("bad_query"):
        file_search(world.roots, ".")


def test_search_names(world: World) -> None:
    plant(world.root, {"src/a.py": "", "src/a.min.js": "", "src/deep/b.js": "", "test_x.py": ""})

    def names(*globs: str) -> list[str]:
        return [f.path for f in file_search(world.roots, ".", names=globs).files]

    assert names("*.py") == ["src/a.py", "test_x.py"]
    assert names("*.js", "!*.min.js") == ["src/deep/b.js"]
    assert names("src/**/b*") == ["src/deep/b.js"]
    assert names("/*.py") == ["test_x.py"]
    assert names("!*.py") == ["src/a.min.js", "src/deep/b.js"]


def test_search_skips_and_says_so(world: World) -> None:
    plant(world.root, {"ok": "needle", "id_rsa": "needle", "key.txt": "", "big": "needle" * 1000})
    (world.root / "binary").write_bytes(b"\0needle")
    (world.root / "key.txt").write_text("-----BEGIN PRIVATE KEY-----\nneedle")
    (world.root / "wide").write_bytes("needle\n".encode("utf-16"))
    (world.root / "latin").write_bytes("x needle Größe\n".encode("latin-1"))
    (world.root / "link").symlink_to("ok")
    (world.root / "out").symlink_to(world.outside)
    (world.root / "fifo.txt").unlink(missing_ok=True)
    os.mkfifo(world.root / "fifo.txt")
    (world.state / "ledger").write_text("needle")
    page = file_search(world.roots, ".", content="needle", include_hidden=True, max_file_bytes=1000)
    assert {path for path, _ in hits(page)} == {"ok", "wide", "latin"}
    skipped = page.skipped
    assert (skipped.binary, skipped.too_large, skipped.denied) == (1, 1, 3)
    assert not file_search(world.roots, ".", content="SECRET").matches


GITIGNORED = {
    ".gitignore": "*.log\nbuild/\n!keep.log\n/only_top\n",
    "a.log": "needle",
    "keep.log": "needle",
    "build/out": "needle",
    "only_top": "needle",
    "sub/only_top": "needle",
    "sub/.gitignore": "!a.log\nlocal\n",
    "sub/a.log": "needle",
    "sub/local": "needle",
    "sub/deep/local": "needle",
    "sub/deep/.gitignore": "!local\n",
    "sub/build/x": "needle",
    "node/.ignore": "modules\n",
    "node/modules/x": "needle",
    "node/x": "needle",
}


def test_search_ignores_what_git_ignores(world: World) -> None:
    plant(world.root, GITIGNORED)
    git = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", **os.environ}
    subprocess.run(["git", "init", "-q", "."], cwd=world.root, check=True, env=git)
    (world.root / ".git" / "info").mkdir(exist_ok=True)
    (world.root / ".git" / "info" / "exclude").write_text("node/.gitkeep\n")
    (world.root / ".git" / "needle").write_text("needle")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=world.root,
        check=True,
        capture_output=True,
        text=True,
        env=git,
    ).stdout.split()
    expected = sorted(
        name
        for name in listed
        if not name.startswith(".state") and "ignore" not in name and name != "node/modules/x"
    )
    page = file_search(world.roots, ".", content="needle")
    assert sorted(path for path, _ in hits(page)) == expected
    below = file_search(world.roots, "sub", content="needle")
    assert [f"sub/{path}" for path, _ in hits(below)] == [
        name for name in expected if name.startswith("sub/")
    ]
    everything = file_search(world.roots, ".", content="needle", respect_gitignore=False)
    assert len(hits(everything)) == 11  # each file with the word, hidden ones left out


def test_search_pages_join(world: World) -> None:
    plant(world.root, {f"d{n % 4}/f{n:02}": "needle\nx\nneedle\nneedle\n" for n in range(20)})
    whole = hits(file_search(world.roots, ".", content="needle", limit=500))
    assert len(whole) == 60
    for limit in (1, 7, 59, 60):
        parts, cursor, pages = list[tuple[str, int]](), None, 0
        while True:
            page = file_search(world.roots, ".", content="needle", limit=limit, cursor=cursor)
            parts += hits(page)
            pages += 1
            cursor = page.next_cursor
            assert (cursor is None) == (page.incomplete is None)
            if cursor is None:
                break
        assert parts == whole
        assert pages == -(-60 // limit)
    with refused("bad_cursor"):
        first = file_search(world.roots, ".", content="needle", limit=1)
        file_search(world.roots, ".", content="other", cursor=first.next_cursor)


def test_search_stops_at_its_deadline_and_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that moves a millisecond per look, so that a fast machine meets the deadline too.
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) / 1000)
    plant(world.root, {f"d{n % 10}/f{n}": "needle\n" for n in range(3000)})
    whole = {f"d{n % 10}/f{n}" for n in range(3000)}
    found, cursor, stops = list[str](), None, 0
    while True:
        page = file_search(
            world.roots,
            ".",
            content="needle",
            limit=1000,
            cursor=cursor,
            deadline_seconds=0.05,
        )
        found += [match.path for match in page.matches]
        stops += page.incomplete == "deadline"
        cursor = page.next_cursor
        if cursor is None:
            break
    assert set(found) == whole
    assert len(found) == 3000
    assert stops > 0


def test_a_hostile_pattern_is_harmless(world: World) -> None:
    """(a+)+$ takes a backtracking engine 2^n steps; here it is one pass over each line."""
    plant(world.root, {"f": ("a" * 5000 + "!\n") * 200})
    assert file_search(world.roots, ".", content="^(a+)+$").matches == ()
    assert file_search(world.roots, ".", content="(a|a)*b|(a*)*c").matches == ()


def test_a_long_line_is_shown_in_part(world: World) -> None:
    plant(world.root, {"f": "x" * 100_000 + "needle" + "y" * 100_000})
    (match,) = file_search(world.roots, ".", content="needle").matches
    assert (match.column, match.text_cut) == (100_001, True)
    assert "needle" in match.text
    assert len(match.text) <= 500


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab\n", max_size=30),
    pattern=st.sampled_from(["a", "^a", "a$", "^$", "b*", "a+b", "^", "$", "ab|ba"]),
    after=st.integers(0, 3),
)
def test_matching_lines_as_re_finds_them(text: str, pattern: str, after: int) -> None:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    expected = [n for n, line in enumerate(lines, 1) if re.search(pattern, line) and n > after]
    found = Pattern(pattern, literal=False, case="sensitive").lines(text.encode(), 0, after)
    assert [match.line for match in found] == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_searchable_is_utf8_or_nothing(data: bytes) -> None:
    text = searchable(data)
    if text is not None:
        text.decode()
