"""A project's facts as the resolver sees them, loaded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hostwright_codegraph.languages.facts import CLASS, FUNCTION, Scope
from hostwright_codegraph.languages.python.modules import Modules

Load = Callable[[str], list[Scope] | None]
Methods = Callable[[str], Iterable[tuple[str, int]]]


class Project:
    """Files by path, modules by name, methods by name."""

    def __init__(self, paths: Iterable[str], load: Load, methods: Methods) -> None:
        self.modules = Modules(paths)
        self._load = load
        self._methods = methods
        self._scopes: dict[str, list[Scope]] = {}
        self._attributes: dict[Scope, dict[str, list[tuple[object, Scope]]]] = {}

    def scopes(self, path: str) -> list[Scope]:
        """A file's scopes; the module first. Of a file that could not be read: nothing."""
        found = self._scopes.get(path)
        if found is None:
            found = self._scopes[path] = self._load(path) or []
        return found

    def methods(self, name: str) -> list[Scope]:
        """Every method of that name in the project, in the order of the paths."""
        return [self.scopes(path)[index] for path, index in sorted(self._methods(name))]

    def assigned(self, owner: Scope, name: str) -> list[tuple[object, Scope]]:
        """What the methods of a class assign to an attribute of the instance, and where."""
        found = self._attributes.get(owner)
        if found is None:
            found = self._attributes[owner] = {}
            for scope in self.scopes(owner.file):
                if scope.up is owner and scope.kind == FUNCTION and scope.parameters:
                    me = scope.parameters[0][0]
                    for of, attribute, value, _ in scope.selves:
                        if of == me:
                            found.setdefault(attribute, []).append((value, scope))
        return found.get(name, [])


def class_of(scope: Scope) -> Scope | None:
    """The class that a method stands in."""
    up = scope.up
    return up if up is not None and up.kind == CLASS else None
