"""The nursery: waits for requests and forks a warden for each.

It has one thread, a few megabytes, and nothing in it that a sandbox must not see. Messages on its
socket (SOCK_SEQPACKET, from the server and nobody else):

    "start" + descriptors    fork a warden (see `life.py` for what the descriptors are)
    (closed)                 the server is gone: wait for the wardens, who notice by themselves
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

from .life import Warden

MAX_DESCRIPTORS = 250


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Ended wardens are not waited for: the server hears from them over their own sockets.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 16, MAX_DESCRIPTORS)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            with contextlib.suppress(BrokenPipeError):
                Warden(descriptors).run()
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
