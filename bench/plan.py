"""How long to measure: the whole run, or the quick look."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Plan(BaseModel, frozen=True):
    """Rounds and durations."""

    name: str
    start_rounds: int
    start_warm: bool = Field(description="Whether a round that is not counted comes before.")
    memory_rounds: int
    rounds: int = Field(description="Of calls, for each front and number of clients.")
    seconds: float = Field(description="One round of calls.")
    shell_seconds: int = Field(description="How long the command runs beside which others call.")
    shell_rounds: int
    ledger_rounds: int
    ledger_seconds: float
    verify_rounds: int
    ledger_entries: int = Field(description="To be verified.")
    ledger_kills: int
    suite_rounds: int
    suite_clients: int = Field(description="With a process per server; scaled up to the promise.")
    kills: int = Field(description="Of a server, each long after the one before.")
    cycles: int = Field(description="Of kill and restart, under load.")
    cycle_seconds: float = Field(description="At most for all of them.")
    soak_seconds: float


FULL = Plan(
    name="full",
    start_rounds=4,
    start_warm=True,
    memory_rounds=2,
    rounds=5,
    seconds=0.7,
    shell_seconds=5,
    shell_rounds=2,
    ledger_rounds=5,
    ledger_seconds=0.7,
    verify_rounds=2,
    ledger_entries=1_000_000,
    ledger_kills=150,
    suite_rounds=2,
    suite_clients=10,
    kills=25,
    cycles=2_000,
    cycle_seconds=600,
    soak_seconds=600,
)
QUICK = Plan(
    name="quick",
    start_rounds=1,
    start_warm=False,
    memory_rounds=1,
    rounds=2,
    seconds=0.2,
    shell_seconds=2,
    shell_rounds=1,
    ledger_rounds=2,
    ledger_seconds=0.3,
    verify_rounds=1,
    ledger_entries=20_000,
    ledger_kills=10,
    suite_rounds=1,
    suite_clients=1,
    kills=3,
    cycles=15,
    cycle_seconds=20,
    soak_seconds=10,
)
