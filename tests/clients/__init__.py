"""Real third-party MCP clients against the real servers and the real gateway."""
