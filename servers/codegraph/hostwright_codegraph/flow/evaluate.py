"""Expressions: what they may be, called, subscripted, iterated over and entered."""

from __future__ import annotations

from collections.abc import Callable

from hostwright_codegraph.flow.annotations import Annotations
from hostwright_codegraph.flow.base import FlowBase, decorator_names
from hostwright_codegraph.flow.classes import Classes
from hostwright_codegraph.flow.names import Names
from hostwright_codegraph.flow.project import class_of
from hostwright_codegraph.flow.values import (
    CONTAINER_OF_FIRST,
    GIVES_CONTAINER,
    GIVES_ELEMENT,
    NOTHING,
    OUTSIDE,
    SAME_AS_FIRST,
    SELF,
    Value,
    Values,
    distinct,
)
from hostwright_codegraph.languages.facts import CLASS, Expression, Scope

MOST_RETURNS = 8


class Flow(Names, Classes, Annotations):
    """The resolver: ask it what an expression of a scope may be."""

    def evaluate(
        self, what: Expression, scope: Scope, fuel: int, me: Scope | None = None
    ) -> Values:
        if what is None:
            return NOTHING
        reader = _READERS.get(what[0])
        return reader(self, what, scope, fuel, me) if reader else NOTHING

    def _all(
        self, what: tuple[Expression, ...], scope: Scope, fuel: int, me: Scope | None
    ) -> Values:
        return distinct(value for one in what for value in self.evaluate(one, scope, fuel, me))

    def name(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        return self.named(scope, what[1], fuel, me)

    def outer_name(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        return self.named(scope.up or scope, what[1], fuel, me)

    def definition(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        del fuel, me
        found = self.project.scopes(scope.file)[what[1]]
        return (("C", found) if found.kind == CLASS else ("F", found, None),)

    def imports(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        del me
        return self.imported(what, scope, fuel)

    def dotted(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        owners = self.evaluate(what[1], scope, fuel, me)
        return distinct(value for one in owners for value in self.attribute(one, what[2], fuel))

    def literal(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        del scope, fuel, me
        return (("B", what[1] if what[0] == "v" else "str"),)

    def container(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        inside = what[2]
        if inside and isinstance(inside[0], str):
            inside = (inside,)
        return (("G", what[1], self._all(inside, scope, fuel, me) if inside else NOTHING),)

    def subscript(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        found: list[Value] = []
        for one in self.evaluate(what[1], scope, fuel, me):
            match one[0]:
                case "G":
                    found += one[2]
                case "I":
                    found += self._method_gives(one[1], "__getitem__", fuel)
                case "C":
                    found.append(one)
                case "X" | "B" | "T":
                    found.append(OUTSIDE)
                case _:
                    pass
        return distinct(found)

    def awaited(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        found: list[Value] = []
        for one in self.evaluate(what[1], scope, fuel, me):
            found += one[2] if one[0] == "G" and one[1] == "Coroutine" else (one,)
        return distinct(found)

    def either(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        return self._all(what[1:], scope, fuel, me)

    def operated(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        """`a + b`: of the kind of `a`, where that is nothing of the project's."""
        return tuple(
            one for one in self.evaluate(what[1], scope, fuel, me) if one[0] in ("B", "X", "G")
        )

    def typed(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        owner = scope if scope.kind == CLASS else class_of(scope)
        return tuple(
            ("I", me or owner) if one == SELF and owner is not None else one
            for one in self.annotated(what[1], scope, fuel)
        )

    def element(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        return self.elements(self.evaluate(what[1], scope, fuel, me), fuel)

    def item(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        """`a, b = …`: exact for a tuple that is written out, else only what is outside."""
        of, index = what[1], what[2]
        if (
            of
            and of[0] == "l"
            and of[1] == "tuple"
            and of[2]
            and isinstance(of[2][0], tuple | None)
        ):
            return self.evaluate(of[2][index], scope, fuel, me) if index < len(of[2]) else NOTHING
        return tuple(OUTSIDE for one in self.evaluate(of, scope, fuel, me) if one[0] in ("X", "B"))[
            :1
        ]

    def entered(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        found: list[Value] = []
        for one in self.evaluate(what[1], scope, fuel, me):
            if one[0] == "G":
                found += one[2]
            elif one[0] == "I":
                found += self._method_gives(one[1], "__enter__", fuel) or self._method_gives(
                    one[1], "__aenter__", fuel
                )
            else:
                found.append(one)
        return distinct(found)

    def _method_gives(self, owner: Scope, name: str, fuel: int) -> Values:
        """What a method of an instance returns."""
        return distinct(
            value
            for one in self.class_attribute(owner, name, fuel, instance=True)
            if one[0] == "F"
            for value in self.returned(one[1], owner, fuel)
        )

    def elements(self, values: Values, fuel: int) -> Values:
        found: list[Value] = []
        for one in values:
            match one[0]:
                case "G":
                    found += one[2] if one[1] not in ("dict", "Dict", "Mapping") else ()
                case "X" | "B":
                    found.append(OUTSIDE)
                case "I":
                    given = self._method_gives(one[1], "__iter__", fuel)
                    found += [value for inner in given if inner[0] == "G" for value in inner[2]]
                case _:
                    pass
        return distinct(found)

    def call(self, what: Expression, scope: Scope, fuel: int, me: Scope | None) -> Values:
        _, function, arguments = what
        name = function[-1] if function[0] in ("n", "g", "a") else ""
        if function == ("n", "super"):
            return self._super(scope, me)
        if name in ("TypeVar", "cast", "type", "next") or name in _KNOWN:
            found = self._known(name, what, scope, fuel, me)
            if found is not None:
                return found
        del arguments
        return distinct(
            value
            for one in self.evaluate(function, scope, fuel, me)
            for value in self.called(one, fuel)
        )

    def _known(
        self, name: str, what: Expression, scope: Scope, fuel: int, me: Scope | None
    ) -> Values | None:
        """Functions of the standard library whose result follows from their arguments."""
        _, function, arguments = what
        if name == "TypeVar":
            bound = [one[2] for one in arguments if one and one[0] == "k" and one[1] == "bound"]
            return (("V", self.annotated(bound[0], scope, fuel) if bound else NOTHING),)
        if not arguments or arguments[0] is None or arguments[0][0] == "k":
            return None
        # A function of the project by the same name is what it is.
        outside = self.evaluate(function, scope, fuel, me)
        if not all(one[0] in ("X", "T") for one in outside):
            return None
        first = arguments[0]
        if name == "cast":
            return self.annotated(first, scope, fuel)
        values = self.evaluate(first, scope, fuel, me)
        if name == "type":
            return tuple(("C", one[1]) for one in values if one[0] == "I")
        if name == "next":
            return self.elements(values, fuel)
        if name in SAME_AS_FIRST:
            return values or None
        return (("G", "list", self.elements(values, fuel)),) if values else None

    def _super(self, scope: Scope, me: Scope | None) -> Values:
        inside: Scope | None = scope
        while inside is not None and class_of(inside) is None:
            inside = inside.up
        owner = class_of(inside) if inside is not None else None
        return (("S", owner, me or owner),) if owner is not None else NOTHING

    def called(self, value: Value, fuel: int) -> Values:
        match value[0]:
            case "C":
                return (("I", value[1]),)
            case "F":
                return self.returned(value[1], value[2], fuel)
            case "I":
                return self._method_gives(value[1], "__call__", fuel)
            case "X" | "B":
                return (OUTSIDE,)
            case "T":
                return (("B", value[1]),)
            case "H":
                if value[1] in GIVES_ELEMENT:
                    return value[2]
                return (("G", "list", value[2]),) if value[1] in GIVES_CONTAINER else (OUTSIDE,)
            case _:
                return NOTHING

    def attribute(self, value: Value, name: str, fuel: int) -> Values:
        match value[0]:
            case "M":
                return self.module_attribute(value[1], name, fuel)
            case "N":
                below = self._find(f"{value[1]}.{name}", "")
                if below is not None:
                    return (("M", below),)
                longer = f"{value[1]}.{name}"
                return (("N", longer),) if self.project.modules.is_folder(longer) else NOTHING
            case "I" | "C":
                return self._of_class(value, name, fuel)
            case "S":
                return self._of_super(value, name, fuel)
            case "G":
                return (("H", name, value[2]),)
            case "X" | "B" | "T" | "F" | "H":
                return (OUTSIDE,)
            case _:
                return NOTHING

    def _of_class(self, value: Value, name: str, fuel: int) -> Values:
        owner: Scope = value[1]
        instance = value[0] == "I"
        if name == "__class__" and instance:
            return (("C", owner),)
        found = self.class_attribute(owner, name, fuel, instance=instance)
        if found:
            return found
        line, outside = self.lineage(owner, fuel)
        if not outside or any(name in one.binds for one in line):
            return NOTHING
        return (OUTSIDE,)

    def _of_super(self, value: Value, name: str, fuel: int) -> Values:
        owner, of = value[1], value[2]
        if owner not in self.lineage(of, fuel)[0]:
            of = owner
        found = self.class_attribute(of, name, fuel, instance=True, after=owner)
        return found or (OUTSIDE,)

    def returned(self, function: Scope, me: Scope | None, fuel: int) -> Values:
        return self.recall(("returned", function, me), fuel, self._returned, function, me)

    def _returned(self, function: Scope, me: Scope | None, fuel: int) -> Values:
        outside = function.up or function
        self.touch(outside.file, outside.qual, function.name)
        self.touch(function.file, function.qual, "(returns")
        if "overload" in decorator_names(function):
            return NOTHING
        values = self.annotated(function.says, outside, fuel)
        owner = class_of(function)
        values = tuple(
            ("I", me or owner) if one == SELF and owner is not None else one for one in values
        )
        if values and values != (OUTSIDE,):
            return values
        if function.yields:
            inside = self._all(tuple(function.yields[:MOST_RETURNS]), function, fuel, me)
            return (("G", "Iterator", inside),)
        inferred = self._all(tuple(function.returns[:MOST_RETURNS]), function, fuel, me)
        return inferred or values


_KNOWN = SAME_AS_FIRST | CONTAINER_OF_FIRST
_Reader = Callable[[Flow, Expression, Scope, int, "Scope | None"], Values]
_READERS: dict[str, _Reader] = {
    "n": Flow.name,
    "g": Flow.outer_name,
    "a": Flow.dotted,
    "c": Flow.call,
    "v": Flow.literal,
    "s": Flow.literal,
    "l": Flow.container,
    "i": Flow.subscript,
    "w": Flow.awaited,
    "|": Flow.either,
    "o": Flow.operated,
    "t": Flow.typed,
    "e": Flow.element,
    "x": Flow.item,
    "@": Flow.entered,
    "d": Flow.definition,
    "m": Flow.imports,
}
__all__ = ["Flow", "FlowBase"]
