"""The owner's decision about a waiting call, however it is made: `approve`, `deny`, `top`.

One path: the PIN is checked (and wrong ones counted, see `operator_pin.py`), then the approval's
state changes, on record before it takes effect. Works without a daemon. Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

from hostwright_kit.approvals import Approval, Approvals
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import resolve_paths
from hostwright_kit.runtime import open_runtime


@contextmanager
def open_approvals() -> Generator[Approvals]:
    """The approvals of this installation."""
    runtime = open_runtime("hostwright")
    try:
        yield runtime.approvals
    finally:
        runtime.ledger.close()
        runtime.approvals.close()


def decide(
    approvals: Approvals,
    approval_id: str,
    pin: str,
    *,
    grant: bool,
    standing: Callable[[Approval], object] = lambda _: None,
) -> Approval:
    """Grant or deny it; raises `HostError` when the PIN is wrong or it waits no longer.

    `standing` writes a rule for calls like this one, once the PIN was right and before this one is
    decided: when it cannot be written, nothing is decided either.
    """
    OperatorPin(resolve_paths().ensure().state_dir).verify(pin)
    found = approvals.get(approval_id)
    if found.state == "pending":
        standing(found)
    act = approvals.grant if grant else approvals.deny
    return act(approval_id, via="terminal", by=f"uid {os.getuid()}")
