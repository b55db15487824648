"""Reading the caller off an MCP request.

stdio: the client is whoever started us, so it has our uid. HTTP: the name of the bearer token, if
one was shown. Behind the gateway: what the supervisor saw, believed only with the link key that
the supervisor gave this very process over an inherited pipe.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import Any, cast

from fastmcp.server.context import Context
from fastmcp.server.dependencies import get_http_request
from pydantic import ValidationError

from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.runtime import Runtime
from hostwright_kit.vouching import ACTOR_META, TOKEN_SCOPE


def identify(ctx: Context, runtime: Runtime) -> Caller:
    """Who is calling. Raises when somebody claims to be the gateway and is not."""
    request = ctx.request_context
    meta: Mapping[str, Any] = (request.meta if request else None) or {}
    if (actor := meta.get(ACTOR_META)) is not None:
        return _from_gateway(actor, runtime)
    params = ctx.session.client_params
    return Caller(
        client=_plain(params.client_info.name, 200) if params else "unknown",
        version=_plain(params.client_info.version, 100) if params else "",
        uid=os.getuid() if runtime.transport in ("stdio", "socket") else None,
        transport=runtime.transport,
        token=_token(runtime),
    )


def actor_meta(caller: Caller, link_key: str) -> dict[str, Any]:
    """What the gateway puts into `_meta` for `identify` to read."""
    return {"key": link_key, "caller": caller.model_dump(exclude_none=True)}


def _from_gateway(actor: Any, runtime: Runtime) -> Caller:
    fields = cast("Mapping[str, Any]", actor) if isinstance(actor, Mapping) else {}
    key = fields.get("key")
    if (
        runtime.link_key is None
        or not isinstance(key, str)
        or not hmac.compare_digest(key.encode(), runtime.link_key.encode())
    ):
        raise HostError(
            f"The request claims an identity ({ACTOR_META}) that only the gateway may vouch for.",
            fix="Leave that field out.",
            code="identity_forged",
        )
    try:
        caller = Caller.model_validate(fields.get("caller"))
    except ValidationError as error:
        raise HostError(
            "The gateway sent a caller that cannot be read.",
            fix="Run the same version of hostwright and of this server.",
            code="identity_unreadable",
        ) from error
    return caller.model_copy(update={"via_gateway": True})


def _plain(text: str, limit: int) -> str:
    """A stranger's word about itself, fit for the owner's prompt: no line breaks, no controls."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:limit])


def _token(runtime: Runtime) -> str | None:
    if runtime.transport != "http":
        return None
    name = get_http_request().scope.get(TOKEN_SCOPE)
    return name if isinstance(name, str) else None
