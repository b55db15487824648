"""What is asked once in a turn of the loop, and heads that are read once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.gateway.asker import Origin
from hostwright.gateway.http_head import MAX_REPEATED_BYTES, Head, Repeated
from hostwright.gateway.turn import once_per_turn

OWNER, STRANGER = Origin("socket", 0), Origin("http")


class Source:
    """Something that may change at any time."""

    def __init__(self) -> None:
        self.asked = 0

    def version(self) -> int:
        self.asked += 1
        return self.asked


async def test_asked_once_in_a_turn_and_again_in_the_next() -> None:
    source, other = Source(), Source()
    assert [once_per_turn(source.version) for _ in range(3)] == [1, 1, 1]
    assert once_per_turn(other.version) == 1
    await asyncio.sleep(0)
    assert once_per_turn(source.version) == 2
    assert once_per_turn(other.version) == 2


async def test_a_question_that_fails_is_asked_again() -> None:
    source = Source()

    def ask() -> int:
        if source.version() == 1:
            raise OSError("for a moment")
        return source.asked

    with pytest.raises(OSError, match="for a moment"):
        once_per_turn(ask)
    assert once_per_turn(ask) == 2


def test_without_a_loop_and_in_another_one_nothing_is_remembered() -> None:
    source = Source()

    async def ask() -> int:
        return once_per_turn(source.version)

    assert once_per_turn(source.version) == 1
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: once_per_turn(source.version))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert source.asked == 2
    assert asyncio.run(ask()) == 3


def head(**headers: str) -> Head:
    found = Head(OWNER)
    found.method = "POST"
    found.aim("/mcp/echo")
    found.named = {name.replace("_", "-"): value for name, value in headers.items()}
    return found


RAW = b"POST /mcp/echo HTTP/1.1\r\ncontent-length: 4\r\n\r\n"


def test_a_head_that_comes_again_is_recognised() -> None:
    usual = Repeated.of(RAW + b"{..}", head(content_length="4"), 4)
    assert usual is not None
    assert usual.body(RAW + b"[!!]") == b"[!!]"
    again = usual.head.again(STRANGER)
    assert (again.method, again.path, again.endpoint) == ("POST", "/mcp/echo", "echo")
    assert again.origin == STRANGER, "who says it is decided anew"
    assert again.refusal is None


def test_only_what_is_whole_and_alike_is_recognised() -> None:
    usual = Repeated.of(RAW + b"{..}", head(content_length="4"), 4)
    assert usual is not None
    assert usual.body(RAW + b"{.") is None, "a part"
    assert usual.body(RAW + b"{..}x") is None, "and the begin of another"
    assert usual.body(RAW.replace(b"echo", b"ecco") + b"{..}") is None, "another target"


def test_what_is_not_framed_by_its_length_goes_through_the_parser() -> None:
    for name in ("transfer_encoding", "expect", "upgrade"):
        assert Repeated.of(RAW + b"{..}", head(content_length="4", **{name: "x"}), 4) is None
    assert Repeated.of(RAW + b"{..}", head(), 4) is None
    assert Repeated.of(RAW + b"{..}", head(content_length="5"), 4) is None
    # More than one request, or part of one.
    assert Repeated.of(RAW + b"{..}" + RAW + b"{..}", head(content_length="4"), 4) is None
    assert Repeated.of(RAW[5:-2] + b"{..}", head(content_length="4"), 4) is None
    closing = head(content_length="4")
    closing.keep_alive = False
    assert Repeated.of(RAW + b"{..}", closing, 4) is None
    long = b"POST / HTTP/1.1\r\nx: " + b"y" * MAX_REPEATED_BYTES + b"\r\n\r\n"
    assert Repeated.of(long + b"{..}", head(content_length="4"), 4) is None


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_comes_only_the_very_head_is_taken_for_it(before: bytes, after: bytes) -> None:
    usual = Repeated.of(RAW + b"{..}", head(content_length="4"), 4)
    assert usual is not None
    came = before + after
    alike = came.startswith(RAW) and len(came) == len(RAW) + 4
    assert usual.body(came) == (came[-4:] if alike else None)
    assert usual.body(RAW + before) == (before if len(before) == 4 else None)


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/mcp", "*"),
        ("/mcp/", "*"),
        ("/mcp/echo", "echo"),
        ("/mcp/echo/more", None),
        ("/mcpx", None),
        ("/healthz", None),
        ("/", None),
    ],
)
def test_which_endpoint_is_meant(path: str, endpoint: str | None) -> None:
    found = Head(OWNER)
    found.aim(path)
    assert found.endpoint == endpoint
