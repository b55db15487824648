"""Making and keeping an index: what there is, what changed, what it says, written in one piece.

Everything here runs in a worker process that ends (`worker`), started by `runner`.
"""
