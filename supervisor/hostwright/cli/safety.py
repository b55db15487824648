"""`panic` and `lift`: the owner stops everything at once, and lets it go on.

The stop is a file (`hostwright_kit/panic.py`), written before anybody is asked, so it holds also
when the daemon hangs or none runs.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from hostwright.cli.control import Control
from hostwright.cli.output import NoDaemonError, cell, done, err, out, print_json
from hostwright.cli.pin import ask_pin
from hostwright_kit.errors import HostError
from hostwright_kit.panic import (
    MAX_REASON_CHARS,
    Declared,
    Panic,
    declare,
    read_panic,
    remove,
)
from hostwright_kit.paths import Paths, resolve_paths

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def register(app: App) -> None:
    """Add the commands."""
    app.command(panic)
    app.command(lift)


def panic(reason: str = "", *, json: Json = False) -> None:
    """Stop everything at once: every server, job and call, until you lift it.

    The gateway and the ledger stay, and refuse every call with the reason. Needs no PIN and no
    daemon; holds over restarts. Exit code 1 when a process is left that could not be ended.
    """
    paths = resolve_paths().ensure()
    wanted = " ".join(reason.split())[:MAX_REASON_CHARS]
    declared = declare(paths.state_dir, by="owner", via="terminal", reason=wanted)
    result = _carried_out(paths, declared, wanted)
    if json:
        print_json(result)
    else:
        done(f"Stopped. {declared.panic.sentence()}.")
        if result["stopped"]:
            done(f"Ended: {', '.join(result['stopped'])}.")
        for problem in result["problems"]:
            err.print(cell(f"! {problem}", style="yellow"))
        out.print("It holds until you lift it: hostwright lift")
    if result["left"]:
        raise HostError(
            f"Processes of {', '.join(result['left'])} could not be ended.",
            fix="`hostwright rescue` names them; `hostwright down` ends the supervisor as well.",
            code="not_stopped",
        )


def lift(*, json: Json = False) -> None:
    """Lift a panic: what ran before is started again. Asks for the PIN on the terminal."""
    paths = resolve_paths().ensure()
    found = read_panic(paths.state_dir)
    if found is None and not json:
        out.print("No record of a panic is here; the daemon may hold one.")
    elif found is not None and not json:
        out.print(cell(f"{found.sentence()}."))
    pin = ask_pin("PIN: ")
    try:
        result = Control().post("/control/lift", {"pin": pin})
    except NoDaemonError:
        result = {"panic": _lift_alone(paths, pin).model_dump(mode="json")}
    if json:
        print_json(result)
    else:
        done("Lifted. What ran before is started again (hostwright status).")


def _carried_out(paths: Paths, declared: Declared, reason: str) -> dict[str, Any]:
    """Have the daemon end everything; without one, put it on record here."""
    body = {"by": "owner", "via": "terminal", "reason": reason}
    alone: dict[str, Any] = {
        "panic": declared.panic.model_dump(mode="json"),
        "new": declared.new,
        "stopped": [],
        "left": [],
        "problems": [declared.undurable] if declared.undurable else [],
    }
    try:
        return {**Control().post("/control/panic", body), "new": declared.new}
    except NoDaemonError:
        if declared.new:
            alone["problems"] += _recorded_alone(declared.panic)
    except HostError as error:
        # It sees the file by itself, if it sees anything.
        alone["problems"].append(f"{error.message} End it with `hostwright rescue`.")
    return alone


def _recorded_alone(panic: Panic) -> list[str]:
    from hostwright.panicking import panic_entry
    from hostwright_kit.runtime import open_runtime

    try:
        runtime = open_runtime("hostwright")
    except HostError as error:
        return [f"It is not on record: {error.message}"]
    try:
        runtime.ledger.append(panic_entry(panic))
    except HostError as error:
        return [f"It is not on record: {error.message}"]
    finally:
        runtime.ledger.close()
        runtime.approvals.close()
    return []


def _lift_alone(paths: Paths, pin: str) -> Panic:
    from hostwright.panicking import lifted_entry, not_stopped
    from hostwright_kit.ledger import Ledger
    from hostwright_kit.operator_pin import OperatorPin
    from hostwright_kit.runtime import LEDGER_FILE

    OperatorPin(paths.state_dir).verify(pin)
    panic = read_panic(paths.state_dir)
    if panic is None:
        raise not_stopped()
    ledger = Ledger(paths.state_dir / LEDGER_FILE)
    try:
        # What cannot be recorded is not done.
        ledger.append(lifted_entry(panic))
    finally:
        ledger.close()
    remove(paths.state_dir)
    return panic
