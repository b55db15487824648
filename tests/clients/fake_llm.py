"""A scripted language model on loopback, so that real agents can be driven without an account.

Speaks what the agents under test speak: Anthropic's Messages API (`/v1/messages`, streaming and
not, and `/v1/messages/count_tokens`) and OpenAI's Chat Completions (`/v1/chat/completions`, and
`/v1/models`). It listens on 127.0.0.1 only and touches nothing else.

The model follows a script of tool calls. Which step is next is read from the conversation that
the agent sends, not counted here: agents ask for titles and summaries in between and repeat
requests, and none of that may disturb the script. Once every scripted call has its result, the
model ends its turn with a text. What came back for each call, as the model saw it, is in
`results`: that is what the tests judge.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

JSON = dict[str, Any]

FINAL_TEXT = "The script is done."


@dataclass(frozen=True)
class ToolCall:
    """One scripted call. `tool` is the end of the name: clients put the server's name before it."""

    tool: str
    arguments: JSON = field(default_factory=dict[str, Any])

    def name_among(self, offered: Sequence[str]) -> str | None:
        """The full name under which the client offers the tool, or None."""
        return next((name for name in offered if name.endswith(self.tool)), None)


@dataclass(frozen=True)
class ToolResult:
    """What the client told the model about a call; `is_error` is None where the API has no flag."""

    text: str
    is_error: bool | None


@dataclass(frozen=True)
class Turn:
    """The model's answer to one request: a text, or a call of a tool."""

    call_id: str | None = None
    name: str = ""
    arguments: JSON = field(default_factory=dict[str, Any])
    text: str = ""


def next_turn(script: Sequence[ToolCall], offered: Sequence[str], done: int) -> Turn:
    """The step after `done` results, given the tools that the agent offers in this request."""
    if not offered or done >= len(script):
        return Turn(text=FINAL_TEXT)
    step = script[done]
    name = step.name_among(offered)
    if name is None:
        return Turn(text=f"No tool ending in {step.tool!r} among: {', '.join(offered)}")
    return Turn(call_id=f"call_{done + 1}", name=name, arguments=step.arguments)


def _text(content: object) -> str:
    """The text of a content field, which both APIs give as a string or as a list of parts."""
    if isinstance(content, str):
        return content
    parts: list[JSON] = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", f"<{part.get('type')}>")) for part in parts)


def anthropic_results(request: JSON) -> list[ToolResult]:
    """Tool results in a Messages request, in the order of the conversation."""
    return [
        ToolResult(_text(part.get("content", "")), bool(part.get("is_error", False)))
        for message in request.get("messages", [])
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "tool_result"
    ]


def openai_results(request: JSON) -> list[ToolResult]:
    """Tool results in a Chat Completions request, in the order of the conversation."""
    return [
        ToolResult(_text(message.get("content")), None)
        for message in request.get("messages", [])
        if message.get("role") == "tool"
    ]


def anthropic_message(turn: Turn, model: str) -> JSON:
    """A whole answer of the Messages API."""
    block: JSON = {"type": "text", "text": turn.text}
    if turn.call_id:
        block = {
            "type": "tool_use",
            "id": turn.call_id,
            "name": turn.name,
            "input": turn.arguments,
        }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": "tool_use" if turn.call_id else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def anthropic_events(turn: Turn, model: str) -> Iterator[JSON]:
    """The same answer as the events of a stream, arguments and text arriving as deltas."""
    whole = anthropic_message(turn, model)
    block = whole["content"][0]
    if turn.call_id:
        start = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(turn.arguments)}
    else:
        start = {**block, "text": ""}
        delta = {"type": "text_delta", "text": turn.text}
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": start}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def openai_message(turn: Turn) -> JSON:
    """The assistant's message of Chat Completions; also the one delta of the streamed form."""
    if not turn.call_id:
        return {"role": "assistant", "content": turn.text}
    function = {"name": turn.name, "arguments": json.dumps(turn.arguments)}
    call = {"index": 0, "id": turn.call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def openai_completion(turn: Turn, model: str) -> JSON:
    """A whole answer of Chat Completions."""
    reason = "tool_calls" if turn.call_id else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": openai_message(turn), "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def openai_chunks(turn: Turn, model: str) -> Iterator[JSON]:
    """The same answer as the chunks of a stream."""
    whole = openai_completion(turn, model)
    base = {**whole, "object": "chat.completion.chunk"}
    usage = base.pop("usage")
    delta = {"index": 0, "delta": openai_message(turn), "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": whole["choices"][0]["finish_reason"]}
    yield {**base, "choices": [delta]}
    yield {**base, "choices": [end], "usage": usage}


class FakeLLM:
    """The server; use it as a context manager."""

    def __init__(self, script: Sequence[ToolCall]) -> None:
        self.script = tuple(script)
        self.results: list[ToolResult] = []
        self.offered: list[str] = []
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeLLM:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def turn(self, offered: list[str], results: list[ToolResult]) -> Turn:
        """Note what the agent sent, and answer it."""
        with self._lock:
            if offered:
                self.offered = offered
            # The conversation grows: the longest list of results is the whole of them.
            if len(results) > len(self.results):
                self.results = results
        return next_turn(self.script, offered, len(results))

    def answer(self, path: str, request: JSON) -> JSON | list[JSON] | None:
        """The answer to one POST: an object, the events of a stream, or None for no such path."""
        model = str(request.get("model", ""))
        tools: list[JSON] = request.get("tools") or []
        if path.endswith("/messages/count_tokens"):
            return {"input_tokens": 1}
        if path.endswith("/messages"):
            offered = [str(tool.get("name", "")) for tool in tools]
            turn = self.turn(offered, anthropic_results(request))
            if request.get("stream"):
                return list(anthropic_events(turn, model))
            return anthropic_message(turn, model)
        if path.endswith("/chat/completions"):
            offered = [str(tool["function"]["name"]) for tool in tools if "function" in tool]
            turn = self.turn(offered, openai_results(request))
            if request.get("stream"):
                return list(openai_chunks(turn, model))
            return openai_completion(turn, model)
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                with llm._lock:
                    llm.requests.append(format % args)

            def send(self, status: int, body: str, kind: str = "application/json") -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_HEAD(self) -> None:
                self.send(200, "")

            def do_GET(self) -> None:
                if self.path.split("?")[0].endswith("/models"):
                    model = {"id": "fake", "object": "model", "created": 0, "owned_by": "tests"}
                    self.send(200, json.dumps({"object": "list", "data": [model]}))
                else:
                    self.send(404, json.dumps({"error": {"message": f"no {self.path}"}}))

            def do_POST(self) -> None:
                path = self.path.split("?")[0]
                raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                try:
                    answer = llm.answer(path, json.loads(raw))
                except ValueError as error:
                    self.send(400, json.dumps({"error": {"message": str(error)}}))
                    return
                if answer is None:
                    self.send(404, json.dumps({"error": {"message": f"no {path}"}}))
                elif isinstance(answer, dict):
                    self.send(200, json.dumps(answer))
                else:
                    self.send(200, stream(path, answer), "text/event-stream")

        return Handler


def stream(path: str, events: Sequence[JSON]) -> str:
    """Server-sent events as each API frames them."""
    if path.endswith("/messages"):
        return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    return "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
