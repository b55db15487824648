"""Python expressions, parsed, as the tuples of `facts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostwright_codegraph.languages.facts import Expression

if TYPE_CHECKING:
    from collections.abc import Callable

    from tree_sitter import Node

DEEPEST = 40
MAX_ARGUMENTS = 10
MAX_TEXT = 120

_LITERALS = {
    "integer": "int",
    "float": "float",
    "concatenated_string": "str",
    "true": "bool",
    "false": "bool",
    "comparison_operator": "bool",
    "not_operator": "bool",
    "dictionary_comprehension": "dict",
    "lambda": "function",
}
_CONTAINERS = {
    "list": "list",
    "tuple": "tuple",
    "set": "set",
    "list_comprehension": "list",
    "set_comprehension": "set",
    "generator_expression": "Iterator",
    "expression_list": "tuple",
}


def text_of(node: Node, source: bytes) -> str:
    """What stands there."""
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def expression(node: Node | None, source: bytes, depth: int = 0) -> Expression:
    """The tuple for a node; None where it says nothing that is of use."""
    if node is None or depth > DEEPEST:
        return None
    kind = node.type
    if kind == "identifier":
        return ("n", source[node.start_byte : node.end_byte].decode("utf-8", "replace"))
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(node, source, depth + 1)
    literal = _LITERALS.get(kind)
    return ("v", literal) if literal else None


def _attribute(node: Node, source: bytes, depth: int) -> Expression:
    name = node.child_by_field_name("attribute")
    owner = expression(node.child_by_field_name("object"), source, depth)
    return ("a", owner, text_of(name, source)) if name is not None else None


def _call(node: Node, source: bytes, depth: int) -> Expression:
    function = expression(node.child_by_field_name("function"), source, depth)
    if function is None:
        return None
    arguments: list[Any] = []
    given = node.child_by_field_name("arguments")
    if given is not None and given.type == "argument_list":
        arguments = [_argument(one, source, depth) for one in given.named_children[:MAX_ARGUMENTS]]
    return ("c", function, tuple(arguments))


def _argument(node: Node, source: bytes, depth: int) -> Expression:
    if node.type == "keyword_argument":
        name = node.child_by_field_name("name")
        value = expression(node.child_by_field_name("value"), source, depth)
        return ("k", text_of(name, source), value) if name is not None else None
    return expression(node, source, depth)


def _string(node: Node, source: bytes, depth: int) -> Expression:
    del depth
    if node.end_byte - node.start_byte > MAX_TEXT:
        return ("v", "str")
    text = text_of(node, source)
    prefix = text[: len(text) - len(text.lstrip("rRbBuUfFtT"))].lower()
    if "b" in prefix:
        return ("v", "bytes")
    return ("s", text[len(prefix) :].strip("\"'")) if "f" not in prefix else ("v", "str")


def _container(node: Node, source: bytes, depth: int) -> Expression:
    inside = node.named_children
    if node.type in ("tuple", "expression_list") and len(inside) > 1:
        return ("l", "tuple", tuple(expression(one, source, depth) for one in inside[:6]))
    return ("l", _CONTAINERS[node.type], expression(inside[0], source, depth) if inside else None)


def _dictionary(node: Node, source: bytes, depth: int) -> Expression:
    pairs = [one for one in node.named_children[:6] if one.type == "pair"]
    values = tuple(expression(one.child_by_field_name("value"), source, depth) for one in pairs)
    return ("l", "dict", values or None)


def _subscript(node: Node, source: bytes, depth: int) -> Expression:
    keys = node.children_by_field_name("subscript")[:6]
    return (
        "i",
        expression(node.child_by_field_name("value"), source, depth),
        tuple(expression(one, source, depth) for one in keys),
    )


def _generic(node: Node, source: bytes, depth: int) -> Expression:
    inside = node.named_children
    keys = inside[1].named_children[:6] if len(inside) > 1 else []
    return (
        "i",
        expression(inside[0], source, depth),
        tuple(expression(one, source, depth) for one in keys),
    )


def _first(node: Node, source: bytes, depth: int) -> Expression:
    inside = node.named_children
    return expression(inside[0], source, depth) if inside else None


def _await(node: Node, source: bytes, depth: int) -> Expression:
    return ("w", _first(node, source, depth))


def _conditional(node: Node, source: bytes, depth: int) -> Expression:
    inside = node.named_children
    return ("|", expression(inside[0], source, depth), expression(inside[-1], source, depth))


def _either(node: Node, source: bytes, depth: int) -> Expression:
    return (
        "|",
        expression(node.child_by_field_name("left"), source, depth),
        expression(node.child_by_field_name("right"), source, depth),
    )


def _binary(node: Node, source: bytes, depth: int) -> Expression:
    operator = node.child_by_field_name("operator")
    if operator is not None and operator.type == "|":
        return _either(node, source, depth)
    return ("o", expression(node.child_by_field_name("left"), source, depth))


def _named(node: Node, source: bytes, depth: int) -> Expression:
    return expression(node.child_by_field_name("value"), source, depth)


def _union(node: Node, source: bytes, depth: int) -> Expression:
    return ("|", *(expression(one, source, depth) for one in node.named_children))


def _chained(node: Node, source: bytes, depth: int) -> Expression:
    return expression(node.child_by_field_name("right"), source, depth)


_READERS: dict[str, Callable[[Node, bytes, int], Expression]] = {
    "attribute": _attribute,
    "call": _call,
    "dictionary": _dictionary,
    "string": _string,
    "subscript": _subscript,
    "generic_type": _generic,
    "parenthesized_expression": _first,
    "type": _first,
    "await": _await,
    "conditional_expression": _conditional,
    "boolean_operator": _either,
    "binary_operator": _binary,
    "named_expression": _named,
    "union_type": _union,
    "assignment": _chained,
    **dict.fromkeys(_CONTAINERS, _container),
}
