"""Head and tail: the two ends exactly, whatever the chunks, in bounded memory."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.capture import HeadTail, StreamCapture

CHUNKS = st.lists(st.binary(max_size=60), max_size=12)
TEXT_CHUNKS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode), max_size=12
)
SIZE = st.integers(0, 40)


def captured(chunks: list[bytes], head: int, tail: int) -> StreamCapture:
    ends = HeadTail(head, tail)
    for chunk in chunks:
        ends.feed(chunk)
    return ends.result()


def exact(text: str, encoded: str | None) -> bytes:
    return base64.b64decode(encoded) if encoded is not None else text.encode()


@given(chunks=CHUNKS, head=SIZE, tail=SIZE)
def test_both_ends_are_exact_and_the_counts_add_up(
    chunks: list[bytes], head: int, tail: int
) -> None:
    data = b"".join(chunks)
    result = captured(chunks, head, tail)
    first = exact(result.head, result.head_base64)
    last = exact(result.tail, result.tail_base64)
    assert result.total_bytes == len(data) == len(first) + result.omitted_bytes + len(last)
    assert data.startswith(first)
    assert data.endswith(last)
    if len(data) <= head + tail:
        assert (first, last) == (data, b"")
    else:
        # At most one character is given up at each cut.
        assert head - 3 <= len(first) <= head
        assert tail - 3 <= len(last) <= tail


@given(chunks=TEXT_CHUNKS, head=SIZE, tail=SIZE)
def test_text_is_never_cut_inside_a_character(chunks: list[bytes], head: int, tail: int) -> None:
    result = captured(chunks, head, tail)
    assert result.head_base64 is None
    assert result.tail_base64 is None


@given(chunks=CHUNKS, head=SIZE, tail=SIZE)
def test_how_the_output_is_chunked_does_not_matter(
    chunks: list[bytes], head: int, tail: int
) -> None:
    assert captured(chunks, head, tail) == captured([b"".join(chunks)], head, tail)


def test_many_small_chunks_stay_within_twice_the_tail() -> None:
    ends = HeadTail(10, 100)
    for _ in range(10_000):
        ends.feed(b"abc")
        assert len(ends._tail) <= 200
    assert ends.result().total_bytes == 30_000
