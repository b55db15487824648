"""`rescue`: what is wrong, without the daemon and without a model, and the vetted ways out."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.text import Text

from hostwright.cli.output import EXIT_FAILED, cell, done, make_table, out, print_json
from hostwright.cli.pin import ask_pin
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

if TYPE_CHECKING:
    from hostwright.rescue.diagnosis import Check
    from hostwright.rescue.findings import Finding, Repair
    from hostwright.rescue.ground import Ground

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def register(app: App) -> None:
    """Add the commands."""
    group = App(name="rescue", help="Find what is broken, and repair it; needs no daemon.")
    group.default(rescue)
    group.command(repair)
    app.command(group)


def rescue(*, json: Json = False) -> None:
    """Look at everything that a start needs: configuration, files, databases, locks, port, clock.

    Works with the daemon down and with a broken configuration, and changes nothing. Exit code 1
    when something is an error.
    """
    from hostwright.rescue.diagnosis import diagnose
    from hostwright.rescue.findings import worst_first
    from hostwright.rescue.ground import Ground

    found = worst_first(one for _, one in diagnose(Ground(resolve_paths())))
    ok = all(one.severity != "error" for one in found)
    if json:
        print_json({"ok": ok, "findings": [one.shown() for one in found]})
    else:
        _show(found)
    if not ok:
        raise SystemExit(EXIT_FAILED)


def repair(
    repair_id: str,
    /,
    *,
    yes: Annotated[
        bool, Parameter(negative="", help="Confirm a repair for which no PIN is asked.")
    ] = False,
    snapshots: Annotated[
        Path | None,
        Parameter(help="Copy into this folder instead; `undo:…` then does not find it."),
    ] = None,
    json: Json = False,
) -> None:
    """Carry out one repair that `hostwright rescue` offers; the PIN on the terminal confirms it.

    What it changes is copied first; `undo:…` puts that back. Every repair is put on record. Exit
    code 1 when it was not begun or did not help.

    Parameters
    ----------
    repair_id
        As `hostwright rescue` names it; `config:COPY` puts an older good configuration back.
    """
    from hostwright.rescue import diagnosis
    from hostwright.rescue.ground import Ground
    from hostwright.rescue.repairs import carry_out

    ground = Ground(resolve_paths())
    found = diagnosis.diagnose(ground)
    check, finding = _wanted(ground, found, repair_id)
    if finding.repair is None:
        raise ValueError(f"{finding.id} has no repair")
    if not json:
        out.print(cell(finding.message))
        out.print(cell(f"This will {finding.repair.title}."))
    _confirm(ground.state, finding.repair, yes=yes)
    with _one_at_a_time(ground.state):
        outcome = carry_out(
            ground,
            finding,
            lambda again: diagnosis.run(finding.area, check, again),
            top=snapshots,
            ledger_sound=diagnosis.ledger_sound(one for _, one in found),
        )
    if json:
        print_json(outcome.shown())
    elif not outcome.problem:
        done(f"Repaired: {'; '.join(outcome.done) or outcome.repair}.")
        if outcome.snapshot is not None:
            out.print(cell(f"What was there before: {outcome.snapshot}", style="dim"))
        out.print(cell(f"On record: {outcome.recorded}", style="dim"))
    if outcome.problem:
        raise HostError(
            f"{repair_id} failed: {outcome.problem}",
            fix="`hostwright rescue` shows how it is now, and how what was changed is put back.",
            code="not_repaired",
        )


def _wanted(
    ground: Ground, found: Sequence[tuple[Check, Finding]], repair_id: str
) -> tuple[Check, Finding]:
    from hostwright.rescue import check_config
    from hostwright.rescue.findings import Finding

    for check, finding in found:
        if finding.repair is not None and finding.repair.id == repair_id:
            return check, finding
    if repair_id.startswith("config:"):
        older = check_config.restore(ground, repair_id.removeprefix("config:"))
        if older is not None:
            message = "An older configuration is wanted."
            wanted = Finding(repair_id, check_config.AREA, "note", message, repair=older)
            return check_config.check_config, wanted
    offered = sorted({one.repair.id for _, one in found if one.repair is not None})
    raise HostError(
        f"Nothing here has the repair {repair_id!r}.",
        fix=f"Offered now: {', '.join(offered) or 'none'} (hostwright rescue).",
        code="not_found",
    )


def _confirm(state_dir: Path, repair: Repair, *, yes: bool) -> None:
    from hostwright_kit.operator_pin import OperatorPin

    if repair.pin:
        OperatorPin(state_dir).verify(ask_pin("PIN, to do this: "))
    elif not yes:
        raise HostError(
            "The PIN cannot be read before this is done, so it is confirmed by an option.",
            fix=f"hostwright rescue repair {repair.id} --yes",
            code="not_confirmed",
        )


@contextmanager
def _one_at_a_time(state_dir: Path) -> Generator[None]:
    """Two owners at two terminals do not repair into each other."""
    try:
        handle = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # Only its mode can be repaired in this state, and that is the same for both.
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HostError(
                "Another repair is being carried out.", fix="Wait until it has ended.", code="busy"
            ) from error
        yield
    finally:
        os.close(handle)


def _show(found: Sequence[Finding]) -> None:
    table = make_table("", "area", "finding", "repair")
    for one in found:
        words = cell(one.message)
        for line in one.evidence:
            words += Text("\n│ ", style="dim") + cell(line, style="dim")
        if one.fix:
            words += Text("\nfix: ", style="bold") + cell(one.fix)
        repair_id = one.repair.id if one.repair else ""
        severity = Text(one.severity, style=COLOURS[one.severity])
        table.add_row(severity, one.area, words, cell(repair_id))
    out.print(table)
    counts = Counter(one.severity for one in found)
    parts = [f"[{COLOURS[one]}]{counts[one]} {one}[/]" for one in COLOURS if counts[one]]
    out.print(f"\n{', '.join(parts)}")
    if any(one.repair for one in found):
        out.print("Repair: hostwright rescue repair ID")
