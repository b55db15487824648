"""What an expression may be. A value is a small tuple; an expression has a few of them.

    ("C", scope)             a class of the project
    ("I", scope)             an instance of one
    ("F", scope, class)      a function; of a method, the class it was looked up on (or None)
    ("M", path)              a module of the project
    ("N", name)              a folder of modules without a file of its own
    ("G", kind, values)      a container or iterator and what is in it
    ("H", name, values)      a method of such a container
    ("S", class, of)         `super()` inside a class, seen from the class of the instance
    ("B", name)              an instance of a builtin type
    ("T", name)              a builtin type itself
    ("V", values)            a type variable and what bounds it
    ("Y",)                   the instance's own type (`Self`), before it is known
    ("X",)                   something that is known to be outside the project

No value at all means: not known. That is no edge, and neither is ("X",); only the first is told.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

Value = tuple[Any, ...]
Values = tuple[Value, ...]

OUTSIDE: Value = ("X",)
SELF: Value = ("Y",)
NOTHING: Values = ()
MOST = 8
"""More than these say nothing any longer."""

BUILTIN_TYPES = frozenset(
    name for name, what in vars(builtins).items() if isinstance(what, type) and name[0].islower()
)
BUILTINS = frozenset(dir(builtins))

TRANSPARENT = frozenset(
    (
        *("Optional", "Union", "Annotated", "ClassVar", "Final", "Required", "NotRequired"),
        *("Awaitable", "ReadOnly", "Unpack"),
    )
)
LAST_OF = frozenset(("dict", "Dict", "Mapping", "MutableMapping", "defaultdict", "OrderedDict"))
CONTAINERS = LAST_OF | frozenset(
    (
        *("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncGenerator", "AsyncIterable"),
        *("ContextManager", "AbstractContextManager", "AbstractAsyncContextManager", "Coroutine"),
        *("List", "Sequence", "Set", "list", "set", "tuple", "Tuple", "frozenset", "FrozenSet"),
        *("deque", "Deque", "Collection", "MutableSequence", "Queue"),
    )
)
GIVES_ELEMENT = frozenset(("pop", "popleft", "get", "setdefault", "__getitem__", "__next__"))
GIVES_CONTAINER = frozenset(("values", "copy", "__iter__"))
SAME_AS_FIRST = frozenset(("copy", "deepcopy", "partial", "wraps", "lru_cache", "cache"))
CONTAINER_OF_FIRST = frozenset(("list", "tuple", "set", "sorted", "reversed", "iter", "frozenset"))


def distinct(values: Iterable[Value]) -> Values:
    """Without repetitions, in order, at most `MOST`."""
    found: list[Value] = []
    for value in values:
        if value not in found:
            found.append(value)
            if len(found) >= MOST:
                break
    return tuple(found)
