"""canonical(): RFC 8785 where it applies, and never one encoding for two values."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.canonical import canonical, digest, is_canonical

# Small and nasty, so that look-alikes meet: the marks of our own wrapping, as keys and as values.
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, 1, -1, 2**53 - 1, 2**53, -(2**53), 2**60, 0.0, -0.0, 1.0, 1e20, 1e21, 1e300]
    ),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "nan", "inf", str(2**53), "eda080", "\ud800", "\udfff", "$int", "é"]),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
)
KEYS = st.sampled_from(
    [
        "$int",
        "$float",
        "$utf8",
        "$pairs",
        "$object",
        "$",
        "a",
        "b",
        "\ud800",
        "\udc00",
        "é",
        "\U0001f600",
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def meaning(value: Any) -> Any:
    """What makes two values the same one, said independently of the encoding."""
    match value:
        case bool() | None:
            return ("literal", str(value))
        case int() if abs(value) > 2**53 - 1:
            return ("large integer", value)
        case int() | float():
            return ("number", "nan" if math.isnan(value) else float(value) + 0.0)
        case str():
            return ("text", value)
        case list():
            return ("list", tuple(meaning(item) for item in value))
        case _:
            return ("object", frozenset((key, meaning(item)) for key, item in value.items()))


@given(VALUES, VALUES)
def test_two_values_share_an_encoding_exactly_when_they_are_the_same(left: Any, right: Any) -> None:
    assert (canonical(left) == canonical(right)) == (meaning(left) == meaning(right))


ORDINARY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(ORDINARY)
def test_what_rfc_8785_covers_is_encoded_as_it_says(value: Any) -> None:
    # A key of ours would be wrapped.
    if '"$' not in json.dumps(value):
        assert canonical(value) == rfc8785.dumps(value)


@given(VALUES)
def test_a_value_that_looks_like_a_wrapped_one_is_told_from_it(value: Any) -> None:
    look_alike = json.loads(canonical(value))
    assert (canonical(look_alike) == canonical(value)) == (meaning(look_alike) == meaning(value))


@given(VALUES)
def test_every_encoding_is_recognised_as_canonical(value: Any) -> None:
    assert is_canonical(canonical(value))


@given(st.dictionaries(KEYS, LEAVES), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], shuffler: random.Random) -> None:
    items = list(value.items())
    shuffler.shuffle(items)
    assert digest(dict(items)) == digest(value)


@pytest.mark.parametrize(
    "encoded",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1E3",
        b'"\\u0041"',
        b"NaN",
        b"\xff",
        b"",
        b"[",
    ],
)
def test_other_encodings_of_a_value_are_not_canonical(encoded: bytes) -> None:
    assert not is_canonical(encoded)


def test_rfc_8785_section_3_2_2_sample() -> None:
    source = (
        r'{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
        r'"string":"\u20ac$\u000F\u000aA' + "'" + r'\u0042\u0022\u005c\\\"\/",'
        r'"literals":[null,true,false]}'
    )
    expected = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
    )
    assert canonical(json.loads(source)) == expected.encode()


def test_rfc_8785_section_3_2_3_sorts_keys_by_utf16_units() -> None:
    source = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(source)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_rfc_8785_appendix_b_numbers(bits: str, expected: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number) == expected.encode()


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, {"deep": [object()]}])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no canonical encoding"):
        canonical(value)
