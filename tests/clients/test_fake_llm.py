"""The scripted model itself: what it answers over both APIs, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from .fake_llm import FINAL_TEXT, FakeLLM, ToolCall, ToolResult, next_turn

SCRIPT = [ToolCall("health"), ToolCall("run", {"argv": ["id"]})]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(SCRIPT) as llm:
        yield llm


def send(llm: FakeLLM, path: str, body: bytes) -> tuple[int, str]:
    connection = HTTPConnection(llm.url.removeprefix("http://"), timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def post(llm: FakeLLM, path: str, body: Any) -> str:
    status, text = send(llm, path, json.dumps(body).encode())
    assert status == 200, text
    return text


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


ANTHROPIC_TOOLS = [{"name": "mcp__hw__run"}, {"name": "mcp__hw__health"}]
OPENAI_TOOLS = [{"type": "function", "function": t} for t in ANTHROPIC_TOOLS]


def test_messages_calls_the_scripted_tool_then_ends_its_turn(llm: FakeLLM) -> None:
    first = json.loads(post(llm, "/v1/messages", {"model": "m", "tools": ANTHROPIC_TOOLS}))
    assert first["stop_reason"] == "tool_use"
    assert first["content"][0]["name"] == "mcp__hw__health"
    conversation = [
        {"role": "user", "content": "go"},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "content": [{"type": "text", "text": "fine"}]},
                {"type": "tool_result", "content": "refused", "is_error": True},
            ],
        },
    ]
    request = {"model": "m", "tools": ANTHROPIC_TOOLS, "messages": conversation}
    last = json.loads(post(llm, "/v1/messages", request))
    assert (last["stop_reason"], last["content"][0]["text"]) == ("end_turn", FINAL_TEXT)
    assert llm.results == [ToolResult("fine", False), ToolResult("refused", True)]


def test_messages_streams_the_arguments_as_json(llm: FakeLLM) -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "content": "fine"}]}
    request = {"model": "m", "stream": True, "tools": ANTHROPIC_TOOLS, "messages": [result]}
    sent = events(post(llm, "/v1/messages?beta=true", request))
    assert [event["type"] for event in sent] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert sent[1]["content_block"]["input"] == {}
    assert json.loads(sent[2]["delta"]["partial_json"]) == {"argv": ["id"]}
    assert sent[4]["delta"]["stop_reason"] == "tool_use"


def test_chat_completions_whole_and_streamed(llm: FakeLLM) -> None:
    result = {"role": "tool", "content": "fine"}
    request = {"model": "m", "tools": OPENAI_TOOLS, "messages": [result]}
    whole = json.loads(post(llm, "/v1/chat/completions", request))
    function = whole["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function["name"] == "mcp__hw__run"
    assert json.loads(function["arguments"]) == {"argv": ["id"]}

    streamed = post(llm, "/v1/chat/completions", {**request, "stream": True})
    assert streamed.endswith("data: [DONE]\n\n")
    chunks = events(streamed)
    assert chunks[0]["choices"][0]["delta"]["tool_calls"][0]["function"] == function
    assert chunks[1]["choices"][0]["finish_reason"] == "tool_calls"
    assert llm.results == [ToolResult("fine", None)]


def test_requests_beside_the_script_do_not_disturb_it(llm: FakeLLM) -> None:
    """A title or a summary is asked for without tools, and answered with a text."""
    aside = json.loads(post(llm, "/v1/messages", {"model": "m", "messages": []}))
    assert aside["content"][0]["type"] == "text"
    first = json.loads(post(llm, "/v1/messages", {"model": "m", "tools": ANTHROPIC_TOOLS}))
    assert first["content"][0]["name"] == "mcp__hw__health"


def test_a_tool_that_is_not_offered_is_said() -> None:
    turn = next_turn(SCRIPT, ["mcp__hw__other"], 0)
    assert turn.call_id is None
    assert "health" in turn.text
    assert "mcp__hw__other" in turn.text


def test_unknown_paths_and_bodies_are_refused(llm: FakeLLM) -> None:
    assert send(llm, "/v1/embeddings", b"{}")[0] == 404
    assert send(llm, "/v1/messages", b"not json")[0] == 400
