"""The keeper: starts servers, watches them, restarts them, and leaves nothing of them behind.

`machine` (the life of a server as a table) · `server` (drives it) · `keeper` (all of them) ·
`child` (one process) · `processes` (whose process is whose) · `records`, `pidfile` (on disk) ·
`backoff` · `environment` · `logs` · `status` (what it tells). Knows no MCP.
"""
