"""Asking the owner for a value over the client, so that it reaches no argument of a tool.

What stands in an argument was written by the model and is in its context; what is typed into the
client's prompt goes past it. 2025-11-25: `elicitation/create` while the call waits. 2026-07-28: the
call ends with the question, and the client repeats it with the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as mcp
from fastmcp.server.context import Context
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr

from hostwright_kit.asking import ANSWER_TIMEOUT_SECONDS

QUESTION = "secret"
FIELD = "value"


def can_ask(ctx: Context) -> bool:
    """Whether this client can put a form to its user."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def ask_value(
    ctx: Context, name: str, whom: str, state: str
) -> SecretStr | mcp.InputRequiredResult | None:
    """The value; or the question that ends this leg; or None when the owner gives none.

    `state` binds the answer to what was asked; the server seals it.
    """
    message = f"A value for the secret {name}. It goes to the vault, is opened for {whom}, and is "
    message += "shown to no model."
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            FIELD: {
                "type": "string",
                "title": f"Value of {name}",
                "minLength": 4,
                "maxLength": 65_536,
            }
        },
        "required": [FIELD],
    }
    if not ctx._is_modern_protocol():
        return await _ask_session(ctx, message, schema)
    answer = (ctx.input_responses or {}).get(QUESTION)
    if isinstance(answer, mcp.ElicitResult) and ctx.request_state == state:
        return _value(answer)
    params = mcp.ElicitRequestFormParams(message=message, requested_schema=schema)
    return mcp.InputRequiredResult(
        input_requests={QUESTION: mcp.ElicitRequest(params=params)}, request_state=state
    )


async def _ask_session(ctx: Context, message: str, schema: dict[str, Any]) -> SecretStr | None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            answer = await ctx.session.elicit_form(
                message=message, requested_schema=schema, related_request_id=ctx.request_id
            )
    except (TimeoutError, MCPError):
        return None
    return _value(answer)


def _value(answer: mcp.ElicitResult) -> SecretStr | None:
    given = (answer.content or {}).get(FIELD)
    return SecretStr(given) if answer.action == "accept" and isinstance(given, str) else None
