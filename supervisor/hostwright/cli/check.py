"""`check` and `doctor`: everything that is wrong, with its place and its remedy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.text import Text

from hostwright.cli.output import EXIT_FAILED, cell, make_table, out, print_json
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths

if TYPE_CHECKING:
    from hostwright.checkup.findings import Check, Finding, Report
    from hostwright.checkup.live import Running

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
COLOURS = {"ok": "green", "degraded": "yellow", "problem": "red"}


def register(app: App) -> None:
    """Add the commands."""
    app.command(check)
    app.command(doctor)


def check(*, json: Json = False) -> None:
    """Find everything that is wrong with configuration, manifests, folders, databases and port.

    Changes nothing. Exit code 1 when something is a problem.
    """
    _report(_checks(resolve_paths()), as_json=json)


def doctor(*, json: Json = False) -> None:
    """Check, and look at what runs: daemon, servers, disk, ledger, PIN, clients, this machine.

    Changes nothing. Exit code 1 when something is a problem.
    """
    paths = resolve_paths()
    _report([*_checks(paths), *_live_checks(paths)], as_json=json)


def _checks(paths: Paths) -> list[tuple[str, Check]]:
    from hostwright.checkup import configuration, live, storage

    return [
        ("configuration", lambda: configuration.check_configuration(paths)),
        ("manifests", lambda: configuration.check_manifests(paths)),
        ("folders", lambda: storage.check_folders(paths)),
        ("databases", lambda: storage.check_databases(paths)),
        ("gateway", lambda: live.check_gateway(paths, _running(paths))),
    ]


def _live_checks(paths: Paths) -> list[tuple[str, Check]]:
    from hostwright.checkup import live, machine
    from hostwright.installing import expected_entry

    return [
        ("daemon", lambda: live.check_daemon(paths, _running(paths))),
        ("ledger", lambda: machine.check_ledger(paths)),
        ("owner", lambda: machine.check_pin(paths)),
        (
            "clients",
            lambda: machine.check_clients(
                expected_entry, home=Path.home(), cwd=Path.cwd(), environ=os.environ
            ),
        ),
        ("machine", machine.check_versions),
        ("machine", lambda: machine.check_disk(paths)),
        ("machine", machine.check_systemd),
    ]


def _running(paths: Paths) -> Running:
    from hostwright.checkup.live import Running
    from hostwright.cli.control import Control
    from hostwright.keeper.pidfile import daemon_pid

    try:
        return Running(daemon_pid(paths.runtime_dir), Control().status(), None)
    except HostError as error:
        return Running(daemon_pid(paths.runtime_dir), None, error)


def _report(checks: Sequence[tuple[str, Check]], *, as_json: bool) -> None:
    from hostwright.checkup.findings import collect

    report = collect(checks)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not report.ok:
        raise SystemExit(EXIT_FAILED)


def _show(report: Report) -> None:
    table = make_table("", "area", "what", "finding")
    for finding in report.findings:
        table.add_row(
            Text(finding.state, style=COLOURS[finding.state]),
            finding.area,
            cell(finding.what),
            _words(finding),
        )
    out.print(table)
    counts = Counter(finding.state for finding in report.findings)
    parts = [f"[{COLOURS[state]}]{counts[state]} {state}[/]" for state in COLOURS if counts[state]]
    out.print(f"\n{', '.join(parts)}")


def _words(finding: Finding) -> Text:
    text = cell(finding.message)
    if finding.path is not None:
        text = cell(f"{finding.place}  ", style="dim") + text
    if finding.fix:
        text += Text("\nfix: ", style="bold") + cell(finding.fix)
    return text
