"""The system server: one machine's health, processes, services, logs, shell and files.

The tools are in `tools/`, one module per group; this module puts them together.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from hostwright_kit.jobs import JobStore
from hostwright_kit.previewing import open_previewer
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer
from hostwright_system.files import FileSpace, Roots, open_file_space, trash_folder
from hostwright_system.host.suite import SuiteProcesses
from hostwright_system.settings import SystemSettings
from hostwright_system.shell import CommandRunner
from hostwright_system.tools import files, host, prompts, record, services, shell

VERSION = version("hostwright-system")

INSTRUCTIONS = """\
This machine, under its owner's control. Look before you act: system_health, system_query and
system_discover show what is here. What changes or ends something may need the owner's approval;
the error then names the request and how it is granted: repeat exactly the same call afterwards.
Every act is recorded: receipt_list shows what was done and how to undo it."""


def build(runtime: Runtime) -> HostServer:
    """The server with all its tools; raises `HostError` when the configuration is wrong."""
    settings = runtime.table("system", SystemSettings)
    app = HostServer(
        "hostwright-system", version=VERSION, instructions=INSTRUCTIONS, runtime=runtime
    )
    jobs = JobStore(runtime.paths.state_dir, "system")
    runtime.on_close(jobs.close)
    # The supervisor is our parent when it started us; ending it would end everything.
    parent = (os.getppid(),) if runtime.link_key else ()
    host.register(app, settings, suite=SuiteProcesses(runtime.paths.runtime_dir, parent))
    files.register(app, _file_space(runtime, settings))
    services.register(app, settings)
    tried = None
    if settings.shell_preview:
        tried = open_previewer(runtime, jobs, "[system] shell_preview")
    shell.register(app, jobs, CommandRunner(jobs), tried)
    record.register(app, runtime)
    prompts.register(app)
    return app


def _file_space(runtime: Runtime, settings: SystemSettings) -> FileSpace:
    state = runtime.paths.state_dir / "files"
    roots = Roots(
        settings.roots or None,
        protected=runtime.paths.protected,
        deny=settings.deny,
        allow=settings.allow,
        trash=trash_folder(state),
    )
    space = open_file_space(roots, state)

    async def close() -> None:
        space.close()

    runtime.on_close(close)
    return space


def main() -> None:
    """The command `hostwright-system`."""
    serve("system", build, version=VERSION)
