"""Which file a Python module's name means.

A file is known by its dotted name from its import root (the first folder above it without an
`__init__.py`) and by every longer one, up to the project's top: `src/` layouts, tests that put
their folder on the path and namespace packages are all found. Where several files have a name, the
one that shares most of its path with the importer is meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from posixpath import dirname

_ENDS = (".py", ".pyi", ".pyw")


class Modules:
    """The module names of a project's files."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {path for path in paths if path.endswith(_ENDS)}
        self._packages = {dirname(path) for path in self.paths if path.endswith("/__init__.py")}
        self._named: dict[str, list[str]] = {}
        self._folders: set[str] = set()
        self._found: dict[tuple[str, str], str | None] = {}
        for path in sorted(self.paths):
            for name in self.names(path):
                self._named.setdefault(name, []).append(path)
                parts = name.split(".")
                self._folders.update(".".join(parts[:count]) for count in range(1, len(parts)))

    def table(self) -> dict[str, list[str]]:
        """Every name with its files; of a name that is only the beginning of others, none."""
        return {**{name: [] for name in self._folders}, **self._named}

    def name(self, path: str) -> str:
        """The name by which a file is imported."""
        parts, root = self._parts(path)
        return ".".join(parts[root:]) or "__init__"

    def names(self, path: str) -> list[str]:
        """Every name that a file may be imported by."""
        parts, root = self._parts(path)
        return [".".join(parts[start:]) for start in range(root + 1) if parts[start:]]

    def _parts(self, path: str) -> tuple[list[str], int]:
        parts = path.rpartition(".")[0].split("/")
        root = len(parts) - 1
        while root > 0 and "/".join(parts[:root]) in self._packages:
            root -= 1
        if parts[-1] == "__init__":
            parts = parts[:-1]
        return parts, root

    def is_folder(self, name: str) -> bool:
        """Whether modules lie below this name."""
        return name in self._folders

    def find(self, name: str, importer: str) -> str | None:
        """The file of the module `name`, as the file `importer` sees it."""
        near = dirname(importer)
        if (near, name) not in self._found:
            candidates = self._named.get(name, [])
            self._found[near, name] = (
                max(candidates, key=lambda one: _closeness(one, importer)) if candidates else None
            )
        return self._found[near, name]

    def relative(self, importer: str, level: int, name: str) -> tuple[str, str | None]:
        """The folder or stem that a relative import means, and its file if there is one."""
        folder = dirname(importer)
        for _ in range(level - 1):
            folder = dirname(folder)
        stem = "/".join(part for part in (folder, name.replace(".", "/")) if part)
        return stem, self.at(stem)

    def at(self, stem: str) -> str | None:
        """The module file at a path without its ending."""
        prefix = f"{stem}/" if stem else ""
        for path in (f"{stem}.py", f"{prefix}__init__.py", f"{stem}.pyi", f"{prefix}__init__.pyi"):
            if path in self.paths:
                return path
        return None


def _closeness(path: str, importer: str) -> tuple[int, int, int, str]:
    shared = 0
    for one, other in zip(path.split("/"), importer.split("/"), strict=False):
        if one != other:
            break
        shared += 1
    # A module before its stub, the shallow before the deep; the name at last, so that it is always
    # the same one.
    return shared, not path.endswith(".pyi"), -path.count("/"), path
