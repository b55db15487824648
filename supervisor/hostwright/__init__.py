"""The supervisor: keeps MCP servers alive behind one gateway, and the `hostwright` command.

It knows no domain: servers are found by manifests and by the entry-point group
`hostwright.servers`, never imported.
"""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is wanted: that takes longer than the rest of `connect`."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - see above

    found = globals()[name] = version("hostwright")
    return found
