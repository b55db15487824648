"""`[guard.sandbox]` of the configuration."""

from __future__ import annotations

import ssl
from pathlib import Path

from pydantic import Field, field_validator

from hostwright_guard.sandbox.gate.names import canonical_host
from hostwright_kit.config import Section


class SandboxSettings(Section):
    """What the owner may set for sandboxes."""

    hosts: dict[str, str] = Field(
        default={},
        description="Addresses for names, by the owner's word: the gate dials exactly these, also "
        "private ones, and asks no resolver.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) that the gate trusts beside the system's, where it adds a "
        "credential and so speaks TLS itself.",
    )

    preview_roots: tuple[Path, ...] = Field(
        default=(),
        description="Folders that dry runs (sandbox_preview) may look into without a token. "
        "Empty: the home and working folder.",
    )

    @field_validator("hosts")
    @classmethod
    def _canonical(cls, hosts: dict[str, str]) -> dict[str, str]:
        return {canonical_host(name): address for name, address in hosts.items()}

    def roots(self) -> tuple[Path, ...]:
        """Where dry runs may look."""
        return self.preview_roots or (Path.home(), Path.cwd())

    def tls_context(self) -> ssl.SSLContext:
        """How the gate checks whom it gives a credential to."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context
