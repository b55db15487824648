"""launchd agents (macOS): the daemon, or single servers of ours by themselves.

Keys: launchd.plist(5). Built with plistlib. `plutil -lint`, the format's own check, runs on macOS
only and is named among the next steps.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from hostwright.exporting.model import Export, File, Options, Suite, split

LABEL = "dev.hostwright"
ENVIRONMENT = ".config/hostwright/environment"
# launchd has no file of variables; this reads one, if it is there, and then becomes the program.
_WITH_FILE = 'set -a; [ -r "$0" ] && . "$0"; exec "$@"'


def render(suite: Suite, options: Options) -> Export:
    """One property list per job."""
    if not suite.named:
        jobs = {"daemon": [str(suite.program), "up"]}
        needs, left_out = suite.needs, ()
        plain: dict[str, dict[str, str]] = {}
    else:
        why = {
            server.name: "It speaks MCP on its stdin only; the daemon's job (no names) runs it."
            if server.command
            else "It runs elsewhere; there is nothing to start."
            for server in suite.servers
            if server.distribution is None
        }
        carried, left_out = split(suite, why)
        jobs = {
            server.name: [
                str(suite.program.with_name(server.distribution.script)),
                *(
                    ["--http", options.http]
                    if options.http
                    else ["--socket", str(suite.home / f".hostwright-{server.name}.sock")]
                ),
            ]
            for server in carried
            if server.distribution
        }
        plain = {
            server.name: {one.key: one.template for one in server.env if not one.needs}
            for server in carried
        }
        needs = tuple(need for server in carried for need in server.needs)
    files = tuple(
        File(
            path=f"{LABEL}.{name}.plist",
            text=_job(
                name,
                argv,
                {**suite.folders, **plain.get(name, {})},
                suite.home,
                with_file=bool(needs),
            ),
        )
        for name, argv in jobs.items()
    )
    fill = f"Write the variables above into ~/{ENVIRONMENT} (NAME='value'; chmod 600)."
    return Export(
        format="launchd",
        files=files,
        left_out=left_out,
        needs=needs,
        next_steps=(
            *([fill] if needs else []),
            f"Put {' '.join(file.path for file in files)} into ~/Library/LaunchAgents.",
            *(
                f"plutil -lint {file.path} && launchctl bootstrap gui/$(id -u) "
                f"~/Library/LaunchAgents/{file.path}"
                for file in files
            ),
        ),
    )


def _job(
    name: str, argv: list[str], variables: dict[str, str], home: Path, *, with_file: bool
) -> str:
    if with_file:
        argv = ["/bin/sh", "-c", _WITH_FILE, str(home / ENVIRONMENT), *argv]
    log = str(home / "Library/Logs" / f"hostwright-{name}.log")
    job: dict[str, Any] = {
        "Label": f"{LABEL}.{name}",
        "ProgramArguments": argv,
        "RunAtLoad": True,
        # `hostwright down` ends with 0 and stays down; anything else is started again.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ExitTimeOut": 45,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 4096},
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if variables:
        job["EnvironmentVariables"] = variables
    return plistlib.dumps(job, sort_keys=False).decode()
