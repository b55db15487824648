"""What a name means: scopes outwards, imports and what they re-export, parameters, fixtures."""

from __future__ import annotations

from posixpath import dirname

from hostwright_codegraph.flow.base import FlowBase, decorator_names
from hostwright_codegraph.flow.project import class_of
from hostwright_codegraph.flow.values import (
    BUILTIN_TYPES,
    BUILTINS,
    NOTHING,
    OUTSIDE,
    SELF,
    Value,
    Values,
    distinct,
)
from hostwright_codegraph.languages.facts import CLASS, FUNCTION, MODULE, Expression, Scope

MOST_BINDINGS = 5
_CLASS_FIRST = ("__new__", "__init_subclass__", "__class_getitem__")


class Names(FlowBase):
    """The part of the resolver that looks names up."""

    def named(self, scope: Scope, name: str, fuel: int, me: Scope | None = None) -> Values:
        """What a name used in a scope means."""
        inside: Scope | None = scope
        while inside is not None:
            if inside.kind != CLASS or inside is scope:
                found = self._in_scope(inside, name, fuel, me)
                if found is not None:
                    return found
            inside = inside.up
        if name in BUILTIN_TYPES:
            return (("T", name),)
        return (OUTSIDE,) if name in BUILTINS else NOTHING

    def _in_scope(self, scope: Scope, name: str, fuel: int, me: Scope | None) -> Values | None:
        """The values in this scope; None when it does not have the name at all."""
        self.touch(scope.file, scope.qual, name)
        if scope.kind == MODULE:
            if name in scope.binds:
                return self.bound(scope, name, fuel)
            return self.module_attribute(scope.file, name, fuel) or None
        parameter = None
        if scope.kind == FUNCTION:
            parameter = self.parameter(scope, name, fuel, me)
        if name not in scope.binds:
            return parameter
        return distinct((*(parameter or ()), *self.bound(scope, name, fuel, me)))

    def bound(self, scope: Scope, name: str, fuel: int, me: Scope | None = None) -> Values:
        self.touch(scope.file, scope.qual, name)
        if name not in scope.binds:
            return NOTHING
        return self.recall(("bound", scope, name, me), fuel, self._bound, scope, name, me)

    def _bound(self, scope: Scope, name: str, me: Scope | None, fuel: int) -> Values:
        found: list[Value] = []
        for one in self._last(scope, scope.binds[name]):
            if one is not None:
                found += self.evaluate(one, scope, fuel, me)
        return distinct(found)

    def _last(self, scope: Scope, bindings: list[Expression]) -> list[Expression]:
        """The last few bindings, of overloads only what is behind them."""
        if len(bindings) == 1:
            return bindings
        scopes = self.project.scopes(scope.file)
        kept = [
            one
            for one in bindings
            if not (one and one[0] == "d" and "overload" in decorator_names(scopes[one[1]]))
        ]
        return (kept or bindings[-1:])[-MOST_BINDINGS:]

    def module_attribute(self, path: str, name: str, fuel: int) -> Values:
        return self.recall(("module", path, name), fuel, self._module_attribute, path, name)

    def _module_attribute(self, path: str, name: str, fuel: int) -> Values:
        self.touch(path, "", name)
        scopes = self.project.scopes(path)
        if not scopes:
            return NOTHING
        module = scopes[0]
        if name in module.binds:
            return self.bound(module, name, fuel)
        if path.endswith(("/__init__.py", "__init__.pyi")):
            below = self._module_at("/".join(p for p in (dirname(path), name) if p))
            if below is not None:
                return (("M", below),)
        self.touch(path, "", "*")
        for one in module.binds.get("*", ()):
            for source in self.imported(one, module, fuel):
                if source[0] == "M" and not name.startswith("_"):
                    found = self.module_attribute(source[1], name, fuel)
                    if found:
                        return found
        return NOTHING

    def _module_at(self, stem: str) -> str | None:
        self.touch("", "file", stem)
        return self.project.modules.at(stem)

    def _find(self, name: str, importer: str) -> str | None:
        self.touch("", "module", name)
        return self.project.modules.find(name, importer)

    def imported(self, what: Expression, scope: Scope, fuel: int) -> Values:
        """What an import gives."""
        _, module, name, level = what
        if level:
            self.touch("", "file", "")
            stem, path = self.project.modules.relative(scope.file, level, module)
            self.touch("", "file", stem)
            if path is None:
                below = self._module_at(f"{stem}/{name}") if name not in (None, "*") else None
                return (("M", below),) if below else NOTHING
        else:
            path = self._find(module, scope.file)
        if name in (None, "*"):
            if path is not None:
                return (("M", path),)
            return (("N", module),) if self.project.modules.is_folder(module) else (OUTSIDE,)
        if path is not None:
            found = self.module_attribute(path, name, fuel)
            if found:
                return found
        below = None if level else self._find(f"{module}.{name}", scope.file)
        if below is not None:
            return (("M", below),)
        known = path is not None or self.project.modules.is_folder(module)
        return NOTHING if known else (OUTSIDE,)

    def parameter(self, function: Scope, name: str, fuel: int, me: Scope | None) -> Values | None:
        for index, (own, says, default) in enumerate(function.parameters):
            if own == name:
                key = ("parameter", function, name, me)
                return self.recall(
                    key, fuel, self._parameter, function, index, name, says, default, me
                )
            if own == f"*{name}":
                return (OUTSIDE,)
        return None

    def _parameter(
        self,
        function: Scope,
        index: int,
        name: str,
        says: Expression,
        default: Expression,
        me: Scope | None,
        fuel: int,
    ) -> Values:
        owner = class_of(function)
        if index == 0 and owner is not None and says is None:
            found = self._own(function, owner, me, fuel)
            if found:
                return found
        outside = function.up or function
        if says is not None:
            values = self.annotated(says, outside, fuel)
            values = tuple(
                ("I", me or owner) if one == SELF and owner is not None else one for one in values
            )
            if values:
                return values
        if function.name.startswith("test") or "fixture" in decorator_names(function):
            fixture = self._fixture(function, name, fuel)
            if fixture is not None:
                return fixture
        values = self.evaluate(default, outside, fuel) if default is not None else NOTHING
        self.touch(function.file, function.qual, f"({name}")
        passed = self.given.get((function.file, function.qual, name), NOTHING)
        return distinct((*(one for one in values if one[0] in "CIF"), *passed))

    def _own(self, function: Scope, owner: Scope, me: Scope | None, fuel: int) -> Values:
        """The first parameter of a method: the instance, or its class."""
        names = decorator_names(function)
        if "staticmethod" in names:
            return NOTHING
        if me is not None and owner not in self.lineage(me, fuel)[0]:
            me = None
        is_class = "classmethod" in names or function.name in _CLASS_FIRST
        # The second type: what is found there may also come from a class below this one.
        return (("C" if is_class else "I", me or owner),)

    def _fixture(self, function: Scope, name: str, fuel: int) -> Values | None:
        """What pytest passes: a fixture of the class, the module or a conftest.py above."""
        places: list[Scope] = []
        owner = class_of(function)
        if owner is not None:
            places.append(owner)
        module = self.project.scopes(function.file)[0]
        places.append(module)
        folder = dirname(function.file)
        while True:
            path = f"{folder}/conftest.py" if folder else "conftest.py"
            self.touch("", "file", path[:-3])
            if path in self.project.modules.paths and path != function.file:
                places += self.project.scopes(path)[:1]
            if not folder:
                break
            folder = dirname(folder)
        for place in places:
            for one in self.bound(place, name, fuel):
                if (
                    one[0] == "F"
                    and one[1] is not function
                    and ("fixture" in decorator_names(one[1]))
                ):
                    values = self.returned(one[1], None, fuel)
                    inner = [v for value in values for v in _produced(value, one[1])]
                    return distinct(inner) or NOTHING
        return None


def _produced(value: Value, fixture: Scope) -> Values:
    """A fixture that yields gives what it yields."""
    if value[0] == "G" and fixture.yields:
        return value[2]
    return (value,)
