"""`--check`: everything that would keep a server from doing its work, in one table."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostwright_kit.config import ConfigError
from hostwright_kit.errors import HostError
from hostwright_kit.runtime import Runtime, open_runtime


class Finding(BaseModel, frozen=True):
    """One line of the table. `degraded` works with less; `problem` does not work."""

    what: str
    state: Literal["ok", "degraded", "problem"]
    detail: str = ""
    fix: str = ""


def run_check(
    name: str, build: Callable[[Any], Any], *, config_file: Path | None, as_json: bool
) -> int:
    """Print what was found; 1 when there is a problem."""
    findings = asyncio.run(_collect(name, build, config_file))
    if as_json:
        sys.stdout.write(json.dumps([finding.model_dump() for finding in findings]) + "\n")
    else:
        print_findings(f"hostwright-{name}", findings)
    return 1 if any(finding.state == "problem" for finding in findings) else 0


def print_findings(title: str, findings: list[Finding]) -> None:
    """A table for people."""
    table = Table(title=title, title_justify="left")
    for column in ("what", "state", "detail", "fix"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "degraded": "yellow", "problem": "red"}
    for finding in findings:
        colour = colours[finding.state]
        # Text, because a message may say [policy], and markup would swallow that.
        state = Text(finding.state, style=colour)
        table.add_row(Text(finding.what), state, Text(finding.detail), Text(finding.fix))
    Console().print(table)


async def _collect(
    name: str, build: Callable[[Any], Any], config_file: Path | None
) -> list[Finding]:
    try:
        runtime = open_runtime(name, config_file=config_file)
    except ConfigError as error:
        return [
            Finding(what=f"configuration {problem.key}", state="problem", detail=str(problem))
            for problem in error.problems
        ]
    except HostError as error:
        return [Finding(what="state", state="problem", detail=error.message, fix=error.fix)]
    try:
        app = build(runtime)
        profile = runtime.policy.current().profile
        tools = await app.list_tools(run_middleware=False)
        findings = [
            Finding(what="configuration", state="ok", detail=_sources(runtime)),
            Finding(what="state folder", state="ok", detail=str(runtime.paths.state_dir)),
            Finding(what="policy", state="ok", detail=f"profile {profile}"),
            Finding(what="tools", state="ok", detail=str(len(tools))),
        ]
        for extra in app.checks:
            findings += await extra()
    except HostError as error:
        return [Finding(what=name, state="problem", detail=error.message, fix=error.fix)]
    finally:
        await runtime.close()
    return findings


def _sources(runtime: Runtime) -> str:
    return ", ".join(layer.source for layer in runtime.settings.layers) or "defaults only"
