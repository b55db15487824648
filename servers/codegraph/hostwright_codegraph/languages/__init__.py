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


def language_of(path: str) -> str | None:
    """The language of a file by its name; None when it is none of ours."""
    dot = path.rfind(".")
    return SUFFIXES.get(path[dot:].lower()) if dot > path.rfind("/") else None
