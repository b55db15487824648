"""The zygote, begun before the daemon has imported itself: both take about a second, and each has a
core of its own to take it on.

`begin` is the first thing that the program of a daemon does, `take` is the nursery's. Every other
process of ours is on record before it exists; this one is only when it is taken over. It needs no
record until then, because it ends with this process in any case (PR_SET_PDEATHSIG, and the end of
its socket). Few imports, therefore standard library wherever it will do. Linux.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import NamedTuple

from hostwright.keeper import launch
from hostwright.keeper.inherited import MARK, for_zygote

NO_LIMITS = '{"cgroup": null, "rlimits": {}}'


class Begun(NamedTuple):
    """A zygote on its way, and our end of its socket."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    mark: str
    env: Mapping[str, str]


_begun: list[Begun] = []


def program(handle: int) -> tuple[str, ...]:
    """What is executed; `handle` is its end of the socket."""
    return (sys.executable, "-P", "-m", "hostwright.zygote", str(handle))


def begin(environ: Mapping[str, str] = os.environ) -> None:
    """Begin; when that cannot be, the nursery does it, or says why not."""
    if sys.platform != "linux" or _begun:
        return
    mark, env = str(uuid.uuid4()), for_zygote(environ)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = program(theirs.fileno())
        try:
            process = subprocess.Popen(
                (
                    *(sys.executable, "-I", "-S", launch.__file__),
                    *(str(os.getpid()), NO_LIMITS, argv[0], *argv),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={**env, MARK: mark},
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        except OSError:
            ours.close()
            return
    _begun.append(Begun(process, ours, mark, env))


def begun() -> bool:
    """Whether there is one that nobody has taken."""
    return bool(_begun)


def take(env: Mapping[str, str] | None) -> Begun | None:
    """The one that was begun, if it was begun with just this environment; another is ended."""
    if not _begun:
        return None
    found = _begun.pop()
    if found.env == env and found.process.poll() is None:
        return found
    found.sock.close()
    return None
