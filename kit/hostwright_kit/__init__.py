"""What every Hostwright server shares: the guard pipeline, the ledger, state and configuration.

The kit knows MCP and knows no domain. Read `guard.py` for the way of a call, `server.py` for how
tools are declared and `run.py` for how a server starts.
"""

from importlib.metadata import version

__version__ = version("hostwright-kit")
