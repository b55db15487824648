"""Carrying a repair out: a record, a snapshot, the act, and the same check once more.

It counts as done only when the check that found the fault finds it no more. What fails is told with
its reason and leaves the snapshot, from which `undo:ID` puts back what was there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hostwright.rescue import recording, snapshots
from hostwright.rescue.findings import WRONG, Finding, Repair
from hostwright.rescue.ground import Ground
from hostwright_kit.errors import HostError

Look = Callable[[Ground], list[Finding]]
"""The check that found it, made once more."""


@dataclass(frozen=True)
class Outcome:
    """What came of one repair."""

    repair: str
    result: Literal["repaired", "failed"]
    done: tuple[str, ...]
    """What was changed."""
    problem: str
    """Why it failed."""
    snapshot: Path | None
    recorded: str
    """ledger; journal: it comes into the ledger later; or why it is on no record."""

    def shown(self) -> dict[str, Any]:
        """For programs."""
        return {
            "repair": self.repair,
            "result": self.result,
            "done": list(self.done),
            "problem": self.problem,
            "snapshot": str(self.snapshot) if self.snapshot else None,
            "recorded": self.recorded,
        }


def carry_out(
    ground: Ground,
    finding: Finding,
    look_again: Look,
    *,
    top: Path | None = None,
    ledger_sound: bool,
    by: str = "owner",
) -> Outcome:
    """The whole of one repair. Raises `HostError` when not begun: then nothing is changed."""
    repair = finding.repair
    if repair is None:
        raise ValueError(f"{finding.id} has no repair")
    top = top or ground.state / snapshots.FOLDER
    with _alone(ground) if repair.alone else nullcontext():
        snapshot = _taken(repair, top)
        detail = {"repair": repair.id, "title": repair.title, "finding": finding.message, "by": by}
        if snapshot is not None:
            detail["snapshot"] = str(snapshot.folder)
        begun = _recorded(ground, "rescue.begun", detail, ledger_sound=ledger_sound)
        if begun not in ("ledger", "journal") and not repair.makes_room:
            if snapshot is not None:
                snapshot.mark("failed")
            raise HostError(
                f"Nothing was changed, because it cannot be put on record: {begun}.",
                fix="Repair the disk or the permissions of the state folder first.",
                code="not_recorded",
            )
        done, problem = _act(repair)
    if not problem:
        problem = _still(repair, look_again(ground.again()))
    if snapshot is not None:
        _mark(snapshot, "failed" if problem else "done", done)
        snapshots.prune(top)
    kind = "rescue.failed" if problem else "rescue.repaired"
    outcome = {**detail, "done": done[:50], **({"problem": problem} if problem else {})}
    return Outcome(
        repair.id,
        "failed" if problem else "repaired",
        tuple(done),
        problem,
        snapshot.folder if snapshot else None,
        _recorded(ground, kind, outcome, ledger_sound=ledger_sound),
    )


def undo(ground: Ground, snapshot: snapshots.Snapshot) -> Repair:
    """Put back what a repair that failed or was cut off has changed."""

    def act() -> list[str]:
        told = snapshot.put_back()
        snapshot.mark("undone", told)
        return told

    return Repair(
        id=f"undo:{snapshot.id}",
        title=f"put back what was there before {snapshot.repair} (begun {snapshot.at})",
        act=act,
        files=tuple(Path(entry["path"]) for entry in snapshot.files),
        alone=any(".db" in entry["path"] or "sqlite" in entry["path"] for entry in snapshot.files),
    )


def _taken(repair: Repair, top: Path) -> snapshots.Snapshot | None:
    if repair.makes_room:
        return None
    try:
        return snapshots.take(top, repair.id, repair.title, repair.files)
    except OSError as error:
        raise HostError(
            f"The snapshot cannot be written in {top}: {error.strerror or error}. Nothing was "
            "changed.",
            fix="Free some space, or name a folder elsewhere: --snapshots FOLDER.",
            code="no_snapshot",
        ) from error


def _act(repair: Repair) -> tuple[list[str], str]:
    try:
        return list(repair.act()), ""
    except HostError as error:
        return [], str(error)
    except (OSError, sqlite3.Error) as error:
        return [], f"{type(error).__name__}: {error}"


def _still(repair: Repair, findings: list[Finding]) -> str:
    """Why it did not help, if it did not."""
    for finding in findings:
        same = finding.repair is not None and finding.repair.id == repair.id
        if finding.severity in WRONG and (same or finding.id == repair.id):
            return f"It was done and did not help: {finding.message}"
    return ""


def _mark(snapshot: snapshots.Snapshot, state: snapshots.State, done: list[str]) -> None:
    try:
        snapshot.mark(state, done)
    except OSError:
        # It then looks as if it had been cut off, which errs on the side of telling.
        return


def _recorded(ground: Ground, kind: str, detail: dict[str, Any], *, ledger_sound: bool) -> str:
    try:
        return recording.record(ground.state, kind, detail, ledger_sound=ledger_sound)
    except OSError as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def _alone(ground: Ground) -> Generator[None]:
    """Hold the daemon's own lock: none runs, and none can start meanwhile."""
    from hostwright.keeper.pidfile import DaemonLock

    try:
        lock = DaemonLock(ground.runtime, ground.state)
        lock.acquire()
    except HostError as error:
        if error.code != "already_running":
            raise
        raise HostError(
            f"{error.message} This repair needs it to be down. Nothing was changed.",
            fix="hostwright down, then the same again (or the repair `daemon`, where it hangs).",
            code="daemon_runs",
        ) from error
    try:
        yield
    finally:
        lock.release()
