"""What FastMCP does for every call although nothing can come of it, left out.

Only where it is certain that nothing can: what was never stored need not be looked up, and one
provider need not be asked in a task group of its own. Everything else is FastMCP's own. The tests
compare the answers of both ways, so a FastMCP that is built otherwise is noticed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import fastmcp
from fastmcp.server.context import Context
from fastmcp.server.providers import aggregate
from fastmcp.server.transforms import visibility
from fastmcp.utilities.async_utils import gather as _gather_all
from opentelemetry import trace

Rules = list[dict[str, Any]]
_gather: Callable[..., Awaitable[list[Any]]] = _gather_all
_stored_rules: Callable[[Context], Awaitable[Rules]] = visibility.get_visibility_rules


def make_lean() -> None:
    """Do so in this process from now on."""
    aggregate.gather = gather  # type: ignore[assignment]
    visibility.get_visibility_rules = visibility_rules
    skip_spans_that_nobody_records()
    load_jsonref_alone()


def load_jsonref_alone() -> None:
    """What resolves references within schemas, without what would fetch others over HTTP.

    FastMCP takes out all that point elsewhere before it asks, and the HTTP client takes a server
    longer to import than everything else that its first list needs.
    """
    if "jsonref" in sys.modules or "requests" in sys.modules:
        return
    # What `import` is told of a module that is not there.
    sys.modules["requests"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("jsonref")
    finally:
        del sys.modules["requests"]


async def gather(awaitables: Iterable[Awaitable[Any]], *, return_exceptions: bool = False) -> Any:
    """One is awaited where it is asked for; everything else is FastMCP's own affair."""
    if not return_exceptions:
        return await _gather(awaitables)
    rest = iter(awaitables)
    first = next(rest, None)
    if first is None:
        return []
    second = next(rest, None)
    if second is not None:
        return await _gather(_chained(first, second, rest), return_exceptions=True)
    try:
        return [await first]
    except Exception as error:  # noqa: BLE001 - it is the result
        return [error]


def _chained(
    first: Awaitable[Any], second: Awaitable[Any], rest: Iterable[Awaitable[Any]]
) -> Iterable[Awaitable[Any]]:
    yield first
    yield second
    yield from rest


async def visibility_rules(context: Context) -> Rules:
    """What a client has switched on or off for itself: nothing, while nobody has stored anything.

    FastMCP makes the store when it is first used, and looking for rules is such a use.
    """
    if context.fastmcp._state_storage is None:
        return []
    return await _stored_rules(context)


def skip_spans_that_nobody_records() -> None:
    """FastMCP opens several spans per call, a tenth of what a call costs, recorded or not.

    What is recorded is up to the provider that the server's own code has installed by now; without
    one nothing can be. The client's trace is passed on all the same. Who says what is to be done
    (FASTMCP_TELEMETRY_MODE) is obeyed.
    """
    said = fastmcp.settings.telemetry_mode != "native" or "FASTMCP_TELEMETRY_MODE" in os.environ
    if not said and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        fastmcp.settings.telemetry_mode = "propagation_only"
