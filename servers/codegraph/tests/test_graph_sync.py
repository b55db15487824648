"""Keeping an index up to date gives, edge for edge, what a full index gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hostwright_codegraph.indexing import indexer
from hostwright_codegraph.indexing.parsing import MAX_BYTES

from .graph_world import Indexed, write

PATHS = ("a.py", "b.py", "pkg/__init__.py", "pkg/c.py", "pkg/deep/d.py", "conftest.py", "test_e.py")
MODULES = ("a", "b", "pkg", "pkg.c", "pkg.deep.d", "d")
NAMES = ("Alpha", "Beta", "make", "use", "take")

name = st.sampled_from(NAMES)
module = st.sampled_from(MODULES)
fragment = st.one_of(
    st.builds("from {} import {}\n".format, module, name),
    st.builds("from {} import *\n".format, module),
    st.builds("import {}\n".format, module),
    st.builds("from .c import {}\nfrom .deep import d\n".format, name),
    st.builds("class {}:\n    def use(self): ...\n".format, name),
    st.builds("class {}({}):\n    def take(self): return self.use()\n".format, name, name),
    st.builds("class {}:\n    def __init__(self): self.it = {}()\n".format, name, name),
    st.builds("def {}():\n    return {}()\n".format, name, name),
    st.builds("def {}(x: '{}'):\n    x.use(); x.it.take(); x.only()\n".format, name, name),
    st.builds("def {}(x):\n    x.take(); {}.make().use()\n".format, name, module),
    st.builds("class {}:\n    @property\n    def it(self): return {}()\n".format, name, name),
    st.builds("{} = {}\n".format, name, name),
    st.builds("import pytest\n@pytest.fixture\ndef take():\n    return {}()\n".format, name),
    st.just("def test_it(take):\n    take.use()\n"),
    st.just("# a line more\n\n"),
    st.just("class Only:\n    def only(self): ...\n"),
    st.just("def broken(:\n"),
)
content = st.lists(fragment, max_size=5).map("".join)
edit = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(PATHS), content),
    st.tuples(st.just("prepend"), st.sampled_from(PATHS), fragment),
    st.tuples(st.just("append"), st.sampled_from(PATHS), fragment),
    st.tuples(st.just("remove"), st.sampled_from(PATHS), st.just("")),
    st.tuples(st.just("rename"), st.sampled_from(PATHS), st.sampled_from(PATHS)),
)


def apply(root: Path, what: str, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    before = target.read_text() if target.exists() else ""
    if what == "write":
        target.write_text(text)
    elif what == "prepend":
        target.write_text(text + before)
    elif what == "append":
        target.write_text(before + text)
    elif what == "remove":
        target.unlink(missing_ok=True)
    elif target.exists():
        (root / text).parent.mkdir(parents=True, exist_ok=True)
        target.rename(root / text)


@pytest.fixture
def never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small projects too are resolved in part."""
    monkeypatch.setattr(indexer, "WHOLE_ABOVE", 10.0)


