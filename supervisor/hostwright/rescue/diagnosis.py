"""All checks in order, each by name, so that a repair can have its own check made once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from hostwright.rescue import (
    check_config,
    check_files,
    check_processes,
    check_time,
    repairs,
    snapshots,
)
from hostwright.rescue.findings import Finding, Severity, run_check
from hostwright.rescue.ground import Ground

LEDGER_FILE = "ledger.db"
LEDGER = f"database:{LEDGER_FILE}"
CHAIN = "ledger:chain"

Check = Callable[[Ground], Iterable[Finding]]


def check_databases(ground: Ground) -> Iterator[Finding]:
    """Whether each opens, is of a schema that we know, and is sound; then the ledger's chain.

    No repair guesses.
    """
    from hostwright.checkup.machine import check_ledger
    from hostwright.checkup.storage import check_databases as look

    opens = True
    for found in look(ground.paths):
        opens = opens and (found.what != LEDGER_FILE or found.state == "ok")
        yield Finding(
            f"database:{found.what}",
            "databases",
            "ok" if found.state == "ok" else "error",
            f"{found.what}: {found.message}",
            fix=found.fix,
        )
    for found in check_ledger(ground.paths) if opens else ():
        severity = {"ok": "ok", "degraded": "note"}.get(found.state, "error")
        message = f"The ledger's chain: {found.message}"
        yield Finding(CHAIN, "databases", cast("Severity", severity), message, fix=found.fix)


def check_interrupted(ground: Ground) -> Iterator[Finding]:
    """Repairs that were cut off or failed: what was there before can be put back."""
    for one in snapshots.all_in(ground.state / snapshots.FOLDER):
        if one.state in snapshots.OPEN:
            how = "was cut off" if one.state == "ready" else "failed"
            yield Finding(
                f"undo:{one.id}",
                "repairs",
                "warning",
                f"The repair {one.repair}, begun {one.at}, {how}.",
                evidence=(str(one.folder),),
                repair=repairs.undo(ground, one),
            )


CHECKS: tuple[tuple[str, Check], ...] = (
    ("installation", lambda _: check_config.check_installation()),
    ("files", check_files.check_folders),
    ("disk", check_files.check_disk),
    ("configuration", check_config.check_config),
    ("databases", check_databases),
    ("panic", check_processes.check_panic),
    ("daemon", check_processes.check_daemon),
    ("locks", check_processes.check_locks),
    ("orphans", check_processes.check_orphans),
    ("port", check_processes.check_port),
    ("repairs", check_interrupted),
    ("clock", check_time.check_clock),
    ("certificates", check_time.check_certificates),
    ("crash", check_time.check_crash),
)


def diagnose(ground: Ground) -> list[tuple[Check, Finding]]:
    """What every check finds, each with the check that found it. Changes nothing."""
    return [(check, one) for area, check in CHECKS for one in run(area, check, ground)]


def run(area: str, check: Check, ground: Ground) -> list[Finding]:
    """One check; what it raises is its finding."""
    return list(run_check(area, lambda: check(ground)))


def ledger_sound(findings: Iterable[Finding]) -> bool:
    """Whether a repair can be put on record there."""
    return any(one.id == LEDGER and one.severity == "ok" for one in findings)
