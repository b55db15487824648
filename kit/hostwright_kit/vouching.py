"""The names under which a caller's identity travels, known to both ends of it.

Apart from `identity.py`, which reads a request of FastMCP's: the gateway needs only the names.
"""

from __future__ import annotations

ACTOR_META = "dev.hostwright/actor"
"""In `_meta`: who calls, as the gateway saw it, beside the link key."""
ERROR_META = "dev.hostwright/error"
"""In the `_meta` of a result: the error's code, message and fix, for programs."""
TOKEN_SCOPE = "hostwright.token"  # noqa: S105 - a key of the ASGI scope, not a secret
ENTRY_POINT_GROUP = "hostwright.servers"
LINK_FD_VARIABLE = "HOSTWRIGHT_LINK_FD"
"""Names the descriptor of the inherited pipe that the link key is read from."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest line, the longest HTTP body."""
TOKEN_VARIABLE = "HOSTWRIGHT_HTTP_TOKEN"  # noqa: S105 - the name of a variable
