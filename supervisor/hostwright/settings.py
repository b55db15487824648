"""`[gateway]` of the configuration."""

from __future__ import annotations

from pydantic import Field, model_validator

from hostwright_kit.config import Section
from hostwright_kit.sockets import is_loopback

DEFAULT_PORT = 18790


class GatewaySettings(Section):
    """Where the gateway listens and whom it lets in."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="0: any free port.")
    require_token: bool = Field(
        default=True, description="Whether TCP clients need a bearer token (hostwright token)."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Further names that clients may use in the Host header."
    )

    @model_validator(mode="after")
    def _closed_beyond_loopback(self) -> GatewaySettings:
        if not self.require_token and not is_loopback(self.host):
            raise ValueError(
                f"require_token = false with host = {self.host!r} would let the network in"
            )
        return self
