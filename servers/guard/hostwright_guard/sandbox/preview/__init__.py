"""Dry runs: what a command would change in a folder, kept aside, and applied if it is approved."""
