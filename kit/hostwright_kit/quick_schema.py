"""A quick yes to arguments that fit an input schema, for the schemas that most tools have.

`compiled(schema)` gives a check that answers True only where a full JSON Schema validator would
find no fault, or None for a schema with a keyword that is not known here. Anything but True is for
the full validator to judge and to explain; it takes some twenty times as long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

Check = Callable[[Any], bool]

_SAYS_NOTHING = frozenset(
    {"title", "description", "default", "examples", "format", "maxBytes", "deprecated", "$defs"}
)
_OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "maxProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}


def compiled(schema: object) -> Check | None:
    """The check for this schema; None where only the full validator can tell."""
    if not isinstance(schema, Mapping):
        return None
    fields = cast("Mapping[str, Any]", schema)
    keys = fields.keys() - _SAYS_NOTHING
    if keys == {"anyOf"}:
        return _any_of(fields["anyOf"])
    if keys in ({"enum", "type"}, {"enum"}, {"const", "type"}, {"const"}):
        return _one_of(fields.get("enum", [fields.get("const")]))
    kind = fields.get("type")
    if not isinstance(kind, str) or not keys <= {"type", *_OF_TYPE.get(kind, ())}:
        return None
    return _MAKERS[kind](fields)


def _any_of(options: list[Any]) -> Check | None:
    checks = [check for check in map(compiled, options) if check is not None]
    if len(checks) != len(options):
        return None
    return lambda value: any(check(value) for check in checks)


def _one_of(values: list[Any]) -> Check | None:
    # Only texts: to JSON Schema 1 and 1.0 are the same, and 1 and true are not.
    if not all(type(value) is str for value in values):
        return None
    known = frozenset(values)
    return lambda value: type(value) is str and value in known


def _object(schema: Mapping[str, Any]) -> Check | None:
    members: dict[str, Check] = {}
    for name, inner in schema.get("properties", {}).items():
        if (check := compiled(inner)) is None:
            return None
        members[name] = check
    more = schema.get("additionalProperties", True)
    rest = None if isinstance(more, bool) else compiled(more)
    if rest is None and not isinstance(more, bool):
        return None
    required = frozenset(schema.get("required", ()))
    most = schema.get("maxProperties", float("inf"))

    def check_object(value: Any) -> bool:
        if type(value) is not dict or len(value) > most or not required <= value.keys():
            return False
        for name, inner in value.items():
            known = members.get(name, rest)
            if known is None:
                if more is not True:
                    return False
            elif not known(inner):
                return False
        return True

    return check_object


def _array(schema: Mapping[str, Any]) -> Check | None:
    item = compiled(schema["items"]) if "items" in schema else _anything
    if item is None:
        return None
    least, most = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(item, value))
    )


def _string(schema: Mapping[str, Any]) -> Check:
    least, most = schema.get("minLength", 0), schema.get("maxLength", float("inf"))
    # The validator's own engine, so that both mean the same.
    pattern = re.compile(schema["pattern"]) if "pattern" in schema else None
    return lambda value: (
        type(value) is str
        and least <= len(value) <= most
        and (pattern is None or pattern.search(value) is not None)
    )


def _number(schema: Mapping[str, Any]) -> Check:
    whole = schema["type"] == "integer"
    infinite = float("inf")
    low, high = schema.get("minimum", -infinite), schema.get("maximum", infinite)
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    kinds = (int,) if whole else (int, float)
    return lambda value: (
        type(value) in kinds
        and low <= value <= high
        and (over is None or value > over)
        and (under is None or value < under)
    )


def _anything(_: Any) -> bool:
    return True


def _boolean(_: Mapping[str, Any]) -> Check:
    return lambda value: value is True or value is False


def _null(_: Mapping[str, Any]) -> Check:
    return lambda value: value is None


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Check | None]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
}
