"""A parsed Python file as facts: one query, its captures in order, and a stack of scopes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hostwright_codegraph.languages.facts import (
    ASYNC,
    CLASS,
    FUNCTION,
    MODULE,
    Expression,
    Scope,
)
from hostwright_codegraph.languages.python.expressions import expression, text_of

if TYPE_CHECKING:
    from tree_sitter import Language, Node, Query, Tree

MAX_DOC = 120


@functools.cache
def _query(language: Language) -> Query:
    from tree_sitter import Query  # noqa: PLC0415 - only the workers that parse load it

    return Query(
        language,
        files("hostwright_codegraph.languages.python")
        .joinpath("facts.scm")
        .read_text(encoding="utf-8"),
    )


def extract(tree: Tree, source: bytes) -> list[Scope]:
    """The scopes of a file."""
    from tree_sitter import QueryCursor  # noqa: PLC0415 - as above

    module = Scope(MODULE, "", "", 1, -1)
    module.end = source.count(b"\n") + 1
    module.doc = _doc(tree.root_node, source)
    nodes = QueryCursor(_query(tree.language)).captures(tree.root_node).get("fact", [])
    return _Reader(module, source).read(nodes)


class _Reader:
    """Walks the captures with the scopes that are open at each."""

    def __init__(self, module: Scope, source: bytes) -> None:
        self.source = source
        self.scopes = [module]
        self.open: list[tuple[int, int, Scope]] = [(0, len(source) + 1, module)]
        """Where the body of each open scope begins and ends."""
        self.decorators: list[Expression] = []
        self.scope = module
        self.inner: list[tuple[int, dict[str, str]]] = []
        """Comprehensions and lambdas that are open: their ends, their names and ours for them."""
        self.counted = 0

    def read(self, nodes: list[Node]) -> list[Scope]:
        spans = sorted((node.start_byte, -node.end_byte, i) for i, node in enumerate(nodes))
        for start, _, which in spans:
            while start >= self.open[-1][1]:
                self.open.pop()
            while self.inner and start >= self.inner[-1][0]:
                self.inner.pop()
            depth = len(self.open) - 1
            # What stands before a body (defaults, bases, annotations) belongs outside.
            while start < self.open[depth][0]:
                depth -= 1
            self.scope = self.open[depth][2]
            node = nodes[which]
            _HANDLERS[node.type](self, node)
        return self.scopes

    def value(self, node: Node | None) -> Expression:
        found = expression(node, self.source)
        return self._renamed(found) if self.inner else found

    def _renamed(self, what: Expression) -> Expression:
        """Names of the comprehensions and lambdas around, which are nobody else's."""
        if not isinstance(what, tuple) or not what:
            return what
        if what[0] == "n":
            for _, names in reversed(self.inner):
                if what[1] in names:
                    return ("n", names[what[1]])
            return what
        return tuple(self._renamed(one) for one in what)

    def text(self, node: Node | None) -> str:
        return text_of(node, self.source) if node is not None else ""

    def so_far(self, what: Expression) -> Expression:
        """In the body of a class, a name that is not bound there yet is one from outside."""
        if self.scope.kind != CLASS or what is None:
            return what
        if what[0] == "n":
            return what if what[1] in self.scope.binds else ("g", what[1])
        return (what[0], self.so_far(what[1]), *what[2:]) if what[0] in ("a", "c") else what

    def bind(self, name: str, value: Expression) -> None:
        self.scope.binds.setdefault(name, []).append(value)

    def bind_to(self, target: Node | None, value: Expression) -> None:
        """An assignment to whatever stands on the left."""
        if target is None:
            return
        kind = target.type
        if kind == "identifier":
            name = self.text(target)
            if self.scope.kind != FUNCTION and name not in self.scope.binds and not self.inner:
                self.scope.variables.append((name, target.start_point[0] + 1))
            self.bind(name, value)
        elif kind == "attribute":
            owner = target.child_by_field_name("object")
            name = self.text(target.child_by_field_name("attribute"))
            if owner is not None and owner.type == "identifier":
                line = target.start_point[0] + 1
                self.scope.selves.append((self.text(owner), name, value, line))
        elif kind in ("pattern_list", "tuple_pattern", "list_pattern"):
            for index, one in enumerate(target.named_children):
                self.bind_to(one, ("x", value, index) if value is not None else None)

    # Each handler takes a node of the type in its name.

    def function(self, node: Node) -> None:
        scope = self._definition(node, FUNCTION)
        if scope is None:
            return
        if node.children[0].type == "async":
            scope.flags |= ASYNC
        scope.says = self.value(node.child_by_field_name("return_type"))
        given = node.child_by_field_name("parameters")
        for one in given.named_children if given is not None else ():
            parameter = self._parameter(one)
            if parameter is not None:
                scope.parameters.append(parameter)

    def klass(self, node: Node) -> None:
        scope = self._definition(node, CLASS)
        above = node.child_by_field_name("superclasses")
        if scope is None or above is None:
            return
        for one in above.named_children:
            if one.type != "keyword_argument":
                scope.bases.append(self.value(one))

    def _definition(self, node: Node, kind: int) -> Scope | None:
        name = self.text(node.child_by_field_name("name"))
        body = node.child_by_field_name("body")
        decorators, self.decorators = self.decorators, []
        if not name or body is None:
            return None
        up = self.scope
        qual = f"{up.qual}.{name}" if up.qual else name
        scope = Scope(kind, name, qual, node.start_point[0] + 1, up.index)
        scope.index = len(self.scopes)
        scope.end = node.end_point[0] + 1
        scope.decorators = decorators
        scope.doc = _doc(body, self.source)
        self.bind(name, ("d", scope.index))
        self.scopes.append(scope)
        self.open.append((body.start_byte, body.end_byte, scope))
        return scope

    def _parameter(self, node: Node) -> tuple[str, Expression, Expression] | None:
        kind = node.type
        if kind == "identifier":
            return (self.text(node), None, None)
        if kind in ("default_parameter", "typed_default_parameter"):
            name = self.text(node.child_by_field_name("name"))
            says = self.value(node.child_by_field_name("type"))
            return (name, says, self.value(node.child_by_field_name("value")))
        if kind == "typed_parameter":
            inner = node.named_children[0]
            says = self.value(node.child_by_field_name("type"))
            if inner.type == "identifier":
                return (self.text(inner), says, None)
            return ("*" + self.text(inner).lstrip("*"), says, None)
        if kind in ("list_splat_pattern", "dictionary_splat_pattern"):
            return ("*" + self.text(node).lstrip("*"), None, None)
        return ("*", None, None) if kind == "keyword_separator" else None

    def call(self, node: Node) -> None:
        value = self.value(node)
        function = node.child_by_field_name("function")
        if value is None or function is None:
            return
        named = function.child_by_field_name("attribute") or function
        self.scope.calls.append((self.so_far(value), named.start_point[0] + 1))

    def assignment(self, node: Node) -> None:
        says = node.child_by_field_name("type")
        right = node.child_by_field_name("right")
        value = ("t", self.value(says)) if says is not None else None
        if value is None or value[1] is None or _says_nothing(value[1]):
            value = self.value(right)
        self.bind_to(node.child_by_field_name("left"), value)

    def named(self, node: Node) -> None:
        self.bind(
            self.text(node.child_by_field_name("name")),
            self.value(node.child_by_field_name("value")),
        )

    def loop(self, node: Node) -> None:
        value = self.value(node.child_by_field_name("right"))
        target = node.child_by_field_name("left")
        self.bind_to(target, ("e", value) if value is not None else None)

    def comprehension(self, node: Node) -> None:
        names: list[str] = []
        for one in node.named_children:
            if one.type == "for_in_clause":
                names += self._names(one.child_by_field_name("left"))
        self._inside(node, names)

    def small_function(self, node: Node) -> None:
        given = node.child_by_field_name("parameters")
        self._inside(node, self._names(given))

    def _inside(self, node: Node, names: list[str]) -> None:
        self.counted += 1
        self.inner.append((node.end_byte, {name: f"{name}@{self.counted}" for name in names}))

    def _names(self, node: Node | None) -> list[str]:
        """The names that a target or a list of parameters binds."""
        if node is None:
            return []
        if node.type == "identifier":
            return [self.text(node)]
        if node.type in ("default_parameter", "typed_default_parameter"):
            return self._names(node.child_by_field_name("name"))
        return [name for one in node.named_children for name in self._names(one)]

    def inner_loop(self, node: Node) -> None:
        """`for x in …` of a comprehension: its own `x`, and what an expression around sees."""
        self.loop(node)
        names = self.inner[-1][1] if self.inner else {}
        for name, own in names.items():
            if name in self.scope.binds and own not in self.scope.binds:
                self.scope.binds[own] = self.scope.binds[name][-1:]

    def entered(self, node: Node) -> None:
        inside = node.named_children[0] if node.named_children else None
        if inside is None or inside.type != "as_pattern":
            return
        parts = inside.named_children
        if len(parts) < 2:
            return
        target = parts[1]
        if target.type == "as_pattern_target" and target.named_children:
            target = target.named_children[0]
        value = self.value(parts[0])
        self.bind_to(target, ("@", value) if value is not None else None)

    def caught(self, node: Node) -> None:
        parts = node.named_children
        if not parts or parts[0].type != "as_pattern":
            return
        parts = parts[0].named_children
        if len(parts) >= 2:
            self.bind(self.text(parts[1]), ("t", self.value(parts[0])))

    def returned(self, node: Node) -> None:
        if node.named_children:
            self.scope.returns.append(self.value(node.named_children[0]))

    def yielded(self, node: Node) -> None:
        inside = node.named_children
        delegates = any(child.type == "from" for child in node.children)
        value = self.value(inside[0]) if inside else None
        self.scope.yields.append(("e", value) if delegates else value)

    def raised(self, node: Node) -> None:
        if node.named_children:
            value = self.value(node.named_children[0])
            if value is not None:
                self.scope.raises.append((value, node.start_point[0] + 1))

    def decorator(self, node: Node) -> None:
        if node.named_children:
            what = self.so_far(self.value(node.named_children[0]))
            self.decorators.append(what)
            if what is not None:
                # Applying it is a call, too; `None` for its arguments says that it is not written.
                self.scope.calls.append((("c", what, None), node.start_point[0] + 1))

    def everywhere(self, node: Node) -> None:
        """`global`: what this function assigns is the module's."""
        for one in node.named_children:
            name = self.text(one)
            self.scope.binds[name] = self.scopes[0].binds.setdefault(name, [])

    def imported(self, node: Node) -> None:
        for one in node.named_children:
            if one.type == "dotted_name":
                top = self.text(one).split(".", 1)[0]
                self.bind(top, ("m", top, None, 0))
                if top != self.text(one):
                    self.bind("", ("m", self.text(one), None, 0))
            elif one.type == "aliased_import":
                module = self.text(one.child_by_field_name("name"))
                alias = self.text(one.child_by_field_name("alias"))
                self.bind(alias, ("m", module, None, 0))

    def imported_from(self, node: Node) -> None:
        module = self.text(node.child_by_field_name("module_name")).replace(" ", "")
        level = len(module) - len(module.lstrip("."))
        module = module[level:]
        names = node.children_by_field_name("name")
        if not names and any(one.type == "wildcard_import" for one in node.named_children):
            self.bind("*", ("m", module, "*", level))
        for one in names:
            if one.type == "aliased_import":
                name = self.text(one.child_by_field_name("name"))
                alias = self.text(one.child_by_field_name("alias"))
            else:
                name = alias = self.text(one)
            self.bind(alias, ("m", module, name, level))


