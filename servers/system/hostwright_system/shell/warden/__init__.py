"""The process that watches over one command; see `supervise` for what it does and how.

Imports inside are relative: the server knows this package as `hostwright_system.shell.warden`, the
warden's own interpreter, which loads nothing else, as `warden`.
"""
