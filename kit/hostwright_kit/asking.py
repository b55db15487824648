"""The approval question as it goes over the wire, and what counts as an answer. No MCP import.

2025-11-25: a request from the server to the client while the call waits. 2026-07-28: the call ends
with an `InputRequiredResult`, and the client repeats it with the answer. `client_asking` puts it
from a FastMCP server, the gateway from raw messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hostwright_kit.approvals import Approval
from hostwright_kit.guard import Answer

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


def elicitation(approval: Approval) -> dict[str, Any]:
    """The params of `elicitation/create`, in either era."""
    return {"mode": "form", "message": question(approval), "requestedSchema": SCHEMA}


def input_required(approval: Approval, state: str) -> dict[str, Any]:
    """The result that ends a leg of the call in 2026-07-28; the client gives `state` back."""
    asked = {"method": "elicitation/create", "params": elicitation(approval)}
    return {
        "resultType": "input_required",
        "inputRequests": {QUESTION: asked},
        "requestState": state,
    }


def read_answer(result: object) -> Answer:
    """What an `ElicitResult` says.

    Only a plain yes is a yes. Closing the prompt leaves the question open for the terminal.
    """
    given = cast("Mapping[str, Any]", result) if isinstance(result, Mapping) else {}
    if given.get("action") not in ("accept", "decline"):
        return Answer.UNASKED
    content = given.get("content")
    fields = cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else {}
    approved = given["action"] == "accept" and fields.get(FIELD) is True
    return Answer.GRANTED if approved else Answer.DENIED


def question(approval: Approval) -> str:
    """What the owner reads."""
    shown = "".join(_visible(char) for char in approval.arguments)
    if len(shown) > MAX_SHOWN_CHARS:
        half = MAX_SHOWN_CHARS // 2
        shown = (
            f"{shown[:half]}… [{len(shown)} characters; `hostwright pending {approval.id}` "
            f"shows all of them] …{shown[-half:]}"
        )
    named = "".join(_visible(char) for char in f"{approval.server}.{approval.tool}")
    return (
        f"{approval.caller} wants to run {named} with {shown}\n"
        f"Request {approval.id}, asked because of {approval.reason}."
    )


def _visible(char: str) -> str:
    """Text that turns the reading direction or hides itself must not dress up the question."""
    return char if char.isprintable() else char.encode("unicode_escape").decode()
