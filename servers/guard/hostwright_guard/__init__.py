"""The guard as MCP tools: what waits for the owner, which secrets exist, what the ledger proves."""
