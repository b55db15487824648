"""The gateway: every client of every transport onto one connection per server.

`link.py` speaks to one server, `catalog.py` knows what all of them offer, `edge.py` speaks to
clients in both protocol eras, `listeners.py` owns the sockets.
"""
