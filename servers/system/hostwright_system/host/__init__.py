"""Facts about one machine, and the one act that goes with them (a signal to a process).

Plain Python: nothing here knows MCP. Every module reads the kernel (`/proc`, `/sys`), a package
database or psutil and returns frozen, typed rows. Only `signals` changes anything.

Entry points: `health.system_health`, `query.system_query`, `discover.system_discover`,
`network.network_info`, `signals.process_signal`.
"""
