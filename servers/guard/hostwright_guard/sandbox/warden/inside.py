"""What is done from inside a sandbox, by a child of its warden that joins the namespaces.

It covers what is not to be seen, waits for the word what network there is to be, listens where
everything that goes out arrives, hands the listeners over, and is gone before the command begins.

    warden → child   null, or {"tcp": [port, …], "ipv6": bool}     (closed: it goes away)
    child → warden   "ok" when all is covered; "ok" + descriptors when it listens; else an errno
"""

from __future__ import annotations

import json
import os
import socket

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def serve(pid: int, masks: list[str], answer: socket.socket) -> NoReturn:
    """Never returns."""
    try:
        kernel.join(pid)
        for path in masks:
            kernel.cover(path)
        answer.send(b"ok")
        if message := answer.recv(65_536):
            network = json.loads(message)
            made = _listeners(network["tcp"], network["ipv6"]) if network else []
            socket.send_fds(answer, [b"ok"], [one.fileno() for one in made])
    except OSError as error:
        answer.send(str(error.errno).encode())
    finally:
        os._exit(0)


def _listeners(ports: list[int], ipv6: bool) -> list[socket.socket]:
    kernel.take_all_addresses()
    made: list[socket.socket] = []
    for port in ports:
        listener = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET)
        if ipv6:
            # One socket for both families: IPv4 shows as ::ffff:a.b.c.d.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if ipv6 else "", port))
        listener.listen(256)
        made.append(listener)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("", 53))
    return [*made, names]
