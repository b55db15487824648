"""The tools, resources and prompts that the official conformance scenarios call, on FastMCP.

conformance_server.py stdio | http PORT. Over HTTP it is the measure (what FastMCP alone passes),
over stdio it stands behind the gateway. What needs the client (a question, a completion of its
model, its folders) is served in both eras: as a request while the call waits, or as an
`InputRequiredResult` and a retry.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
import zlib
from typing import Annotated, Any

import mcp_types as mcp
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.prompts import Message
from fastmcp.tools.base import Tool, ToolResult
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from pydantic import Field

NAME_FIELD = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
MIXED = '{"test":"data","value":123}'

server = FastMCP("conformance", version="1", dereference_schemas=False)
# FastMCP serves no subscriptions by itself; its server underneath does, in the new era.
server._mcp_server.add_request_handler(
    "subscriptions/listen",
    mcp.SubscriptionsListenRequestParams,
    ListenHandler(InMemorySubscriptionBus()),
)


# -- what is returned --------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _red_pixel() -> bytes:
    """A PNG of one red pixel."""
    head = _chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 8, 2, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    return b"\x89PNG\r\n\x1a\n" + head + body + _chunk(b"IEND", b"")


def _silence() -> bytes:
    """A WAV of eight samples."""
    head = struct.pack("<4sI4s", b"RIFF", 44, b"WAVE")
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8_000, 8_000, 1, 8)
    return head + shape + struct.pack("<4sI", b"data", 8) + b"\x80" * 8


IMAGE = mcp.ImageContent(data=base64.b64encode(_red_pixel()).decode(), mime_type="image/png")
AUDIO = mcp.AudioContent(data=base64.b64encode(_silence()).decode(), mime_type="audio/wav")


def _text(words: str) -> ToolResult:
    return ToolResult(content=[mcp.TextContent(text=words)])


def _embedded(uri: str, mime: str, text: str) -> mcp.EmbeddedResource:
    return mcp.EmbeddedResource(
        resource=mcp.TextResourceContents(uri=uri, mime_type=mime, text=text)
    )


# -- plain tools -------------------------------------------------------------------------------


@server.tool
def test_simple_text() -> ToolResult:
    """Text."""
    return _text("This is a simple text response for testing.")


@server.tool
def test_image_content() -> ToolResult:
    """An image."""
    return ToolResult(content=[IMAGE])


@server.tool
def test_audio_content() -> ToolResult:
    """A sound."""
    return ToolResult(content=[AUDIO])


@server.tool
def test_embedded_resource() -> ToolResult:
    """A resource inside the result."""
    words = "This is an embedded resource content."
    return ToolResult(content=[_embedded("test://embedded-resource", "text/plain", words)])


@server.tool
def test_multiple_content_types() -> ToolResult:
    """Text, image and resource in one result."""
    resource = _embedded("test://mixed-content-resource", "application/json", MIXED)
    return ToolResult(
        content=[mcp.TextContent(text="Multiple content types test:"), IMAGE, resource]
    )


@server.tool
def test_error_handling() -> ToolResult:
    """Always fails."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool
async def test_tool_with_logging(ctx: Context) -> ToolResult:
    """Three log messages."""
    for words in ("started", "processing data", "completed"):
        await ctx.info(f"Tool {words}" if " " in words else f"Tool execution {words}")
        await asyncio.sleep(0.05)
    return _text("logged")


@server.tool
async def test_logging_tool(ctx: Context) -> ToolResult:
    """A log message that a client of the new era has to have asked for."""
    await ctx.info("only for those who asked")
    return _text("logged")


@server.tool
async def test_tool_with_progress(ctx: Context) -> ToolResult:
    """Three progress reports."""
    for progress in (0, 50, 100):
        await ctx.report_progress(progress, 100)
        await asyncio.sleep(0.05)
    return _text("progressed")


