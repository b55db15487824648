"""Servers that start by fork from a warmed parent.

`nursery.py` is the daemon's side, the rest runs in the zygote's own process: `__main__` and
`parent` (the loop that forks), `warm` (what is paid once), `birth` (what a child must not share).
The protocol between them and what it does not protect: docs/zygote.md.
"""
