"""Dry runs for other servers (`hostwright_kit.previewing`): the same as sandbox_preview makes."""

from __future__ import annotations

from hostwright_guard.sandbox.assembling import assemble
from hostwright_guard.sandbox.capabilities import Limits, Wanted
from hostwright_guard.sandbox.holding import Run
from hostwright_guard.sandbox.preview.changes import Change
from hostwright_guard.tools.sandbox import holder
from hostwright_kit.jobs import JobStore
from hostwright_kit.previewing import Command, DryRun
from hostwright_kit.runtime import Runtime

MAX_DIFF_CHARS = 64_000


class Previewing:
    """What `hostwright.previews` names."""

    def __init__(self, runtime: Runtime, jobs: JobStore) -> None:
        self._previews = assemble(runtime, jobs).previews

    async def preview(self, command: Command) -> DryRun:
        """Run it over an overlay of its folder; it sees nothing else of the owner's."""
        run = Run(
            command.argv,
            Wanted(write=(command.folder,), limits=Limits(), seconds=command.seconds),
            holder(),
            cwd=command.folder,
            environment=command.environment,
            stdin=command.stdin,
            fixed_limits=False,
            head_bytes=command.head_bytes,
            tail_bytes=command.tail_bytes,
        )
        found = await self._previews.preview(run, command.folder)
        return DryRun(
            exit_code=found.exit_code,
            timed_out=found.timed_out,
            stdout=found.stdout,
            stderr=found.stderr,
            folder=found.folder,
            diff=_diff(found.changes),
            commit=found.commit,
            note=found.note,
        )


def _diff(changes: list[Change]) -> str:
    whole = "".join(one.diff for one in changes if one.diff)
    if len(whole) <= MAX_DIFF_CHARS:
        return whole
    return f"{whole[:MAX_DIFF_CHARS]}\n… {len(whole) - MAX_DIFF_CHARS} more characters\n"