@server.tool
async def test_reconnection(ctx: Context) -> ToolResult:
    """Closes its own response stream while it works."""
    await ctx.close_sse_stream()
    await asyncio.sleep(0.1)
    return _text("Reconnection test completed")


@server.tool
def test_missing_capability(ctx: Context) -> ToolResult:
    """Refuses clients without a model of their own."""
    if not _can(ctx, "sampling"):
        raise MCPError(
            mcp.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs the client capability sampling.",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return _text("the client can sample")


@server.tool
def test_custom_header(
    text: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Text"})],
) -> ToolResult:
    """A parameter that clients repeat in an HTTP header."""
    return _text(text)


class SchemaTool(Tool):
    """A tool whose schema is written by hand."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        return _text(json.dumps(arguments))


server.add_tool(
    SchemaTool(
        name="json_schema_2020_12_tool",
        description="JSON Schema 2020-12 with references, composition and conditions.",
        parameters={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {
                    "$anchor": "addressDef",
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                }
            },
            "properties": {
                "name": {"type": "string"},
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": {"type": "string"},
                "email": {"type": "string"},
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {
                "properties": {"contactMethod": {"const": "phone"}},
                "required": ["contactMethod"],
            },
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": False,
        },
    )
)


# -- changes of the lists ----------------------------------------------------------------------


@server.tool
async def test_trigger_tool_change(ctx: Context) -> ToolResult:
    """Says that the list of tools changed."""
    await ctx.send_notification(mcp.ToolListChangedNotification())
    return _text("told")


@server.tool
async def test_trigger_prompt_change(ctx: Context) -> ToolResult:
    """Says that the list of prompts changed."""
    await ctx.send_notification(mcp.PromptListChangedNotification())
    return _text("told")


# -- what needs the client ---------------------------------------------------------------------


def _can(ctx: Context, capability: str) -> bool:
    declared = ctx.session.client_capabilities
    return getattr(declared, capability, None) is not None


def _form(message: str, schema: dict[str, Any]) -> mcp.ElicitRequest:
    return mcp.ElicitRequest(
        params=mcp.ElicitRequestFormParams(message=message, requested_schema=schema)
    )


def _prompted(words: str, tokens: int = 100) -> mcp.CreateMessageRequest:
    message = mcp.SamplingMessage(role="user", content=mcp.TextContent(text=words))
    return mcp.CreateMessageRequest(
        params=mcp.CreateMessageRequestParams(messages=[message], max_tokens=tokens)
    )


ROOTS = mcp.ListRootsRequest()
Question = mcp.ElicitRequest | mcp.CreateMessageRequest | mcp.ListRootsRequest


async def _ask(
    ctx: Context, key: str, question: Question, state: str | None = None
) -> Any | mcp.InputRequiredResult:
    """The client's answer to one question; what has to be returned first when there is none."""
    if ctx._is_modern_protocol():
        answer = (ctx.input_responses or {}).get(key)
        if isinstance(answer, mcp.ElicitResult | mcp.CreateMessageResult | mcp.ListRootsResult):
            return answer
        return mcp.InputRequiredResult(input_requests={key: question}, request_state=state)
    if isinstance(question, mcp.ElicitRequest):
        params = question.params
        assert isinstance(params, mcp.ElicitRequestFormParams)
        return await ctx.session.elicit_form(
            message=params.message,
            requested_schema=params.requested_schema,
            related_request_id=ctx.request_id,
        )
    if isinstance(question, mcp.CreateMessageRequest):
        # Deprecated with its era, of which this branch is.
        return await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
            messages=question.params.messages,
            max_tokens=question.params.max_tokens,
            related_request_id=ctx.request_id,
        )
    return await ctx.session.list_roots()  # pyright: ignore[reportDeprecated]


def _content(answer: mcp.ElicitResult) -> str:
    return json.dumps(answer.content, separators=(",", ":"))


