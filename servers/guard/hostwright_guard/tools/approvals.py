"""Tools about approvals. The caller sees, checks and takes back its own requests, and no more."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from hostwright_guard.advance import call_in_advance
from hostwright_kit.approvals import Approval
from hostwright_kit.caller import Caller
from hostwright_kit.canonical import canonical
from hostwright_kit.errors import HostError
from hostwright_kit.guard import current_call
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

MAX_ARGUMENT_BYTES = 1024 * 1024

Id = Annotated[
    str, Field(min_length=8, max_length=8, description="The id that approval_request gave.")
]


class Asked(BaseModel, frozen=True):
    """One request and what became of it."""

    id: str | None = Field(description="None: no approval is needed for this call.")
    state: Literal[
        "not_needed", "pending", "granted", "denied", "consumed", "expired", "cancelled"
    ] = Field(description="granted: make the call now. consumed: a call has used it.")
    server: str
    tool: str
    arguments: dict[str, Any] = Field(description="As the owner sees them: secrets masked.")
    folder: str = Field(description="The working folder that the approval is bound to.")
    overwrites: dict[str, str] = Field(
        default={}, description="Files that the call would overwrite, as they were when asked."
    )
    reason: str = Field(description="The rule or profile that asks, or allows.")
    created: str | None = None
    expires: str | None = Field(default=None, description="UTC, ISO 8601.")
    decided: str | None = None
    via: str | None = Field(default=None, description="terminal or client.")
    next: str = Field(description="What to do now.")


class AskedList(BaseModel, frozen=True):
    """The caller's own requests that wait, oldest first."""

    requests: list[Asked]


def register(app: HostServer, runtime: Runtime) -> None:
    """Add the tools."""
    approvals = runtime.approvals

    @app.write_tool(destructive=False, idempotent=True, title="Ask for an approval in advance")
    async def approval_request(
        server: Annotated[str, Field(min_length=1, max_length=63, description="Its own name.")],
        tool: Annotated[
            str,
            Field(
                min_length=1,
                max_length=200,
                description="The server's own name for it, without the server's name before it.",
            ),
        ],
        arguments: Annotated[
            dict[str, Any],
            Field(
                description="Exactly those of the call that is to be made, at most 1 MiB.",
                json_schema_extra={"maxBytes": MAX_ARGUMENT_BYTES},
            ),
        ],
        why: Annotated[
            str, Field(max_length=500, description="For the owner: what it is good for.")
        ] = "",
    ) -> Asked:
        """Ask the owner for one exact call before it is needed; grants nothing.

        Asking again for the same call gives the same request. When it is granted, make the call
        with exactly these arguments, as the same client: it runs once.
        """
        if len(canonical(arguments)) > MAX_ARGUMENT_BYTES:
            raise HostError(
                f"The arguments have more than {MAX_ARGUMENT_BYTES} bytes.",
                fix="Make the call itself; it asks for what it needs.",
                code="too_large",
            )
        caller = current_call().caller
        call = await asyncio.to_thread(
            call_in_advance, runtime.paths.state_dir, caller, server, tool, arguments
        )
        judgement = runtime.guard.judge(call)
        if judgement.verdict == "deny":
            raise HostError(
                f"{server}.{tool} is denied by {judgement.reason}; asking does not change that.",
                fix="Do without it, or let the owner change the policy.",
                code="denied",
            )
        if judgement.verdict == "allow":
            return Asked(
                id=None,
                state="not_needed",
                server=server,
                tool=tool,
                arguments=call.asked_arguments,
                folder=call.folder,
                reason=judgement.reason,
                next="Make the call: it needs no approval.",
            )
        wanted = await asyncio.to_thread(call.request, judgement.reason, why=why)
        standing = await asyncio.to_thread(approvals.granted, wanted.digest)
        return _told(standing or await asyncio.to_thread(approvals.request, wanted))

    @app.read_tool(title="What waits for the owner")
    async def approval_pending() -> AskedList:
        """The calls of this client that wait for the owner's decision, oldest first."""
        bound = _bound(current_call().caller)
        waiting = await asyncio.to_thread(approvals.pending)
        return AskedList(requests=[_told(one) for one in waiting if one.bound == bound])

    @app.read_tool(title="What became of a request")
    async def approval_check(approval_id: Id) -> Asked:
        """The state of one request of this client: pending, granted, denied, consumed, …

        Checking uses nothing up. While it is pending, ask the owner rather than check in a loop.
        """
        return _told(await asyncio.to_thread(_own, approval_id, current_call().caller))

    @app.write_tool(destructive=False, title="Take a request back")
    async def approval_cancel(approval_id: Id) -> Asked:
        """Take back a request of this client that waits, or a grant that was not used."""
        caller = current_call().caller
        own = await asyncio.to_thread(_own, approval_id, caller)
        return _told(await asyncio.to_thread(approvals.cancel, own.id, by=caller.name))

    def _own(approval_id: str, caller: Caller) -> Approval:
        """A request of another client's is as good as none."""
        found = approvals.get(approval_id)
        if found.bound != _bound(caller):
            raise HostError(
                f"This client has asked for no approval {approval_id!r}.",
                fix="approval_pending lists its requests that wait.",
                code="not_found",
            )
        return found


def _bound(caller: Caller) -> str:
    return canonical(caller.bound).decode()


def _told(one: Approval) -> Asked:
    call = f"{one.server}.{one.tool}"
    following = {
        "pending": f"Ask the owner to run `hostwright approve {one.id}`, or call {call} and answer "
        "the client's prompt where there is one.",
        "granted": f"Call {call} with exactly these arguments before {one.expires}; it runs once.",
        "denied": "Do not ask again; ask the owner what to do instead.",
        "consumed": "A call has used it. A further one needs a further approval.",
        "expired": "Ask again (approval_request) if it is still needed.",
        "cancelled": "It was taken back. Ask again if it is needed after all.",
    }
    return Asked(
        id=one.id,
        state=one.state,
        server=one.server,
        tool=one.tool,
        arguments=json.loads(one.arguments),
        folder=one.folder,
        overwrites=json.loads(one.overwrites),
        reason=one.reason,
        created=one.created,
        expires=one.expires,
        decided=one.decided,
        via=one.via,
        next=following[one.state],
    )
