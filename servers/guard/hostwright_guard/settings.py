"""`[guard]` as this server reads it: a table of its own beside what the policy says there."""

from __future__ import annotations

from pydantic import Field

from hostwright_guard.sandbox.settings import SandboxSettings
from hostwright_kit.config import Section


class GuardSettings(Section):
    """What the owner may set for this server."""

    sandbox: SandboxSettings = Field(default=SandboxSettings(), description="Sandboxes.")