@server.tool
async def test_sampling(prompt: str, ctx: Context) -> ToolResult | mcp.InputRequiredResult:
    """What the client's model says."""
    if not _can(ctx, "sampling"):
        raise ToolError("The client cannot sample.")
    answer = await _ask(ctx, "sampled", _prompted(prompt))
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return _text(f"LLM response: {getattr(answer.content, 'text', answer.content)}")


async def _questioned(
    ctx: Context, message: str, schema: dict[str, Any], said: str
) -> ToolResult | mcp.InputRequiredResult:
    if not _can(ctx, "elicitation"):
        raise ToolError("The client cannot be asked.")
    answer = await _ask(ctx, "answer", _form(message, schema))
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return _text(said.format(action=answer.action, content=_content(answer)))


@server.tool
async def test_elicitation(message: str, ctx: Context) -> ToolResult | mcp.InputRequiredResult:
    """What the user answers."""
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    said = "User response: action={action}, content={content}"
    return await _questioned(ctx, message, schema, said)


COMPLETED = "Elicitation completed: action={action}, content={content}"


@server.tool
async def test_elicitation_sep1034_defaults(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """A question whose fields have defaults of every kind."""
    states = ["active", "inactive", "pending"]
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": states, "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
        "required": [],
    }
    return await _questioned(ctx, "Please review", schema, COMPLETED)


def _titled(*pairs: str) -> list[dict[str, str]]:
    return [{"const": f"value{at}", "title": title} for at, title in enumerate(pairs, 1)]


@server.tool
async def test_elicitation_sep1330_enums(ctx: Context) -> ToolResult | mcp.InputRequiredResult:
    """A question with choices of every kind."""
    plain = ["option1", "option2", "option3"]
    first = _titled("First Option", "Second Option", "Third Option")
    many = _titled("First Choice", "Second Choice", "Third Choice")
    schema = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": first},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": many}},
        },
        "required": [],
    }
    return await _questioned(ctx, "Please choose", schema, COMPLETED)


@server.tool
async def test_streaming_elicitation(ctx: Context) -> ToolResult | mcp.InputRequiredResult:
    """Progress, then a question."""
    await ctx.report_progress(1, 2)
    return await _questioned(ctx, "Go on?", NAME_FIELD, COMPLETED)


