"""Annotations: the instances that they allow."""

from __future__ import annotations

import ast

from hostwright_codegraph.flow.base import FlowBase
from hostwright_codegraph.flow.values import (
    BUILTIN_TYPES,
    CONTAINERS,
    LAST_OF,
    NOTHING,
    OUTSIDE,
    SELF,
    TRANSPARENT,
    Value,
    Values,
    distinct,
)
from hostwright_codegraph.languages.facts import Expression, Scope


class Annotations(FlowBase):
    """The part of the resolver that reads annotations."""

    def annotated(self, what: Expression, scope: Scope, fuel: int) -> Values:
        if what is None or fuel <= 0:
            return NOTHING
        match what[0]:
            case "s":
                return self.annotated(_parsed(what[1]), scope, fuel)
            case "|":
                each = [self.annotated(one, scope, fuel) for one in what[1:]]
                return distinct(value for values in each for value in values)
            case "i":
                return self._subscripted(what, scope, fuel)
            case "n" | "a":
                return self._plain(what, scope, fuel)
            case _:
                return NOTHING

    def _plain(self, what: Expression, scope: Scope, fuel: int) -> Values:
        name = what[-1]
        if name == "Self":
            return (SELF,)
        if what[0] == "n" and name == "None":
            return NOTHING
        if what[0] == "n" and name in BUILTIN_TYPES and name not in scope.binds:
            return (("B", name),)
        found: list[Value] = []
        for one in self.evaluate(what, scope, fuel):
            if one[0] == "C":
                found.append(("I", one[1]))
            elif one[0] == "X":
                found.append(OUTSIDE)
            elif one[0] == "T":
                found.append(("B", one[1]))
            elif one[0] == "V":
                found += one[1]
        return distinct(found)

    def _subscripted(self, what: Expression, scope: Scope, fuel: int) -> Values:
        _, of, keys = what
        name = of[-1] if of is not None and of[0] in ("n", "a") else None
        if name in TRANSPARENT:
            inside = keys[:1] if name == "Annotated" else keys
            each = [self.annotated(one, scope, fuel) for one in inside]
            return distinct(value for values in each for value in values)
        if name in ("Type", "type"):
            return distinct(
                ("C", one[1])
                for key in keys
                for one in self.annotated(key, scope, fuel)
                if one[0] == "I"
            )
        if name in CONTAINERS:
            last = name in LAST_OF or name == "Coroutine"
            if not keys:
                return NOTHING
            return (("G", name, self.annotated(keys[-1 if last else 0], scope, fuel)),)
        if name in ("Callable", "Literal"):
            return (OUTSIDE,)
        return self.annotated(of, scope, fuel)


def _parsed(text: str) -> Expression:
    """An annotation that was written as a string."""
    try:
        return _converted(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _converted(node: ast.expr) -> Expression:
    match node:
        case ast.Name():
            return ("n", node.id)
        case ast.Attribute():
            return ("a", _converted(node.value), node.attr)
        case ast.Subscript(slice=ast.Tuple(elts=keys)):
            return ("i", _converted(node.value), tuple(map(_converted, keys)))
        case ast.Subscript():
            return ("i", _converted(node.value), (_converted(node.slice),))
        case ast.BinOp():
            return ("|", _converted(node.left), _converted(node.right))
        case ast.Constant(value=str() as text):
            return ("s", text)
        case _:
            return None
