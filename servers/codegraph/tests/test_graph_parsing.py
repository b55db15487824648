"""Any bytes are read without a crash, and what can not be read is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright_codegraph.indexing import parsing
from hostwright_codegraph.indexing.parsing import parse
from hostwright_codegraph.languages import LANGUAGES

from .graph_world import Indexed, write

PIECES = (
    *("def ", "class ", "f", "(", ")", "[", "]", "{", "}", ":", "\n", "    ", ",", "=", "*", "**"),
    *(
        "@",
        ".",
        "lambda ",
        "for x in ",
        "if ",
        "else ",
        "import ",
        "from ",
        "as ",
        "with ",
        "await ",
    ),
    *("return ", "yield ", "async ", "global ", "raise ", "except ", "try", '"""', "'", "\\", "#"),
    *("é", "\t", "\r\n", "\x00", "x:=", "->", "|", "...", "0", "None", "self", "super()", "match "),
)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))


@pytest.mark.parametrize("language", sorted(LANGUAGES))
@settings(max_examples=EXAMPLES, deadline=None)
@given(source=st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_text_is_parsed(language: str, source: bytes | str) -> None:
    scopes = parse(language, source if isinstance(source, bytes) else source.encode())
    assert scopes[0].kind == 0
    assert all(0 <= scope.parent < scope.index for scope in scopes[1:])


def test_what_is_very_long_or_very_deep_ends(tmp_path: Path) -> None:
    long = "def long():\n" + "".join(f"    x{i} = g(x{i - 1})\n" for i in range(1, 10_001))
    chain = "def chain(x):\n    return x" + ".a()" * 3_000 + "\n"
    deep = "x = " + "(" * 3_000 + "1" + ")" * 3_000 + "\n"
    nested = "".join("    " * i + f"def f{i}():\n" for i in range(150)) + "    " * 150 + "pass\n"
    recursive = "".join(f"def r{i}(): return r{(i * 31 + 7) % 400}().r\n" for i in range(400))
    write(tmp_path / "p", {})
    for name, text in {
        "long": long + "def g(x): return x\n",
        "chain": chain,
        "deep": deep,
        "nested": nested,
        "recursive": recursive,
    }.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(text)
    graph = Indexed(tmp_path / "p", tmp_path / "s")
    names = {row[0] for row in graph.rows("SELECT name FROM symbol")}
    assert {"long", "g", "chain", "f149", "r399"} <= names
    assert ("long.py::long", "calls", "long.py::g") in graph.edges()


def test_a_grammar_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        LANGUAGES,
        "python",
        LANGUAGES["python"].__class__("python", "tree_sitter_nosuch", "language", "none"),
    )
    parsing._tools.cache_clear()
    write(tmp_path / "p", {"a.py": "def f(): ...\n"})
    graph = Indexed(tmp_path / "p", tmp_path / "s")
    ((problem,),) = graph.rows("SELECT problem FROM file")
    assert problem == "no grammar for python: pip install tree-sitter-nosuch"
    monkeypatch.undo()
    parsing._tools.cache_clear()
    graph.again()
    assert graph.rows("SELECT problem FROM file") == [(None,)]
    assert graph.rows("SELECT name FROM symbol WHERE kind=2") == [("f",)]
