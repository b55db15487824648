"""Tools to look, to stop everything, and to restart. None of them lifts what was stopped."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from hostwright_guard.safety import (
    Restarted,
    SafetyStatus,
    Stopped,
    look_at_daemon,
    restart,
    server_lines,
    stop_everything,
    undoable,
)
from hostwright_kit.errors import HostError
from hostwright_kit.guard import current_call
from hostwright_kit.jobs import JobFilter, JobStore
from hostwright_kit.panic import LIFT, MAX_REASON_CHARS, read_panic
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

Name = Annotated[
    str,
    Field(
        max_length=63,
        pattern=r"^[a-z][a-z0-9-]*$",
        description="The server, as safety_status names it.",
    ),
]
JOBS_SECONDS = 5.0


def register(app: HostServer, runtime: Runtime, jobs: JobStore) -> None:
    """Add the tools."""
    paths = runtime.paths

    @app.read_tool(in_panic=True, title="Whether all is safe")
    async def safety_status() -> SafetyStatus:
        """Whether everything is stopped and by whom, how the servers are, what runs, whether acts
        can be recorded, and which of your latest acts can be undone. Answers also in a panic."""
        caller = current_call().caller.name
        daemon, status = await asyncio.to_thread(look_at_daemon, paths.runtime_dir)
        panic = await asyncio.to_thread(read_panic, paths.state_dir)
        running = await jobs.list(JobFilter(states=("queued", "running")), limit=1)
        pending = await asyncio.to_thread(runtime.approvals.pending)
        return SafetyStatus(
            panic=panic,
            lifted_by=LIFT if panic else None,
            daemon=daemon,
            servers=server_lines(status),
            jobs_running=running.total,
            pending_approvals=len(pending),
            ledger_problem=runtime.ledger.health() or status.get("ledger_problem"),
            problems=status.get("problems", []),
            undoable=await asyncio.to_thread(undoable, runtime.ledger.path, caller),
        )

    @app.write_tool(destructive=False, idempotent=True, in_panic=True, title="Stop everything")
    async def safety_panic(
        reason: Annotated[
            str, Field(min_length=1, max_length=MAX_REASON_CHARS, description="What went wrong.")
        ],
    ) -> Stopped:
        """Stop every server, job and call at once, when something goes badly wrong. It holds over
        restarts; nothing is done for anybody until the owner lifts it, and no tool lifts it."""
        stopped = await asyncio.to_thread(
            stop_everything,
            paths.state_dir,
            paths.runtime_dir,
            runtime.ledger,
            current_call().caller,
            runtime.server,
            reason,
        )
        # The other servers' have ended with them.
        ended = await jobs.cancel_all(wait_seconds=JOBS_SECONDS)
        late = [f"The job {one.id} is still being ended." for one in ended if not one.ended]
        return stopped.model_copy(
            update={"jobs_ended": len(ended), "problems": [*stopped.problems, *late]}
        )

    @app.write_tool(destructive=True, title="Restart a server")
    async def safety_restart(name: Name) -> Restarted:
        """End one server with all of its processes and start it anew; its calls in flight fail."""
        if name == runtime.server:
            raise HostError(
                "This server cannot end itself and answer.",
                fix=f"mcp_server_restart name={name}, or let the owner run "
                f"`hostwright restart {name}`.",
                code="invalid_argument",
            )
        return await asyncio.to_thread(restart, paths.runtime_dir, name)
