"""Tools about the index itself: adding a project, and how it is."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hostwright_codegraph.languages import LANGUAGES
from hostwright_codegraph.queries.listing import counts
from hostwright_codegraph.queries.models import Indexed, ProjectState, Status
from hostwright_codegraph.queries.reader import reading
from hostwright_codegraph.runner import Run, failed
from hostwright_codegraph.service import Service
from hostwright_codegraph.tools.parameters import Project
from hostwright_kit.errors import HostError
from hostwright_kit.progress import ticking
from hostwright_kit.server import HostServer


def register(app: HostServer, service: Service) -> None:
    """Add the tools."""

    # It writes nothing but this server's own cache, which can be made again from the files.
    @app.write_tool(destructive=False, idempotent=True, title="Index a project")
    async def codegraph_index(
        action: Annotated[
            Literal["add", "refresh", "remove"],
            Field(
                description="add: index a folder and follow its changes; refresh: look now; "
                "remove: forget the index, the files stay."
            ),
        ] = "refresh",
        path: Annotated[
            str | None,
            Field(min_length=1, max_length=4_096, description="The project's folder; for add."),
        ] = None,
        project: Project = None,
        wait_seconds: Annotated[
            int, Field(ge=0, le=45, description="How long to wait; the run goes on afterwards.")
        ] = 20,
    ) -> Indexed:
        """Index a project, look for its changes now, or forget its index. Files are only read.

        A first run takes a few seconds per hundred thousand lines and goes on in the background;
        codegraph_status shows how far it is. Questions are answered from what is there.
        """
        if action == "add":
            root = service.projects.allowed(_required(path or project))
            new = service.projects.places.add(root)
            run = service.follow(root)
        else:
            root, new = service.projects.meant(path or project), False
            if action == "remove":
                await service.forget(root)
                service.projects.places.remove(root)
                return Indexed(project=str(root), action="removed", state="missing")
            run = service.follow(root)
        if wait_seconds:
            async with ticking(wait_seconds, f"indexing {root.name}"):
                run = await service.runner.wait(root, wait_seconds)
        if run.state == "failed":
            raise failed(run)
        return Indexed(
            project=str(root),
            action="added" if new else "refreshed",
            state=run.state,
            files=run.outcome.get("files"),
            read=run.outcome.get("read"),
            resolved=run.outcome.get("resolved"),
            seconds=round(run.outcome["seconds"], 2) if run.outcome else None,
            note=run.progress,
        )

    @app.read_tool(title="Index status")
    def codegraph_status(project: Project = None) -> Status:
        """How each project's index is: freshness, languages, unresolved calls, files with errors.

        Use it when an answer seems to miss something: what could not be read or resolved is
        counted here and never silently left out.
        """
        roots = [service.projects.meant(project)] if project else service.projects.all()
        missing = {
            one.name: f"pip install {one.grammar.replace('_', '-')}"
            for one in LANGUAGES.values()
            if importlib.util.find_spec(one.grammar) is None
        }
        return Status(
            projects=[_state(service, root, service.runner.runs.get(root)) for root in roots],
            not_indexed=missing,
        )


def _state(service: Service, root: Path, run: Run | None) -> ProjectState:
    service.freshness(root)
    try:
        with reading(service.projects.places.database(root), root) as index:
            figures = counts(index)
    except HostError as error:
        if error.code != "not_indexed":
            raise
        figures = {}
    checked = time.monotonic() - run.checked if run is not None and run.checked else None
    return ProjectState(
        project=str(root),
        state=run.state if run is not None else "waiting",
        progress=run.progress if run is not None else None,
        checked_seconds_ago=round(checked, 1) if checked is not None else None,
        watched=root in service.watched,
        database_mb=service.database_mb(root),
        problem=run.problem if run is not None else None,
        fix=run.fix if run is not None else None,
        **figures,
    )


def _required(path: str | None) -> str:
    if path is None:
        raise HostError(
            "Which folder is to be indexed was not said.",
            fix="Pass path with the project's folder.",
            code="no_path",
        )
    return path
