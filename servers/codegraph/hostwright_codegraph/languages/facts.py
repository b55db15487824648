"""What one file says, before anything is known of the others.

Facts are plain tuples, strings and numbers, so that they can be kept by content hash and read back
in any process. A file is a list of *scopes*: the module first, then its classes and functions in
the order of the text. Expressions are tuples whose first item says what they are:

    ("n", name)                 a name
    ("g", name)                 a name from outside the scope
    ("a", expression, name)     an attribute
    ("c", function, arguments)  a call; an argument may be ("k", name, expression) or None
    ("v", type)                 a literal of a builtin type
    ("s", text)                 a string; as an annotation it is read as one
    ("l", type, element)        a container, by its first element
    ("i", expression, (…))      a subscript
    ("w", expression)           awaited
    ("|", a, b, …)              one of these
    ("t", annotation)           an instance of what the annotation says
    ("e", expression)           an element of it
    ("x", expression, i)        its i-th item
    ("@", expression)           what entering it as a context gives
    ("d", index)                the definition that is the scope of that index
    ("m", module, name, level)  an import; name None: the module, "*": all of it
    None                        something that says nothing
"""

from __future__ import annotations

from typing import Any

VERSION = 5
"""Changes whenever facts of the same text would differ; old facts are then made again."""

Expression = Any
"""As above; typed loosely because it is data of many shapes that only the evaluator reads."""

MODULE, CLASS, FUNCTION = 0, 1, 2

ASYNC, OVERLOAD = 1, 2
"""Bits of `Scope.flags`."""


class Scope:
    """A module, class or function with everything that was said directly inside it."""

    __slots__ = (
        "bases",
        "binds",
        "calls",
        "decorators",
        "doc",
        "end",
        "file",
        "flags",
        "index",
        "kind",
        "line",
        "name",
        "parameters",
        "parent",
        "qual",
        "raises",
        "returns",
        "says",
        "selves",
        "up",
        "variables",
        "yields",
    )

    def __init__(self, kind: int, name: str, qual: str, line: int, parent: int) -> None:
        self.kind = kind
        self.name = name
        self.qual = qual
        self.line = line
        self.end = line
        self.parent = parent
        self.flags = 0
        self.doc = ""
        self.binds: dict[str, list[Expression]] = {}
        self.parameters: list[tuple[str, Expression, Expression]] = []
        """Name (`*name` for the rest), annotation, default."""
        self.says: Expression = None
        """The annotation of what is returned."""
        self.returns: list[Expression] = []
        self.yields: list[Expression] = []
        self.decorators: list[Expression] = []
        self.bases: list[Expression] = []
        self.selves: list[tuple[str, str, Expression, int]] = []
        """Attributes that are assigned: of which name, which, what, in which line."""
        self.calls: list[tuple[Expression, int]] = []
        self.raises: list[tuple[Expression, int]] = []
        self.variables: list[tuple[str, int]] = []
        # Filled in where a project is put together.
        self.file = ""
        self.index = 0
        self.up: Scope | None = None

    def pack(self) -> tuple[Any, ...]:
        """As it is kept."""
        return (
            *(self.kind, self.name, self.qual, self.line, self.end, self.parent, self.flags),
            *(self.doc, self.binds, self.parameters, self.says, self.returns, self.yields),
            *(self.decorators, self.bases, self.selves, self.calls, self.raises, self.variables),
        )


def unpack(packed: list[tuple[Any, ...]], file: str) -> list[Scope]:
    """Scopes as they were packed, tied to each other."""
    scopes: list[Scope] = []
    for index, one in enumerate(packed):
        scope = Scope(one[0], one[1], one[2], one[3], one[5])
        scope.end, scope.flags, scope.doc, scope.binds = one[4], one[6], one[7], one[8]
        scope.parameters, scope.says, scope.returns, scope.yields = one[9:13]
        scope.decorators, scope.bases, scope.selves, scope.calls = one[13:17]
        scope.raises, scope.variables = one[17:19]
        scope.file = file
        scope.index = index
        scope.up = scopes[scope.parent] if scope.parent >= 0 else None
        scopes.append(scope)
    return scopes
