"""The egress gate: the only way out of a sandbox, to the names that its grant lists."""
