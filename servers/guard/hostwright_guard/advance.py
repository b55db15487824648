"""Asking in advance: the very request that a call would make by itself, made before it.

The call is put together as the server that will carry it out would: with its folder, its traits of
the tool and the same caller, so that the digest is the same. A server that is not ours is guarded
by the daemon, which knows no more of its tools than the owner's manifest says; here they count as
the worst, as an unknown tool does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.errors import HostError
from hostwright_kit.served import GATEWAY, ToolTraits, find_served, served_names


def call_in_advance(
    state_dir: Path, caller: Caller, server: str, tool: str, arguments: Mapping[str, Any]
) -> Call:
    """The call as it will be judged. Raises when there is no such server or tool. Blocking."""
    served = find_served(state_dir, server)
    if served is None:
        served = find_served(state_dir, GATEWAY)
        if served is None or server not in served.servers:
            raise _unknown("server", server, [*served_names(state_dir), *_behind(state_dir)])
        traits = ToolTraits()
    elif (traits := served.tools.get(tool)) is None:
        raise _unknown(f"tool of {server}", tool, sorted(served.tools))
    return Call(
        caller=caller,
        server=server,
        tool=tool,
        arguments=arguments,
        effect=traits.effect_of(arguments),
        open_world=traits.reaches_out(arguments),
        secret_names=traits.secret_names,
        overwrites=traits.overwrites,
        in_panic=traits.in_panic,
        folder=served.folder,
    )


def _behind(state_dir: Path) -> tuple[str, ...]:
    served = find_served(state_dir, GATEWAY)
    return served.servers if served else ()


def _unknown(kind: str, name: str, known: list[str]) -> HostError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:10]
    return HostError(
        f"No {kind} is called {name!r} here.",
        fix=f"Use the server's own name for it; known: {', '.join(near) or 'none yet'}.",
        code="not_found",
    )