@pytest.mark.usefixtures("never_whole")
@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    start=st.dictionaries(st.sampled_from(PATHS), content, min_size=3),
    rounds=st.lists(st.lists(edit, min_size=1, max_size=3), min_size=1, max_size=5),
)
def test_any_series_of_edits_ends_where_a_full_index_does(
    start: dict[str, str], rounds: list[list[tuple[str, str, str]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "p"
        root.mkdir()
        write(root, start)
        kept = Indexed(root, Path(folder) / "kept")
        for edits in rounds:
            for what, path, text in edits:
                apply(root, what, path, text)
            kept.again()
        fresh = Indexed(root, Path(folder) / "fresh")
        assert kept.everything() == fresh.everything()


def test_only_what_a_change_can_affect_is_resolved_again(tmp_path: Path) -> None:
    files = {f"m{i}.py": f"from core import f{i}\ndef g(): f{i}()\n" for i in range(20)}
    core = "".join(f"def f{i}(): ...\n" for i in range(20))
    write(tmp_path / "p", {**files, "core.py": core})
    graph = Indexed(tmp_path / "p", tmp_path / "s")
    assert (graph.outcome.read, graph.outcome.resolved) == (21, 21)
    graph.again()
    assert (graph.outcome.read, graph.outcome.resolved) == (0, 0)
    write(tmp_path / "p", {"core.py": f"# moved down\n{core}def more(): ...\n"})
    graph.again()
    assert (graph.outcome.read, graph.outcome.resolved) == (1, 1)
    write(tmp_path / "p", {"core.py": core.replace("def f7(", "def f77(")})
    graph.again()
    assert (graph.outcome.read, graph.outcome.resolved) == (1, 2)
    assert ("m7.py::g", "calls", "core.py::f7") not in graph.edges()
    assert ("m7.py::g", "f7") in graph.unresolved()


def git(root: Path, *arguments: str) -> None:
    identity = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "init.defaultBranch=main",
    )
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_branches_worktrees_ignored_files_and_submodules(tmp_path: Path) -> None:
    root = tmp_path / "p"
    write(
        root,
        {
            "a.py": "def f(): g()\ndef g(): ...\n",
            ".gitignore": "build/\n*.gen.py\n!kept.gen.py\n",
            "build/out.py": "def built(): ...\n",
            "x.gen.py": "def generated(): ...\n",
            "kept.gen.py": "def kept(): ...\n",
            ".codegraphignore": "left_out/\n",
            "left_out/b.py": "def left_out(): ...\n",
        },
    )
    git(root, "init")
    write(tmp_path / "sub", {"s.py": "def inside(): ...\n"})
    git(tmp_path / "sub", "init")
    git(tmp_path / "sub", "add", "-A")
    git(tmp_path / "sub", "commit", "-m", "s")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", str(tmp_path / "sub"), "lib")
    git(root, "add", "-A")
    git(root, "commit", "-m", "one")
    write(root, {"untracked.py": "def new(): ...\n"})
    graph = Indexed(root, tmp_path / "s")
    paths = {row[0] for row in graph.rows("SELECT path FROM file")}
    assert paths == {"a.py", "kept.gen.py", "lib/s.py", "untracked.py"}

    before = graph.everything()
    git(root, "switch", "-c", "other")
    write(root, {"a.py": "def f(): h()\ndef h(): ...\n"})
    git(root, "commit", "-am", "two")
    graph.again()
    assert ("a.py::f", "calls", "a.py::h") in graph.edges()
    assert graph.everything() == Indexed(root, tmp_path / "fresh").everything()
    git(root, "switch", "main")
    graph.again()
    assert graph.everything() == before

    git(root, "worktree", "add", str(tmp_path / "tree"), "other")
    other = Indexed(tmp_path / "tree", tmp_path / "s")
    assert ("a.py::f", "calls", "a.py::h") in other.edges()
    assert other.outcome.read == 2
    facts = graph.places.facts
    assert facts.exists(), "one store of facts for both"


def test_links_large_files_and_files_that_can_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "p"
    write(root, {"a.py": "def f(): ...\n", "deep/b.py": "def g(): ...\n"})
    (root / "deep" / "loop").symlink_to(root)
    (root / "link.py").symlink_to("/etc/passwd")
    with (root / "big.py").open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    (root / "A.py").write_text("def upper(): ...\n")
    (root / "noise.py").write_bytes(bytes(range(256)) * 20)
    os.mkfifo(root / "pipe.py")
    odd = os.fsencode(root) + b"/\xff.py"
    Path(os.fsdecode(odd)).write_text("x = 1\n")
    graph = Indexed(root, tmp_path / "s")
    rows = dict(graph.rows("SELECT path, problem FROM file"))
    assert rows.keys() == {"a.py", "A.py", "deep/b.py", "big.py", "noise.py"}
    assert f"{MAX_BYTES // 1024 // 1024} MiB" in rows["big.py"]
    assert not any(rows[path] for path in ("a.py", "A.py", "deep/b.py"))
    (unseen,) = graph.rows("SELECT value FROM meta WHERE key='unseen'")
    assert "no UTF-8" in unseen[0]
    (root / "big.py").write_text("def small(): ...\n")
    graph.again()
    assert not dict(graph.rows("SELECT path, problem FROM file"))["big.py"]


def test_a_run_that_is_killed_goes_on_and_two_at_once_do_no_harm(tmp_path: Path) -> None:
    root = tmp_path / "p"
    many = "".join(f"def f{i}():\n    return f{(i * 7) % 400}()\n" for i in range(400))
    write(root, {f"m{i}.py": f"# {i}\n{many}" for i in range(60)})
    command = [
        sys.executable,
        "-m",
        "hostwright_codegraph.indexing.worker",
        str(tmp_path / "s"),
        str(root),
    ]
    for delay in (0.3, 0.6, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    kept = Indexed(root, tmp_path / "s")
    assert kept.outcome.read == 0
    assert kept.rows("PRAGMA integrity_check") == [("ok",)]
    assert kept.everything() == Indexed(root, tmp_path / "fresh").everything()
    shutil.rmtree(root)
    root.mkdir()
    kept.again()
    assert kept.rows("SELECT count(*) FROM symbol") == [(0,)]
    assert kept.rows("SELECT count(*) FROM edge") == [(0,)]
