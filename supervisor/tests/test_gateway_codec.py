"""Messages taken apart and put together: whatever JSON they are, nothing in them changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.codec import ABSENT, BadMessageError

# Lone surrogates too: Python writes them for file names that are no UTF-8.
TEXT = st.text(st.characters(), max_size=12)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
OBJECT = st.dictionaries(TEXT | st.sampled_from(["name", "arguments", "_meta"]), VALUE, max_size=4)
IDS = st.integers(-(2**53), 2**53) | TEXT


def written(message: Any, *, ascii_only: bool, indent: int | None) -> bytes:
    """As one encoder or another would write it."""
    text = json.dumps(message, ensure_ascii=ascii_only, indent=indent)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(message, indent=indent).encode()


@settings(max_examples=300, deadline=None)
@given(message_id=IDS, params=OBJECT, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
@example(message_id="\ud800", params={"a\udc80": "\udfff"}, ascii_only=True, indent=2)
@example(message_id=0, params={"x": "a\u2028\n\r\x00\x7f"}, ascii_only=False, indent=2)
def test_what_passes_through_is_what_came(
    message_id: Any, params: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    message = {"jsonrpc": "2.0", "id": message_id, "method": "tools/call", "params": params}
    read = codec.parse(written(message, ascii_only=ascii_only, indent=indent))
    assert codec.text(read.method) == "tools/call"
    assert codec.request_id(read.id) == message_id
    members = codec.fields(read.params)
    assert {key: codec.value(raw) for key, raw in members.items()} == params
    rest = {key: raw for key, raw in members.items() if key != "_meta"}
    again = codec.with_members(codec.encode(rest), b'"_meta":{"ours":1}')
    # One line, and the same but for what was replaced.
    assert b"\n" not in again
    assert b"\r" not in again
    assert json.loads(again) == {**params, "_meta": {"ours": 1}}
    answer = codec.answer(bytes(read.id), codec.encode({"echo": read.params}))
    assert json.loads(answer) == {"jsonrpc": "2.0", "id": message_id, "result": {"echo": params}}


@settings(max_examples=300, deadline=None)
@given(junk=st.binary(max_size=60) | VALUE.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_message_is_said_so_and_nothing_else_happens(junk: bytes) -> None:
    try:
        message = codec.parse(junk)
    except BadMessageError as error:
        assert error.code in (-32700, -32600, -32602)
        assert json.loads(codec.failure(error.request_id, error))["error"]["code"] == error.code
    else:
        assert json.loads(junk)["jsonrpc"] == "2.0"
        assert message.method is not ABSENT or message.id is not ABSENT


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"{", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":NaN}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"\n"}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"\xff"}}', -32700, None),
        (b"[" * 100_000, -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 100_000, -32700, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None),
        (b'{"id":1,"method":"ping"}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":"a","method":[]}', -32600, "a"),
        (b'{"jsonrpc":"2.0","id":7,"method":"x","params":[]}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7}', -32600, None),
    ],
)
def test_refusals_name_the_request_where_it_can_be_told(
    line: bytes, code: int, request_id: Any
) -> None:
    with pytest.raises(BadMessageError) as refused:
        codec.parse(line)
    assert refused.value.code == code
    assert json.loads(refused.value.request_id) == request_id


def test_of_two_members_with_one_name_the_last_counts_and_only_it_goes_on() -> None:
    line = (
        b'{"jsonrpc":"2.0","id":1,"method":"a","method":"tools/call",'
        b'"params":{"name":"x","_meta":{},"name":"y"}}'
    )
    read = codec.parse(line)
    assert codec.text(read.method) == "tools/call"
    assert codec.encode(codec.fields(read.params)).count(b'"name"') == 1
    assert codec.value(codec.fields(read.params)["name"]) == "y"


def test_what_servers_write_is_made_the_best_of() -> None:
    read = codec.read(b'{"id":1,"result":{"a":NaN,"b":-Infinity}}', lenient=True)
    assert json.loads(bytes(read.result)) == {"a": None, "b": None}
    read = codec.read(b'{"id":1,"result":{"name":"a\xffb"}}', lenient=True)
    assert json.loads(bytes(read.result)) == {"name": "a\ufffdb"}
    assert codec.encode({"raw": Raw(b'{"a": 1}')}) == b'{"raw":{"a": 1}}'
