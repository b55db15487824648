"""The tools of the system server, one module per group. Thin: types, descriptions, one call."""
