"""Who is calling: the client program, the user it runs as, the way it came, the token it showed.

A client's name is what the client says of itself; the uid and the token are checked. Through the
gateway the supervisor vouches for the caller: it repeats what it saw in the request's `_meta`
beside a key that only it and this process know (see `link_key.py`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

TOKEN_PREFIX = "token:"  # noqa: S105 - a prefix of names
Transport = Literal["stdio", "http", "socket", "terminal"]


class Caller(BaseModel):
    """The identity that policy judges, approvals bind and the ledger records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str = "unknown"
    version: str = ""
    uid: int | None = None
    transport: Transport = "stdio"
    token: str | None = None
    via_gateway: bool = False

    @property
    def name(self) -> str:
        """The short name that is shown and filtered by: the token's, else the client's."""
        return self.token or self.client

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a policy rule may match: `token:NAME` is proven, a client's is claimed."""
        claimed = self.client
        if claimed.lower().startswith(TOKEN_PREFIX):
            # Or a client could call itself what only a token proves.
            claimed = f"client:{claimed}"
        return (f"{TOKEN_PREFIX}{self.token}", claimed) if self.token else (claimed,)

    @property
    def bound(self) -> dict[str, str | int | None]:
        """What an approval binds. Not the version: an update must not void a grant."""
        return {
            "client": self.client,
            "uid": self.uid,
            "transport": self.transport,
            "token": self.token,
        }
