"""A quick yes is a yes of the full validator's, for whatever schema and whatever value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hostwright_kit.quick_schema import compiled

Schema = dict[str, Any]
TEXT_MORE: list[Schema] = [{}, {"pattern": "^a"}, {"title": "x"}]
NUMBER_MORE: list[Schema] = [
    {}, {"maximum": 2}, {"exclusiveMaximum": 2}, {"exclusiveMinimum": 0},
]  # fmt: skip
OTHERS: list[Schema] = [
    {"type": "boolean"}, {"type": "null"}, {"enum": ["a", "b"]}, {"const": "a"},
    {"enum": [1, "a"]}, {"type": "string", "enum": ["a"]}, {}, {"not": {}},
    {"type": "integer", "multipleOf": 2}, {"type": ["string", "null"]}, {"$ref": "#/$defs/x"},
]  # fmt: skip


def text_schema(low: int, high: int, more: Schema) -> Schema:
    return {"type": "string", "minLength": low, "maxLength": high, **more}


def number_schema(kind: str, low: int, more: Schema) -> Schema:
    return {"type": kind, "minimum": low, **more}


def any_schema(options: list[Schema]) -> Schema:
    return {"anyOf": options}


def list_schema(items: Schema, most: int) -> Schema:
    return {"type": "array", "items": items, "maxItems": most}


def object_schema(members: dict[str, Schema], more: bool | Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": members,
        "additionalProperties": more,
        "required": required,
    }


NAMES = st.sampled_from("abc")
LEAVES = (
    st.builds(text_schema, st.integers(0, 3), st.integers(0, 5), st.sampled_from(TEXT_MORE))
    | st.builds(
        number_schema,
        st.sampled_from(["integer", "number"]),
        st.integers(-3, 3),
        st.sampled_from(NUMBER_MORE),
    )
    | st.sampled_from(OTHERS)
)


def nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return (
        st.builds(any_schema, st.lists(inner, min_size=1, max_size=2))
        | st.builds(list_schema, inner, st.integers(0, 3))
        | st.builds(
            object_schema,
            st.dictionaries(NAMES, inner, max_size=3),
            st.booleans() | inner,
            st.lists(NAMES, max_size=2, unique=True),
        )
    )


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 4) | st.sampled_from([1.0, 0.5, float("nan"), 2.0])
    | st.text(alphabet="abcé", max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def _knows_references(schema: Any) -> bool:
    return "$ref" in str(schema)


@given(SCHEMAS, VALUES)
def test_whatever_it_lets_through_is_valid(schema: dict[str, Any], value: Any) -> None:
    check = compiled(schema)
    if _knows_references(schema):
        assert check is None
    elif check is not None and check(value):
        assert Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("value", "quick"),
    [
        ({"text": "x"}, True),
        ({"text": "x", "count": 3}, True),
        ({"text": "x", "count": None, "tags": ["a"]}, True),
        ({"text": "x", "count": "3"}, False),
        ({"text": "x", "count": True}, False),
        ({"count": 3}, False),
        ({"text": "x", "more": 1}, False),
    ],
)
def test_the_usual_schema_is_answered_without_the_validator(value: Any, quick: bool) -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 10},
            "count": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "default": []},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    check = compiled(schema)
    assert check is not None
    assert check(value) is quick
    assert Draft202012Validator(schema).is_valid(value) is quick
