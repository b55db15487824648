"""Classes: the order of their bases, and what is found on them and on their instances."""

from __future__ import annotations

from collections.abc import Sequence

from hostwright_codegraph.flow.base import FlowBase, decorator_names
from hostwright_codegraph.flow.values import NOTHING, Value, Values, distinct
from hostwright_codegraph.languages.facts import Scope

PROPERTIES = frozenset(("property", "cached_property", "setter", "getter", "deleter"))
MOST_ASSIGNED = 5


class Classes(FlowBase):
    """The part of the resolver that knows inheritance."""

    def lineage(self, owner: Scope, fuel: int) -> tuple[list[Scope], bool]:
        found = self.recall(("lineage", owner), fuel, self._lineage, owner)
        return found or ([owner], True)  # pyright: ignore[reportReturnType]

    def _lineage(self, owner: Scope, fuel: int) -> tuple[list[Scope], bool]:
        self.touch(owner.file, owner.qual, "(bases")
        outside = False
        lines: list[list[Scope]] = []
        direct: list[Scope] = []
        for base in owner.bases:
            classes = self.base_classes(base, owner, fuel)
            if not classes:
                outside = outside or base != ("n", "object")
            for one in classes[:1]:
                if one is not owner:
                    above, beyond = self.lineage(one, fuel)
                    outside = outside or beyond
                    lines.append(list(above))
                    direct.append(one)
        return [owner, *_merged([*lines, direct])], outside

    def base_classes(self, base: object, owner: Scope, fuel: int) -> list[Scope]:
        """The classes of the project that an expression among the bases means."""
        if base is None:
            return []
        outside = owner.up or owner
        while base and base[0] == "i":  # type: ignore[index]  # Generic[T] and the like
            base = base[1]  # type: ignore[index]
        return [one[1] for one in self.evaluate(base, outside, fuel) if one[0] == "C"]

    def class_attribute(
        self, owner: Scope, name: str, fuel: int, *, instance: bool, after: Scope | None = None
    ) -> Values:
        key = ("attribute", owner, name, instance, after)
        return self.recall(key, fuel, self._class_attribute, owner, name, instance, after)

    def _class_attribute(
        self, owner: Scope, name: str, instance: bool, after: Scope | None, fuel: int
    ) -> Values:
        line, _ = self.lineage(owner, fuel)
        if after is not None:
            line = line[line.index(after) + 1 :] if after in line else []
        for one in line:
            self.touch(one.file, one.qual, name)
            found: list[Value] = []
            if name in one.binds:
                for value in self.bound(one, name, fuel):
                    found += self._looked_up(value, owner, instance, fuel)
            self.touch(one.file, one.qual, f".{name}")
            if not found or all(value[0] in "BX" for value in found):
                for what, where in self.project.assigned(one, name)[:MOST_ASSIGNED]:
                    if what is not None:
                        found += self.evaluate(what, where, fuel)
            if found or self._is_defined(one, name):
                return distinct(found)
        return NOTHING

    def _is_defined(self, owner: Scope, name: str) -> bool:
        return any(one is not None and one[0] == "d" for one in owner.binds.get(name, ()))

    def _looked_up(self, value: Value, owner: Scope, instance: bool, fuel: int) -> Sequence[Value]:
        """What a class has, as it is seen from it or from an instance."""
        if value[0] != "F" or value[2] is not None:
            return (value,)
        names = decorator_names(value[1])
        if PROPERTIES & set(names):
            return self.returned(value[1], owner, fuel) if instance else ()
        if "staticmethod" in names:
            return (value,)
        return (("F", value[1], owner),)


def _merged(lines: list[list[Scope]]) -> list[Scope]:
    """C3, as Python orders bases; where that is impossible, depth first."""
    rest = [list(line) for line in lines if line]
    merged: list[Scope] = []
    while rest:
        head = next(
            (line[0] for line in rest if not any(line[0] in other[1:] for other in rest)),
            rest[0][0],
        )
        merged.append(head)
        rest = [kept for line in rest if (kept := [one for one in line if one is not head])]
    return merged
