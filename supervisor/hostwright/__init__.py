"""The supervisor: keeps MCP servers alive behind one gateway, and the `hostwright` command.

It knows no domain: servers are found by manifests and by the entry-point group
`hostwright.servers`, never imported.
"""

from importlib.metadata import version

__version__ = version("hostwright")
