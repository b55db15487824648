"""Which facts differ between two versions of a file, under the names by which they are read.

The resolver notes for each file the facts that its edges stand on. A file has to be resolved again
when one of those is among what is returned here, or when it changed itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hostwright_codegraph.flow.memo import fact_key
from hostwright_codegraph.flow.project import class_of
from hostwright_codegraph.languages.facts import CLASS, FUNCTION, Scope
from hostwright_codegraph.languages.python.modules import Modules


def changed_facts(path: str, old: list[Scope], new: list[Scope]) -> set[int]:
    """The facts of a file that are not the same in both versions."""
    before, after = _told(path, old), _told(path, new)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _told(path: str, scopes: list[Scope]) -> dict[int, list[Any]]:
    """Everything that somebody else may read, by name; without lines, which nobody reads."""
    told: dict[int, list[Any]] = {}

    def tell(qual: str, what: str, value: Any) -> None:
        told.setdefault(fact_key(path, qual, what), []).append(value)

    for scope in scopes:
        for name, bindings in scope.binds.items():
            tell(scope.qual, name, [_headed(one, scopes) for one in bindings])
        if scope.kind == FUNCTION:
            tell(scope.qual, "(returns", (scope.says, scope.returns, scope.yields, scope.flags))
            owner = class_of(scope)
            if owner is not None:
                told.setdefault(fact_key("", "method", scope.name), []).append(scope.qual)
                me = scope.parameters[0][0] if scope.parameters else ""
                for of, name, value, _ in scope.selves:
                    if of == me:
                        tell(owner.qual, f".{name}", (scope.qual, value))
        elif scope.kind == CLASS:
            tell(scope.qual, "(bases", scope.bases)
    return told


def _headed(binding: Any, scopes: list[Scope]) -> Any:
    """A definition by its head, not by where in the file it stands."""
    if binding is None or binding[0] != "d":
        return binding
    scope = scopes[binding[1]]
    return ("d", scope.kind, scope.flags, scope.decorators, scope.parameters, scope.says)


def changed_paths(old: Iterable[str], new: Iterable[str]) -> set[int]:
    """The facts about which files and modules exist."""
    old, new = set(old), set(new)
    if old == new:
        return set()
    keys: set[int] = set()
    for path in old ^ new:
        stem = path.rpartition(".")[0]
        keys.add(fact_key("", "file", stem))
        if stem.rpartition("/")[2] in ("__init__", "index"):
            keys.add(fact_key("", "file", stem.rpartition("/")[0]))
    before, after = Modules(old).table(), Modules(new).table()
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            keys.add(fact_key("", "module", name))
    return keys
