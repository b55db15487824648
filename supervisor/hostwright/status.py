"""What the daemon and the command line say to each other, and where.

Apart from the daemon itself, so that a command starts without importing a gateway.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from hostwright.keeper.status import ServerStatus
from hostwright_kit.control_socket import GATEWAY_SOCKET
from hostwright_kit.panic import Panic

__all__ = ["GATEWAY_SOCKET"]

CONNECT_SOCKET = "connect.sock"
ESTATE_VARIABLE = "HOSTWRIGHT_ESTATE"
"""Where a daemon's successor finds what it is left; see `succession.py`."""


class DaemonStatus(BaseModel, frozen=True):
    """What `hostwright status` shows."""

    pid: int
    version: str
    uptime_seconds: float
    replaced: int = Field(
        default=0, description="How often it was replaced without an end (up --reexec)."
    )
    url: str = Field(description="The gateway's address for HTTP clients.")
    require_token: bool
    profile: str = Field(description="Policy profile.")
    terminal_approval: bool = Field(description="Whether a PIN is set, so the owner can grant.")
    pending_approvals: int
    ledger_problem: str | None
    problems: list[str] = Field(description="What is wrong with manifests.")
    panic: Panic | None = Field(default=None, description="Who stopped everything, if it is.")
    servers: list[ServerStatus]


class Replacement(BaseModel, frozen=True):
    """A new program is about to go on in the daemon's process."""

    pid: int = Field(description="The same as before.")
    version: str = Field(description="Of the new program.")
    replaced: int = Field(description="What the status will say once it is there.")