def _says_nothing(annotation: Any) -> bool:
    """`Any`, `Final`, `ClassVar` and `TypeAlias` alone leave the word to the value."""
    return annotation[0] in ("n", "a") and annotation[-1] in (
        *("Any", "Final", "ClassVar", "TypeAlias"),
    )


def _doc(body: Node, source: bytes) -> str:
    """The first line of a docstring."""
    first = body.named_children[0] if body.named_child_count else None
    if first is None or first.type != "expression_statement" or not first.named_children:
        return ""
    inner = first.named_children[0]
    if inner.type != "string":
        return ""
    text = source[inner.start_byte : inner.start_byte + 400].decode("utf-8", "replace")
    text = text.lstrip("rRuUbB").strip("\"' \t\r\n")
    return text.split("\n", 1)[0].strip().rstrip("\"'")[:MAX_DOC]


_HANDLERS: dict[str, Callable[[_Reader, Node], None]] = {
    "function_definition": _Reader.function,
    "class_definition": _Reader.klass,
    "call": _Reader.call,
    "import_statement": _Reader.imported,
    "import_from_statement": _Reader.imported_from,
    "assignment": _Reader.assignment,
    "return_statement": _Reader.returned,
    "yield": _Reader.yielded,
    "with_item": _Reader.entered,
    "for_statement": _Reader.loop,
    "for_in_clause": _Reader.inner_loop,
    "list_comprehension": _Reader.comprehension,
    "set_comprehension": _Reader.comprehension,
    "dictionary_comprehension": _Reader.comprehension,
    "generator_expression": _Reader.comprehension,
    "lambda": _Reader.small_function,
    "named_expression": _Reader.named,
    "decorator": _Reader.decorator,
    "raise_statement": _Reader.raised,
    "global_statement": _Reader.everywhere,
    "except_clause": _Reader.caught,
}