@server.tool
async def test_input_required_result_elicitation(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Greets whoever says a name."""
    answer = await _ask(ctx, "user_name", _form("What is your name?", NAME_FIELD))
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return _text(f"Hello, {(answer.content or {}).get('name', 'stranger')}!")


@server.tool
async def test_input_required_result_sampling(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Lets the client's model answer."""
    question = _prompted("What is the capital of France?")
    answer = await _ask(ctx, "capital_question", question)
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return _text(f"The model says: {getattr(answer.content, 'text', answer.content)}")


@server.tool
async def test_input_required_result_list_roots(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Names the client's folders."""
    answer = await _ask(ctx, "client_roots", ROOTS)
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return _text("Roots: " + ", ".join(str(root.uri) for root in answer.roots))


CONFIRM = _form(
    "Please confirm",
    {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
)


async def _confirmed(ctx: Context, state: str) -> ToolResult | mcp.InputRequiredResult:
    answer = await _ask(ctx, "confirm", CONFIRM, state)
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    if ctx.request_state != state:
        raise MCPError(mcp.INVALID_PARAMS, "The state is not the one that was given out.")
    return _text("state-ok")


@server.tool
async def test_input_required_result_request_state(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Gives state out and wants it back."""
    return await _confirmed(ctx, "confirming")


@server.tool
async def test_input_required_result_tampered_state(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """The same; FastMCP seals the state, so that a changed one is refused."""
    return await _confirmed(ctx, "sealed")


@server.tool
async def test_input_required_result_multiple_inputs(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Three questions at once."""
    questions: mcp.InputRequests = {
        "user_name": _form("What is your name?", NAME_FIELD),
        "greeting": _prompted("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = ctx.input_responses or {}
    if not questions.keys() <= answers.keys():
        return mcp.InputRequiredResult(input_requests=questions, request_state="asked three")
    return _text("all three answered")


@server.tool
async def test_input_required_result_multi_round(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Two questions, one after the other."""
    if ctx.request_state is None:
        return await _ask(ctx, "step1", _form("Step 1: What is your name?", NAME_FIELD), "1:")
    color = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
    answers = ctx.input_responses or {}
    if ctx.request_state == "1:":
        name = answers.get("step1")
        given = (name.content or {}).get("name") if isinstance(name, mcp.ElicitResult) else None
        question = _form("Step 2: What is your favorite color?", color)
        return mcp.InputRequiredResult(
            input_requests={"step2": question}, request_state=f"2:{given}"
        )
    chosen = answers.get("step2")
    if not isinstance(chosen, mcp.ElicitResult):
        raise ToolError("The second answer is missing.")
    return _text(f"{ctx.request_state.removeprefix('2:')} likes {_content(chosen)}")


@server.tool
async def test_input_required_result_capabilities(
    ctx: Context,
) -> ToolResult | mcp.InputRequiredResult:
    """Asks only what this client can be asked."""
    questions: mcp.InputRequests = {}
    if _can(ctx, "sampling"):
        questions["sampled"] = _prompted("Say hello")
    if _can(ctx, "elicitation"):
        questions["answer"] = _form("What is your name?", NAME_FIELD)
    if not questions or questions.keys() <= (ctx.input_responses or {}).keys():
        return _text("nothing left to ask")
    return mcp.InputRequiredResult(input_requests=questions)


# -- resources and prompts ---------------------------------------------------------------------


@server.resource("test://static-text", name="text", description="Text.", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", name="image", description="Bytes.", mime_type="image/png")
def static_binary() -> bytes:
    return _red_pixel()


@server.resource(
    "test://watched-resource",
    name="watched",
    description="To be subscribed to.",
    mime_type="text/plain",
)
def watched() -> str:
    return "watched"


@server.resource(
    "test://template/{id}/data",
    name="template",
    description="A template.",
    mime_type="application/json",
)
def templated(id: str) -> str:  # noqa: A002 - the template's variable is called so
    data = {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}
    return json.dumps(data, separators=(",", ":"))


@server.prompt(description="Without arguments.")
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@server.prompt(description="With arguments.")
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt(description="With a resource inside.")
def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803
    words = "Embedded resource content for testing."
    return [
        Message(_embedded(resourceUri, "text/plain", words)),
        Message("Please process the embedded resource above."),
    ]


@server.prompt(description="With an image.")
def test_prompt_with_image() -> list[Message]:
    return [Message(IMAGE), Message("Please analyze the image above.")]


@server.prompt(description="Asks before it is filled in.")
async def test_input_required_result_prompt(ctx: Context) -> str | mcp.InputRequiredResult:
    schema = {
        "type": "object",
        "properties": {"context": {"type": "string"}},
        "required": ["context"],
    }
    question = _form("What context should the prompt use?", schema)
    answer = await _ask(ctx, "user_context", question)
    if isinstance(answer, mcp.InputRequiredResult):
        return answer
    return f"Use this context: {_content(answer)}"


@server.completion
def complete(
    ref: mcp.PromptReference | mcp.ResourceTemplateReference,
    argument: mcp.CompletionArgument,
    context: mcp.CompletionContext | None,
) -> list[str]:
    """Words that begin with what is there."""
    return [word for word in ("paris", "park", "party") if word.startswith(argument.value)]


def main() -> None:
    match sys.argv[1:]:
        case ["stdio"]:
            server.run("stdio", show_banner=False, log_level="ERROR")
        case ["http", port]:
            server.run(
                "http",
                show_banner=False,
                host="127.0.0.1",
                port=int(port),
                log_level="ERROR",
                uvicorn_config={"access_log": False, "log_level": "error"},
            )
        case _:
            sys.exit("usage: conformance_server.py stdio | http PORT")


if __name__ == "__main__":
    main()
