"""What every Hostwright server shares: the guard pipeline, the ledger, state and configuration.

The kit knows MCP and knows no domain. Read `guard.py` for the way of a call, `server.py` for how
tools are declared and `run.py` for how a server starts.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`__version__`, looked up when it is wanted: not every program of ours wants it."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - see above

    found = globals()[name] = version("hostwright-kit")
    return found
