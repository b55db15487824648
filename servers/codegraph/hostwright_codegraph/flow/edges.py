"""A file's edges: every call, base, override, import, decorator, type and exception in it.

An edge is made only where the evidence leads to a definition of the project. What is known to lead
outside makes none; what is not known is kept as unresolved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hostwright_codegraph.flow.base import decorator_names
from hostwright_codegraph.flow.evaluate import Flow
from hostwright_codegraph.flow.memo import FUEL
from hostwright_codegraph.flow.project import class_of
from hostwright_codegraph.flow.values import Value, Values
from hostwright_codegraph.languages.facts import CLASS, FUNCTION, Expression, Scope
from hostwright_codegraph.languages.python.standard import STANDARD_NAMES
from hostwright_codegraph.store.kinds import Edge, Rule

MOST_TARGETS = 4
"""A call that may go to more places than this says too little to be called resolved."""


@dataclass
class FileEdges:
    """What was found in one file. Scopes are named by their index in their file."""

    path: str
    edges: set[tuple[int, int, str, int, int, int]] = field(default_factory=set)
    """From, kind, to which file, to which of its scopes, line, rule."""
    unresolved: list[tuple[int, int, str]] = field(default_factory=list)
    """From, line, what was called."""
    outside: int = 0
    """Calls that are known to leave the project."""
    read: set[int] = field(default_factory=set)
    """The facts that all of this stands on (`memo.fact_key`)."""


class Edges:
    """Makes the edges of files, one at a time."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def of_file(self, path: str) -> FileEdges:
        """Everything that leaves one file."""
        found = FileEdges(path)
        flow = self.flow
        flow.facts_read = found.read
        for scope in flow.project.scopes(path):
            self._imports(scope, found)
            if scope.kind == CLASS:
                self._bases(scope, found)
            if scope.kind == FUNCTION:
                self._overrides(scope, found)
                self._types(scope, found)
            self._decorators(scope, found)
            for call, line in scope.calls:
                self._call(scope, call, line, found)
            for what, line in scope.raises:
                for value in flow.evaluate(what, scope, FUEL):
                    if value[0] in "CI":
                        self._add(found, scope, Edge.RAISES, value[1], line, Rule.SCOPE)
        return found

    @staticmethod
    def _add(
        found: FileEdges, source: Scope, kind: Edge, target: Scope, line: int, rule: Rule
    ) -> None:
        found.edges.add((source.index, kind, target.file, target.index, line, rule))

    def _call(self, scope: Scope, call: Expression, line: int, found: FileEdges) -> None:
        function = call[1]
        values = self.flow.evaluate(function, scope, FUEL)
        if call[2] is None:
            values = self._applied(function, scope, values)
        targets = [one for value in values for one in self._targets(value)]
        rule = _rule(function, values)
        if not targets and not values and function[0] == "a" and call[2] is not None:
            targets, rule = self._only_one(function, scope), Rule.UNIQUE
        if 0 < len(targets) <= MOST_TARGETS:
            for target in targets:
                kind = Edge.INSTANTIATES if target.kind == CLASS else Edge.CALLS
                self._add(found, scope, kind, target, line, rule)
        elif values and not targets:
            found.outside += 1
        elif call[2] is not None:
            found.unresolved.append((scope.index, line, _spelled(function)))
        for argument in call[2] or ():
            what = argument[2] if argument and argument[0] == "k" else argument
            if what and what[0] in ("n", "a"):
                self._reference(scope, what, line, found)

    def _applied(self, function: Expression, scope: Scope, values: Values) -> Values:
        """What applying a decorator calls.

        One that is written with arguments may give this or that by what these are; what it then
        gives to be applied is a function of its own, where it has exactly one.
        """
        if len(values) > 1 and function[0] == "c":
            makers = [one[1] for one in self.flow.evaluate(function[1], scope, FUEL)[:1]]
            values = tuple(one for one in values if one[0] == "F" and one[1].up in makers)
        return values if len(values) == 1 else ()

    def _targets(self, value: Value) -> list[Scope]:
        if value[0] in ("C", "F"):
            return [value[1]]
        if value[0] == "I":
            found = self.flow.class_attribute(value[1], "__call__", FUEL, instance=True)
            return [one[1] for one in found if one[0] == "F"]
        return []

    def _only_one(self, function: Expression, scope: Scope) -> list[Scope]:
        """The method of that name, where exactly one line of classes has one.

        Only where nothing at all is known of the receiver, and never for a name that something in
        the standard library has too.
        """
        name = function[2]
        flow = self.flow
        flow.touch("", "method", name)
        if name in STANDARD_NAMES or flow.evaluate(function[1], scope, FUEL):
            return []
        tops: set[Scope] = set()
        methods = flow.project.methods(name)
        if len(methods) > 12:
            return []
        for one in methods:
            owner = class_of(one)
            if owner is None:
                continue
            line, _ = flow.lineage(owner, FUEL)
            for above in line:
                flow.touch(above.file, above.qual, name)
            tops.add([above for above in line if name in above.binds][-1])
        if len(tops) != 1:
            return []
        found = flow.class_attribute(tops.pop(), name, FUEL, instance=True)
        return [one[1] for one in found if one[0] == "F"][:1]

    def _reference(self, scope: Scope, what: Expression, line: int, found: FileEdges) -> None:
        """A function or class that is passed on may be called from there."""
        targets = [one[1] for one in self.flow.evaluate(what, scope, FUEL) if one[0] in ("C", "F")]
        if len(targets) <= MOST_TARGETS:
            for target in targets:
                self._add(found, scope, Edge.REFERENCES, target, line, Rule.SCOPE)

    def _imports(self, scope: Scope, found: FileEdges) -> None:
        for bindings in scope.binds.values():
            for one in bindings:
                if one is None or one[0] != "m":
                    continue
                for value in self.flow.imported(one, scope, FUEL):
                    target = self._defined(value)
                    if target is not None and target is not scope:
                        self._add(found, scope, Edge.IMPORTS, target, scope.line, Rule.SCOPE)

    def _defined(self, value: Value) -> Scope | None:
        if value[0] == "M":
            scopes = self.flow.project.scopes(value[1])
            return scopes[0] if scopes else None
        return value[1] if value[0] in ("C", "F") else None

    def _bases(self, scope: Scope, found: FileEdges) -> None:
        for base in scope.bases:
            for one in self.flow.base_classes(base, scope, FUEL)[:1]:
                self._add(found, scope, Edge.INHERITS, one, scope.line, Rule.SCOPE)

    def _overrides(self, scope: Scope, found: FileEdges) -> None:
        owner = class_of(scope)
        if owner is None or (scope.name.startswith("__") and scope.name.endswith("__")):
            return
        for above in self.flow.lineage(owner, FUEL)[0][1:]:
            self.flow.touch(above.file, above.qual, scope.name)
            defined = [one for one in above.binds.get(scope.name, ()) if one and one[0] == "d"]
            if defined:
                target = self.flow.project.scopes(above.file)[defined[-1][1]]
                if target.kind == FUNCTION:
                    self._add(found, scope, Edge.OVERRIDES, target, scope.line, Rule.SCOPE)
                return

    def _types(self, scope: Scope, found: FileEdges) -> None:
        outside = scope.up or scope
        says = [scope.says, *(one[1] for one in scope.parameters)]
        for what in says:
            if what is None:
                continue
            for value in self._inside(self.flow.annotated(what, outside, FUEL)):
                self._add(found, scope, Edge.TYPES, value, scope.line, Rule.SCOPE)

    def _inside(self, values: Values) -> list[Scope]:
        found: list[Scope] = []
        for one in values:
            if one[0] in ("I", "C"):
                found.append(one[1])
            elif one[0] == "G":
                found += self._inside(one[2])
        return found

    def _decorators(self, scope: Scope, found: FileEdges) -> None:
        outside = scope.up
        if outside is None or not decorator_names(scope):
            return
        for one in scope.decorators:
            what = one[1] if one and one[0] == "c" else one
            for value in self.flow.evaluate(what, outside, FUEL):
                for target in self._targets(value):
                    self._add(found, scope, Edge.DECORATES, target, scope.line, Rule.SCOPE)


def _rule(function: Expression, values: Values) -> Rule:
    """By what a call was resolved: by names alone, or by the type of what stands before the dot."""
    if function[0] in ("n", "g"):
        return Rule.SCOPE
    return Rule.TYPE if any(one[0] == "F" and one[2] is not None for one in values) else Rule.SCOPE


def _spelled(what: Expression) -> str:
    """How a call is written, in short."""
    if what is None:
        return "…"
    match what[0]:
        case "n" | "g":
            return what[1]
        case "a":
            return f"{_spelled(what[1])}.{what[2]}"[-80:]
        case "c":
            return f"{_spelled(what[1])}()"[-80:]
        case _:
            return "…"
