"""What a run's answer looks like, and its record as a job. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from hostwright_guard.sandbox.gate.rules import Rules
from hostwright_kit.capture import StreamCapture
from hostwright_kit.jobs import JobOutcome


class NetworkAttempt(BaseModel, frozen=True):
    """A connection or a question for a name, as the gate saw it."""

    kind: Literal["tls", "http", "name", "more"]
    target: str
    verdict: Literal["opened", "allowed", "refused"]
    reason: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0


class SandboxResult(BaseModel, frozen=True):
    """How a run ended."""

    job_id: str = Field(description="Pages the full output (sandbox_output).")
    state: Literal["running", "ended"] = "ended"
    exit_code: int | None = Field(default=None, description="128 + N for signal N.")
    signal: str | None = None
    timed_out: bool = False
    cancelled: bool = False
    out_of_memory: bool = Field(default=False, description="The kernel ended something of it.")
    duration_seconds: float = 0.0
    stdout: StreamCapture | None = None
    stderr: StreamCapture | None = None
    network: tuple[NetworkAttempt, ...] = Field(default=(), description="What it tried.")
    omitted_attempts: int = 0
    limits_held_by: dict[str, str] = Field(default={}, description="Limit and what holds it.")


def shown(rules: Rules | None) -> tuple[NetworkAttempt, ...]:
    """What the gate saw, for a result."""
    return tuple(
        NetworkAttempt(
            kind=one.kind,
            target=one.target,
            verdict=one.verdict,
            reason=one.reason,
            sent_bytes=one.sent_bytes,
            received_bytes=one.received_bytes,
        )
        for one in (rules.attempts if rules else ())
    )


def outcome_of(result: SandboxResult) -> JobOutcome:
    """As the job's record tells it: succeeded is exit code 0 and nothing else."""
    error: str | None = None
    if result.timed_out:
        error = f"It was ended after its time, {result.duration_seconds:g} s."
    elif result.out_of_memory:
        error = "It used more memory than it was given."
    elif result.exit_code:
        error = f"It ended with exit code {result.exit_code}."
    succeeded = result.exit_code == 0 and not result.timed_out
    return JobOutcome(
        state="cancelled" if result.cancelled else "succeeded" if succeeded else "failed",
        exit_code=result.exit_code,
        error=error,
        detail=result.model_dump(mode="json", exclude={"stdout", "stderr"}),
    )
