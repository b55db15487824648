"""What the parts of the resolver know of each other."""

from __future__ import annotations

from hostwright_codegraph.flow.memo import Memo
from hostwright_codegraph.flow.project import Project
from hostwright_codegraph.flow.values import Value, Values
from hostwright_codegraph.languages.facts import Expression, Scope


class FlowBase(Memo):
    """The questions that one part asks another. `fuel` is how many definitions deep it may go."""

    def __init__(self, project: Project) -> None:
        super().__init__()
        self.project = project
        self.given: dict[tuple[str, str, str], Values] = {}
        """What calls pass to a parameter (file, function, parameter)."""

    def evaluate(
        self, what: Expression, scope: Scope, fuel: int, me: Scope | None = None
    ) -> Values:
        """What an expression in a scope may be; `me`: the class of the instance at hand."""
        raise NotImplementedError

    def bound(self, scope: Scope, name: str, fuel: int, me: Scope | None = None) -> Values:
        """What a scope itself binds a name to."""
        raise NotImplementedError

    def module_attribute(self, path: str, name: str, fuel: int) -> Values:
        """What a module has under a name."""
        raise NotImplementedError

    def annotated(self, what: Expression, scope: Scope, fuel: int) -> Values:
        """The instances that an annotation in a scope allows."""
        raise NotImplementedError

    def lineage(self, owner: Scope, fuel: int) -> tuple[list[Scope], bool]:
        """A class and those above it in the order of lookup; whether some are outside."""
        raise NotImplementedError

    def class_attribute(
        self, owner: Scope, name: str, fuel: int, *, instance: bool, after: Scope | None = None
    ) -> Values:
        """What a class (or its instances) has under a name; `after`: only classes behind this."""
        raise NotImplementedError

    def attribute(self, value: Value, name: str, fuel: int) -> Values:
        """An attribute of a value."""
        raise NotImplementedError

    def called(self, value: Value, fuel: int) -> Values:
        """What calling a value gives."""
        raise NotImplementedError

    def returned(self, function: Scope, me: Scope | None, fuel: int) -> Values:
        """What a function returns."""
        raise NotImplementedError

    def parameter(self, function: Scope, name: str, fuel: int, me: Scope | None) -> Values | None:
        """What a parameter may be; None when there is none of that name."""
        raise NotImplementedError

    def elements(self, values: Values, fuel: int) -> Values:
        """What iterating over values gives."""
        raise NotImplementedError


def decorator_names(scope: Scope) -> list[str]:
    """The last names of a definition's decorators."""
    names: list[str] = []
    for decorator in scope.decorators:
        what = decorator
        while what is not None and what[0] == "c":
            what = what[1]
        if what is not None and what[0] in ("n", "g", "a"):
            names.append(what[-1])
    return names
