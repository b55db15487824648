"""The tools, one module per group; each has a `register`."""
