"""Putting an approval question to the owner over the client (MCP elicitation, both eras).

2025-11-25: a request from the server to the client while the call waits. 2026-07-28: the call ends
with an `InputRequiredResult`, and the client repeats it with the answer. The answer counts only
for a question that is open in our own database, so a repeated or an invented one grants nothing.
"""

from __future__ import annotations

import asyncio
import logging

import mcp_types as mcp
from fastmcp.server.context import Context
from mcp.shared.exceptions import MCPError

from hostwright_kit.approvals import Approval
from hostwright_kit.guard import Answer, Call

logger = logging.getLogger(__name__)

QUESTION = "approval"
FIELD = "approve"
# Real clients cut a silent call at 60 s; a question that is not answered by then stays open for
# the terminal.
ANSWER_TIMEOUT_SECONDS = 50.0
MAX_SHOWN_CHARS = 3_000

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        FIELD: {
            "type": "boolean",
            "title": "Approve this one call?",
            "description": "Yes runs it once, exactly as shown.",
        }
    },
    "required": [FIELD],
}


async def ask_client(ctx: Context, call: Call, approval: Approval) -> Answer:
    """Ask, if this client can."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return Answer.UNASKED
    if ctx._is_modern_protocol():
        return _modern_answer(ctx, approval)
    return await _ask_legacy(ctx, approval)


def input_required(approval: Approval) -> mcp.InputRequiredResult:
    """The question as the 2026-07-28 era carries it."""
    params = mcp.ElicitRequestFormParams(message=question(approval), requested_schema=SCHEMA)
    return mcp.InputRequiredResult(
        input_requests={QUESTION: mcp.ElicitRequest(params=params)}, request_state=approval.id
    )


def question(approval: Approval) -> str:
    """What the owner reads."""
    shown = "".join(_visible(char) for char in approval.arguments)
    if len(shown) > MAX_SHOWN_CHARS:
        half = MAX_SHOWN_CHARS // 2
        shown = (
            f"{shown[:half]}… [{len(shown)} characters; `hostwright pending {approval.id}` "
            f"shows all of them] …{shown[-half:]}"
        )
    return (
        f"{approval.caller} wants to run {approval.server}.{approval.tool} with {shown}\n"
        f"Request {approval.id}, asked because of {approval.reason}."
    )


def _visible(char: str) -> str:
    """Text that turns the reading direction or hides itself must not dress up the question."""
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _modern_answer(ctx: Context, approval: Approval) -> Answer:
    """The answer that this leg brought, if it answers this very question."""
    responses = ctx.input_responses or {}
    answer = responses.get(QUESTION)
    # The state is sealed by the server, so it proves that this client was asked this question.
    if not isinstance(answer, mcp.ElicitResult) or ctx.request_state != approval.id:
        return Answer.LATER
    return _read(answer)


async def _ask_legacy(ctx: Context, approval: Approval) -> Answer:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            answer = await ctx.session.elicit_form(
                message=question(approval),
                requested_schema=SCHEMA,
                related_request_id=ctx.request_id,
            )
    except (TimeoutError, MCPError) as error:
        logger.info("approval %s was not answered by the client: %s", approval.id, error)
        return Answer.UNASKED
    return _read(answer)


def _read(answer: mcp.ElicitResult) -> Answer:
    """Only a plain yes is a yes. Closing the prompt leaves the question open for the terminal."""
    if answer.action == "cancel":
        return Answer.UNASKED
    approved = answer.action == "accept" and (answer.content or {}).get(FIELD) is True
    return Answer.GRANTED if approved else Answer.DENIED
