"""Putting an approval question to the owner over the client of a FastMCP server, in both eras.

The answer counts only for a question that is open in our own database, so a repeated or an
invented one grants nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import mcp_types as mcp
from fastmcp.server.context import Context
from mcp.shared.exceptions import MCPError

from hostwright_kit.approvals import Approval
from hostwright_kit.asking import (
    ANSWER_TIMEOUT_SECONDS,
    QUESTION,
    SCHEMA,
    question,
    read_answer,
)
from hostwright_kit.call import Call
from hostwright_kit.guard import Answer

logger = logging.getLogger(__name__)


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


def _modern_answer(ctx: Context, approval: Approval) -> Answer:
    """The answer that this leg brought, if it answers this very question."""
    responses = ctx.input_responses or {}
    answer = responses.get(QUESTION)
    # The state is sealed by the server, so it proves that this client was asked this question.
    if not isinstance(answer, mcp.ElicitResult) or ctx.request_state != approval.id:
        return Answer.LATER
    return read_answer(_plain(answer))


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
    return read_answer(_plain(answer))


def _plain(answer: mcp.ElicitResult) -> dict[str, Any]:
    return {"action": answer.action, "content": answer.content}
