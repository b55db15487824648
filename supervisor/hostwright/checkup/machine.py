"""What Hostwright stands on: Python, SQLite, the disk, systemd, the owner's PIN, the ledger's
chain, and the clients that were told about it. Reads only."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from hostwright.checkup.findings import Finding, State
from hostwright.checkup.storage import nearest_folder
from hostwright.clients import CLIENTS, Entry, plan
from hostwright_kit import audit
from hostwright_kit.errors import HostError
from hostwright_kit.ledger_reading import open_readonly
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.store import naming_the_cause

MIN_PYTHON = (3, 11)
# STRICT tables (sqlite.org/stricttables.html).
MIN_SQLITE = (3, 37, 0)
FREE_PROBLEM_BYTES = 64 * 1024 * 1024
FREE_DEGRADED_BYTES = 1024 * 1024 * 1024
FREE_INODES = 1_000
# The walk takes about two seconds per million entries; doctor is asked by someone who waits.
MAX_VERIFIED_ENTRIES = 2_000_000


def check_versions() -> Iterator[Finding]:
    """Python and SQLite."""
    yield _at_least("Python", sys.version_info[:3], MIN_PYTHON, sys.executable)
    yield _at_least("SQLite", sqlite3.sqlite_version_info, MIN_SQLITE, "as built into Python")


def check_systemd(runtime: Path = Path("/run/systemd/system")) -> Iterator[Finding]:
    """Whether this machine was booted with systemd (sd_booted(3))."""
    if runtime.is_dir():
        yield Finding(area="machine", what="systemd", state="ok", message="Runs this machine.")
    elif platform.system() == "Linux":
        yield Finding(
            area="machine",
            what="systemd",
            state="degraded",
            message="It does not run this machine: the tools for services and the journal answer "
            "with that reason.",
            fix="Nothing, unless you want them: boot with systemd.",
        )
    else:
        message = f"{platform.system()} has none: the tools for services and the journal say so."
        yield Finding(area="machine", what="systemd", state="degraded", message=message)


def check_disk(paths: Paths) -> Iterator[Finding]:
    """Room for the ledger: what cannot be recorded is not done."""
    folder = nearest_folder(paths.state_dir)
    free = shutil.disk_usage(folder).free
    inodes = os.statvfs(folder)
    state: State = "ok"
    if free < FREE_PROBLEM_BYTES:
        state = "problem"
    elif free < FREE_DEGRADED_BYTES:
        state = "degraded"
    # Some file systems (btrfs) have no fixed number of them and say 0 of 0.
    if inodes.f_files and inodes.f_favail < FREE_INODES:
        state = "problem"
    yield Finding(
        area="machine",
        what="disk",
        state=state,
        message=f"{free / 1e9:.1f} GB free for the state folder.",
        fix=""
        if state == "ok"
        else "Free some: when the ledger cannot be written, every act is refused.",
        path=paths.state_dir,
    )


def check_pin(paths: Paths) -> Iterator[Finding]:
    """Whether the owner can grant anything from the terminal."""
    file = paths.state_dir / "operator.json"
    pin = OperatorPin(paths.state_dir)
    if not pin.is_set():
        yield Finding(
            area="owner",
            what="PIN",
            state="degraded",
            message="None is set: nothing can be granted from the terminal.",
            fix="hostwright init",
        )
        return
    pin._read()  # raises with the remedy when the record is damaged
    yield Finding(area="owner", what="PIN", state="ok", message="Set.", path=file)


def check_ledger(paths: Paths) -> Iterator[Finding]:
    """The chain, from its first entry."""
    file = paths.state_dir / LEDGER_FILE
    if not file.exists():
        yield Finding(area="ledger", what="chain", state="ok", message="No entry yet.")
        return
    with naming_the_cause(file), closing(open_readonly(file)) as db:
        entries: int = db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]
    if entries > MAX_VERIFIED_ENTRIES:
        yield Finding(
            area="ledger",
            what="chain",
            state="degraded",
            message=f"{entries} entries are too many to walk here.",
            fix="hostwright audit verify",
            path=file,
        )
        return
    result = audit.verify(file)
    if result.ok:
        message = f"{result.entries} entries, unbroken. Head: {result.head}"
        yield Finding(area="ledger", what="chain", state="ok", message=message, path=file)
        return
    yield Finding(
        area="ledger",
        what="chain",
        state="problem",
        message=f"Broken at entry {result.first_broken_seq}: {result.problem}.",
        fix=f"The {result.entries} entries before it are sound. Keep the file as evidence and find "
        "out who could write to it.",
        path=file,
    )


def check_clients(
    expected: Callable[[str], Entry | None], *, home: Path, cwd: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Which clients' files lead to Hostwright, and whether to this installation.

    `expected` is the entry that `hostwright install` would write under a name, if it would.
    """
    places: dict[str, Any] = {"home": home, "cwd": cwd, "environ": environ}
    found: list[Finding] = []
    for name, client in CLIENTS.items():
        for scope in ("user", "project"):
            if scope == "project" and client.project_files is None:
                continue
            try:
                ours = plan(name, (), remove=True, scope=scope, **places)
            except HostError as error:
                found.append(
                    Finding(
                        area="clients",
                        what=name,
                        state="degraded",
                        message=error.message,
                        fix=error.fix,
                    )
                )
                continue
            entries = [change.name for change in ours.changes if change.action == "removed"]
            stale = [
                entry
                for entry in entries
                if "command" in _difference(name, expected(entry), scope, places)
            ]
            if entries:
                found.append(
                    Finding(
                        area="clients",
                        what=name,
                        state="degraded" if stale else "ok",
                        message=f"{', '.join(entries)} ({scope})."
                        + (f" Starts another installation: {', '.join(stale)}." if stale else ""),
                        fix=f"hostwright install {name}" if stale else "",
                        path=ours.path,
                    )
                )
    yield from found
    if not any(one.path for one in found):
        yield Finding(
            area="clients",
            what="clients",
            state="degraded",
            message="No client is configured to use Hostwright.",
            fix="hostwright install claude-code (or another: hostwright install --help).",
        )


def _difference(client: str, entry: Entry | None, scope: Any, places: dict[str, Any]) -> set[str]:
    """The keys that differ, of an entry that starts a command; none for one with a url."""
    if entry is None:
        return set()
    change = plan(client, (entry,), scope=scope, **places).changes[0]
    keys = set(change.detail.split(", ")) if change.action == "changed" else set[str]()
    return set() if keys & {"url", "type"} else keys


def _at_least(what: str, found: tuple[int, ...], needed: tuple[int, ...], where: str) -> Finding:
    version, least = ".".join(map(str, found)), ".".join(map(str, needed))
    good = found >= needed
    return Finding(
        area="machine",
        what=what,
        state="ok" if good else "problem",
        message=f"{version} ({where}).",
        fix="" if good else f"Use a Python with {what} {least} or newer.",
    )
