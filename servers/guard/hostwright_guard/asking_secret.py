"""Having the owner open the page for a value (`secret_page.py`): MCP's elicitation by address.

What stands in an argument was written by the model and is in its context; what is typed on the page
goes past it and past the client. 2025-11-25: `elicitation/create` while the call waits. 2026-07-28:
the call ends with the question, and the client repeats it when its user has agreed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Literal

import mcp_types as mcp
from fastmcp.server.context import Context
from mcp.shared.exceptions import MCPError

from hostwright_guard.secret_page import Page
from hostwright_kit.asking import ANSWER_TIMEOUT_SECONDS
from hostwright_kit.vault import SecretInfo

QUESTION = "secret"
WAIT_SECONDS = 40.0
"""For the value; a client may have taken its time to agree before, and cuts a call at 60 s."""
REPORT_SECONDS = 5.0
LOOK_SECONDS = 0.05
Agreed = Literal["accept", "decline", "unasked"]


def can_open(ctx: Context) -> bool:
    """Whether this client can have its user open an address."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and elicitation.url is not None


async def ask_to_open(ctx: Context, page: Page, state: str) -> Agreed | mcp.InputRequiredResult:
    """Whether the user will; or the question that ends this leg.

    `state` binds the answer to what was asked; the server seals it.
    """
    message = f"Hostwright asks for a value for the secret {page.name}, to be opened for "
    message += f"{page.whom}. It is typed on a page of the machine that Hostwright runs on."
    if not ctx._is_modern_protocol():
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                said = await ctx.session.elicit_url(
                    message, page.url, secrets.token_urlsafe(12), ctx.request_id
                )
        except (TimeoutError, MCPError):
            return "unasked"
        return _agreed(said)
    answer = (ctx.input_responses or {}).get(QUESTION)
    if isinstance(answer, mcp.ElicitResult) and ctx.request_state == state:
        return _agreed(answer)
    params = mcp.ElicitRequestURLParams(message=message, url=page.url)
    return mcp.InputRequiredResult(
        input_requests={QUESTION: mcp.ElicitRequest(params=params)}, request_state=state
    )


async def value_kept(ctx: Context, page: Page) -> SecretInfo | None:
    """What was kept; None when nothing was typed for as long as a call may wait."""
    began = reported = time.monotonic()
    while (now := time.monotonic()) - began < WAIT_SECONDS and page.open:
        if now - reported >= REPORT_SECONDS:
            reported = now
            await ctx.report_progress(now - began, WAIT_SECONDS, "waiting for the owner's value")
        await asyncio.sleep(LOOK_SECONDS)
    return page.kept.result() if page.kept.done() else None


def _agreed(answer: mcp.ElicitResult) -> Agreed:
    return {"accept": "accept", "decline": "decline"}.get(answer.action, "unasked")  # type: ignore[return-value]
