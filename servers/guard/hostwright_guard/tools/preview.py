"""Tools for dry runs: see what a command would change, then apply exactly that."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hostwright_guard.sandbox.capabilities import Limits, Wanted
from hostwright_guard.sandbox.holding import Run
from hostwright_guard.sandbox.preview.service import (
    CommitResult,
    PreviewResult,
    PreviewService,
)
from hostwright_guard.tools.sandbox import Argv, DomainList, PathList, TokenText, holder
from hostwright_kit.previewing import CommitCall
from hostwright_kit.progress import ticking
from hostwright_kit.server import HostServer


def register(app: HostServer, previews: PreviewService) -> None:
    """Add the tools."""

    @app.write_tool(
        destructive=True,
        open_world=True,
        grave_with=("read_paths", "domains"),
        contained_with="token",
        title="See what a command would change",
    )
    async def sandbox_preview(
        argv: Argv,
        folder: Annotated[
            str, Field(min_length=1, max_length=4_096, description="It sees and changes this one.")
        ],
        read_paths: Annotated[PathList, Field(description="Further files and folders.")] = None,
        domains: Annotated[DomainList, Field(description="Names to reach; else none.")] = None,
        token: TokenText = None,
        env: Annotated[
            dict[str, Annotated[str, Field(max_length=131_072)]] | None,
            Field(max_length=256, description="Variables; nothing else is inherited."),
        ] = None,
        stdin: Annotated[
            str | None, Field(max_length=4_194_304, description="Written to stdin as UTF-8.")
        ] = None,
        limits: Annotated[
            Limits | None, Field(description="Memory, processor, processes; else the usual ones.")
        ] = None,
        timeout_seconds: Annotated[
            float, Field(gt=0, le=50, description="Then everything is ended.")
        ] = 30.0,
    ) -> PreviewResult:
        """Run a command in a sandbox over a copy-on-write view of a folder; nothing is changed.

        Returns what it would create, change (with a diff) and delete, and what it tried on the
        network. To apply exactly that, call sandbox_commit with the `commit` of the result.
        """
        run = Run(
            tuple(argv),
            Wanted(
                read=tuple(read_paths or ()),
                write=(folder,),
                domains=tuple(domains or ()),
                limits=limits or Limits(),
                seconds=timeout_seconds,
            ),
            holder(),
            cwd=folder,
            environment=env or {},
            stdin=(stdin or "").encode("utf-8", "surrogateescape"),
            token=token,
            fixed_limits=limits is not None,
        )
        async with ticking(timeout_seconds, "the command runs"):
            return await previews.preview(run, folder)

    @app.write_tool(destructive=True, title="Apply a preview")
    def sandbox_commit(
        preview_id: Annotated[
            str, Field(min_length=16, max_length=16, description="From sandbox_preview.")
        ],
        digest: Annotated[
            str, Field(min_length=64, max_length=64, description="From the preview's `commit`.")
        ],
        changes: Annotated[
            list[Annotated[str, Field(max_length=8_192)]],
            Field(max_length=201, description="From the preview's `commit`; the owner reads it."),
        ],
    ) -> CommitResult:
        """Apply exactly what a preview showed, file by file, each whole or not at all.

        Refused when anything in the folder was changed since. Cut off half-way, the same call goes
        on where it stopped.
        """
        call = CommitCall(preview_id=preview_id, digest=digest, changes=changes)
        return previews.commit(call, holder().bound)
