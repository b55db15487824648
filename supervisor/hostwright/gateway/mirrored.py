"""Arguments that HTTP repeats in headers (`x-mcp-header` in a tool's schema → `Mcp-Param-…`).

Something between client and server may act on such a header, so it must say what the body says:
both there and equal, or both absent. A schema whose annotations are themselves wrong mirrors
nothing; clients then send no such headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from hostwright.gateway.codec import RpcError
from hostwright.gateway.envelope import HEADER_MISMATCH, decoded

ANNOTATION = "x-mcp-header"
PREFIX = "mcp-param-"
TYPES = frozenset({"string", "integer", "boolean"})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]+(\.0*)?")
# Where JSON Schema 2020-12 holds further schemas, beside `properties`.
_ONE = (
    *("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames"),
    *("unevaluatedProperties", "not", "if", "then", "else", "contentSchema"),
)
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAP = ("patternProperties", "dependentSchemas", "$defs", "definitions")
Path = tuple[str, ...]


class Mirrored(NamedTuple):
    """One argument that has a header."""

    path: Path
    header: str
    kind: str


def mirrored(schema: object) -> tuple[Mirrored, ...]:
    """The arguments of a tool that have headers; none when one annotation is wrong."""
    found: list[Mirrored] = []
    for path, part in _schemas(schema):
        if ANNOTATION not in part:
            continue
        name, kind = part[ANNOTATION], part.get("type")
        good = bool(path) and isinstance(name, str) and bool(_TOKEN.fullmatch(name))
        if not good or not isinstance(kind, str) or kind not in TYPES or path is None:
            return ()
        found.append(Mirrored(path, f"{PREFIX}{name}".lower(), kind))
    if len({one.header for one in found}) < len(found):
        return ()
    return tuple(found)


def check(
    wanted: Sequence[Mirrored], arguments: object, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    """Raise when a header and its argument disagree."""
    for one in wanted:
        shown = [value for name, value in headers if name == one.header.encode()]
        if len(shown) > 1:
            raise _mismatch(one, "is there more than once")
        said = _scalar(_at(arguments, one.path))
        if said is None or not shown:
            if said is not None or shown:
                raise _mismatch(one, "and its argument must be there together")
            continue
        value = decoded(shown[0].decode("latin-1"))
        if value is None or not _equal(one.kind, said, value):
            raise _mismatch(one, "does not match its argument")


def _mismatch(one: Mirrored, what: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"{one.header} header ({'.'.join(one.path)}) {what}")


def _equal(kind: str, said: str, shown: str) -> bool:
    if kind == "integer" and _DECIMAL.fullmatch(said) and _DECIMAL.fullmatch(shown):
        return said.partition(".")[0].lstrip("0") == shown.partition(".")[0].lstrip("0")
    return said == shown


def _scalar(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _at(arguments: object, path: Path) -> object:
    for key in path:
        if not isinstance(arguments, dict):
            return None
        arguments = cast("dict[str, Any]", arguments).get(key)
    return arguments


def _schemas(root: object) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
    """Every schema in a schema; the path is None where `properties` alone do not lead."""
    waiting: list[tuple[Path | None, object]] = [((), root)]
    while waiting:
        path, found = waiting.pop()
        if not isinstance(found, dict):
            continue
        schema = cast("dict[str, Any]", found)
        yield path, schema
        properties = schema.get("properties")
        if isinstance(properties, dict):
            waiting += [
                (None if path is None else (*path, name), one)
                for name, one in cast("dict[str, Any]", properties).items()
            ]
        waiting += [(None, schema[key]) for key in _ONE if key in schema]
        for key in _LIST:
            if isinstance(several := schema.get(key), list):
                waiting += [(None, one) for one in cast("list[Any]", several)]
        for key in _MAP:
            if isinstance(named := schema.get(key), dict):
                waiting += [(None, one) for one in cast("dict[str, Any]", named).values()]
