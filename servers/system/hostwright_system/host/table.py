"""Sorting, filtering and paging of typed rows, the same for every kind of fact.

Filters (a mapping of field to value, all of which must hold; a list means "any of these"):

* number fields (ids, ports, sizes): exact, or a comparison as text: `">=1000"`, `"<5.5"`;
* choice fields (states, protocols): exact, ignoring case;
* text fields (names, addresses): with `*`, `?` or `[…]` a glob over the whole value, otherwise a
  part of it; both ignore case;
* flag fields: true or false;
* null matches rows in which the field is unknown.

Order is total: equal values are ordered by the row's own identity, unknown values come last either
way round. The cursor names the last row that was given (its sort value and identity), not a
position, so rows that appear or vanish between two pages neither shift nor repeat the others. A
row whose *sort value* moved meanwhile (CPU %) may be met twice or missed; sort by an identity
(`pid`, `name`) to walk a changing list. A cursor belongs to its kind, sort, order and filter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel

from hostwright_kit.errors import HostError

Row = TypeVar("Row", bound=BaseModel)

Order: TypeAlias = Literal["asc", "desc"]
Scalar: TypeAlias = str | int | float | bool | None
FilterValue: TypeAlias = Scalar | list[Scalar]
Match: TypeAlias = Literal["number", "text", "choice", "flag"]

MAX_LIMIT = 500
MAX_FILTER_FIELDS = 10
MAX_ALTERNATIVES = 50
MAX_TEXT_LENGTH = 512
MAX_CURSOR_LENGTH = 4096

_COMPARISON = re.compile(r"\s*(<=|>=|<|>|=)?\s*(-?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Field:
    """A field that rows can be filtered by and, unless said otherwise, sorted by."""

    name: str
    match: Match
    sortable: bool = True


@dataclass(frozen=True)
class Table(Generic[Row]):
    """What can be asked of one kind of row. `identity` is unique within one listing."""

    kind: str
    fields: tuple[Field, ...]
    identity: Callable[[Row], str]
    default_sort: str
    default_order: Order = "asc"

    def field(self, name: str, use: Literal["sort", "filter"]) -> Field:
        usable = [f for f in self.fields if use == "filter" or f.sortable]
        for candidate in usable:
            if candidate.name == name:
                return candidate
        names = ", ".join(f.name for f in usable)
        raise HostError(
            f"{self.kind} cannot be {'sorted' if use == 'sort' else 'filtered'} by {name[:80]!r}.",
            fix=f"Use one of: {names}.",
            code=f"invalid_{use}",
        )


@dataclass(frozen=True)
class Request:
    """A checked question: which rows, in which order, from where on."""

    sort: Field
    order: Order
    tests: tuple[Callable[[BaseModel], bool], ...]
    used_fields: frozenset[str]
    limit: int
    after: tuple[Scalar, str] | None
    digest: str


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: tuple[Row, ...]
    total: int
    next_cursor: str | None


def check_request(
    table: Table[Row],
    *,
    sort: str | None,
    order: Order | None,
    filters: Mapping[str, FilterValue] | None,
    limit: int,
    cursor: str | None,
) -> Request:
    """Everything that can be wrong with a question, found before anything is read."""
    filters = filters or {}
    if not 1 <= limit <= MAX_LIMIT:
        raise HostError(f"limit is {limit}.", fix=f"Use 1 to {MAX_LIMIT}.", code="invalid_limit")
    if order not in (None, "asc", "desc"):
        raise HostError(
            f"order is {str(order)[:80]!r}.", fix="Use asc or desc.", code="invalid_sort"
        )
    if len(filters) > MAX_FILTER_FIELDS:
        raise HostError(
            f"The filter has {len(filters)} fields.",
            fix=f"Use at most {MAX_FILTER_FIELDS}.",
            code="invalid_filter",
        )
    chosen = table.field(sort or table.default_sort, "sort")
    direction: Order = order or (table.default_order if sort is None else "asc")
    tests = tuple(
        _row_test(name, _field_test(table.field(name, "filter"), wanted))
        for name, wanted in filters.items()
    )
    question = json.dumps(
        [table.kind, chosen.name, direction, sorted(filters.items())], default=str
    )
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    return Request(
        sort=chosen,
        order=direction,
        tests=tests,
        used_fields=frozenset({chosen.name, *filters}),
        limit=limit,
        after=None if cursor is None else _decode_cursor(cursor, chosen, digest),
        digest=digest,
    )


def take_page(table: Table[Row], rows: Sequence[Row], request: Request) -> Page[Row]:
    """The page of `rows` that the request asks for; `total` counts every row that matches."""
    name, descending = request.sort.name, request.order == "desc"
    matching = [row for row in rows if all(test(row) for test in request.tests)]
    keyed = sorted(
        ((_sort_value(row, name), table.identity(row), row) for row in matching),
        key=lambda item: item[1],
    )
    known = [item for item in keyed if item[0] is not None]
    known.sort(key=lambda item: cast(str, item[0]), reverse=descending)  # one type per field
    ordered = known + [item for item in keyed if item[0] is None]
    if request.after is not None:
        value, identity = request.after
        ordered = [
            item for item in ordered if _is_after(item[0], item[1], value, identity, descending)
        ]
    page = ordered[: request.limit]
    more = len(ordered) > len(page)
    return Page(
        rows=tuple(row for _, _, row in page),
        total=len(matching),
        next_cursor=_encode_cursor(request.digest, page[-1][0], page[-1][1]) if more else None,
    )


def _sort_value(row: BaseModel, name: str) -> Scalar:
    return cast(Scalar, getattr(row, name))


def _is_after(
    value: Scalar, identity: str, last: Scalar, last_identity: str, descending: bool
) -> bool:
    if value == last:
        return identity > last_identity
    if value is None or last is None:
        return value is None
    greater = cast(str, value) > cast(str, last)  # both are of the field's one type
    return greater != descending


def _row_test(name: str, test: Callable[[Scalar], bool]) -> Callable[[BaseModel], bool]:
    return lambda row: test(cast(Scalar, getattr(row, name)))


def _field_test(field: Field, wanted: FilterValue) -> Callable[[Scalar], bool]:
    alternatives = wanted if isinstance(wanted, list) else [wanted]
    if not 1 <= len(alternatives) <= MAX_ALTERNATIVES:
        raise _bad_filter(field, f"has {len(alternatives)} alternatives", "Give 1 to 50 values.")
    tests = [_value_test(field, value) for value in alternatives]
    return lambda value: any(test(value) for test in tests)


def _value_test(field: Field, wanted: Scalar) -> Callable[[Scalar], bool]:
    if wanted is None:
        return lambda value: value is None
    if field.match == "flag":
        return _flag_test(field, wanted)
    if field.match == "number":
        return _number_test(field, wanted)
    if not isinstance(wanted, str) or not 1 <= len(wanted) <= MAX_TEXT_LENGTH:
        raise _bad_filter(
            field, f"is {str(wanted)[:80]!r}", f"Give text of 1 to {MAX_TEXT_LENGTH} characters."
        )
    pattern = wanted.casefold()
    if field.match == "choice":
        return lambda value: isinstance(value, str) and value.casefold() == pattern
    if any(c in pattern for c in "*?["):
        return lambda value: isinstance(value, str) and fnmatchcase(value.casefold(), pattern)
    return lambda value: isinstance(value, str) and pattern in value.casefold()


def _flag_test(field: Field, wanted: Scalar) -> Callable[[Scalar], bool]:
    if not isinstance(wanted, bool):
        raise _bad_filter(field, f"is {str(wanted)[:80]!r}", "Give true or false.")
    return lambda value: value is wanted


def _number_test(field: Field, wanted: Scalar) -> Callable[[Scalar], bool]:
    match = None if isinstance(wanted, bool) else _COMPARISON.fullmatch(str(wanted)[:64])
    if match is None:
        raise _bad_filter(
            field,
            f"is {str(wanted)[:80]!r}",
            'Give a number, or a comparison such as ">=1000" as text.',
        )
    operator, digits = match.group(1) or "=", match.group(2)
    number = float(digits) if "." in digits else int(digits)

    def test(value: Scalar) -> bool:
        if not isinstance(value, int | float):
            return False
        return {
            "=": value == number,
            "<": value < number,
            ">": value > number,
            "<=": value <= number,
            ">=": value >= number,
        }[operator]

    return test


def _bad_filter(field: Field, problem: str, fix: str) -> HostError:
    return HostError(f"The filter for {field.name} {problem}.", fix=fix, code="invalid_filter")


def _encode_cursor(digest: str, value: Scalar, identity: str) -> str:
    packed = json.dumps([digest, value, identity], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _decode_cursor(cursor: str, field: Field, digest: str) -> tuple[Scalar, str]:
    broken = HostError(
        "The cursor is not one that this question returned.",
        fix="Repeat kind, sort, order and filter as before, or start without a cursor.",
        code="invalid_cursor",
    )
    if len(cursor) > MAX_CURSOR_LENGTH:
        raise broken
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        content: object = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, RecursionError) as error:  # not base64, not UTF-8, not JSON
        raise broken from error
    if not isinstance(content, list) or len(cast(list[object], content)) != 3:
        raise broken
    seen, value, identity = cast(list[object], content)
    types: dict[Match, type | tuple[type, ...]] = {
        "number": (int, float),
        "flag": bool,
        "text": str,
        "choice": str,
    }
    fits = value is None or isinstance(value, types[field.match])
    if seen != digest or not isinstance(identity, str) or not fits:
        raise broken
    return cast(Scalar, value), identity
