"""The languages that are known, by the suffix of a file's name.

One language is one folder: a query file, an extractor that turns a parse into facts, and, where
calls are resolved, the rules of its modules. Grammars are single-grammar wheels; one that is not
installed is reported for every file that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """How files of one language are read."""

    name: str
    grammar: str
    """Module of the grammar's wheel."""
    symbol: str
    """The function in it that gives the language."""
    extractor: str
    """Module that has `extract(tree, source) -> list[scope]`."""


PYTHON = Language(
    "python", "tree_sitter_python", "language", "hostwright_codegraph.languages.python.extract"
)

LANGUAGES: dict[str, Language] = {"python": PYTHON}

SUFFIXES: dict[str, str] = {".py": "python", ".pyi": "python", ".pyw": "python"}


UNREAD: dict[str, str] = {
    suffix: name
    for name, suffixes in {
        "typescript": ".ts .tsx .mts .cts",
        "javascript": ".js .jsx .mjs .cjs",
        "go": ".go",
        "rust": ".rs",
        "java": ".java",
        "c": ".c .h",
        "c++": ".cc .cpp .cxx .hh .hpp .hxx",
        "c#": ".cs",
        "ruby": ".rb",
        "php": ".php",
        "kotlin": ".kt .kts",
        "swift": ".swift",
        "scala": ".scala",
        "shell": ".sh .bash",
        "lua": ".lua",
        "elixir": ".ex .exs",
        "haskell": ".hs",
        "ocaml": ".ml .mli",
        "zig": ".zig",
        "sql": ".sql",
    }.items()
    for suffix in suffixes.split()
}
"""Code that is not read: it is counted, so that nobody takes its absence for an answer."""


def unread_language(path: str) -> str | None:
    """The language of a file of code that is not read; None for what is read, or is no code."""
    dot = path.rfind(".")
    return UNREAD.get(path[dot:].lower()) if dot > path.rfind("/") else None


def language_of(path: str) -> str | None:
    """The language of a file by its name; None when it is none of ours."""
    dot = path.rfind(".")
    return SUFFIXES.get(path[dot:].lower()) if dot > path.rfind("/") else None
