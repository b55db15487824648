"""A daemon that becomes its own successor: same pid, new code, new configuration, same sockets.

execve(2) keeps the process and every descriptor that may be inherited. What is open (listeners,
clients, the lock) is written down in a file without a name, whose descriptor the successor finds in
its environment; everything else is closed by the kernel. So whoever started the daemon (a shell,
systemd) notices nothing, and whoever connects meanwhile waits in the listeners' queues.

Before any of this, the new code is asked whether it would come up (`successor.py`): a mistake in
the configuration leaves the daemon that runs as it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, cast

import msgspec

from hostwright.gateway.gateway import Handed
from hostwright.listeners import HandedListeners
from hostwright.settings import GatewaySettings
from hostwright.status import ESTATE_VARIABLE
from hostwright_kit.errors import HostError

FORMAT = 1
CHECK_SECONDS = 60.0
GRACE_SECONDS = 10.0
MAX_GRACE_SECONDS = 600.0


class Estate(msgspec.Struct, forbid_unknown_fields=True):
    """What one daemon leaves to the next: descriptors, and what belongs to them."""

    locks: list[int]
    listeners: HandedListeners
    clients: Handed
    replaced: int
    """How often the process has become its own successor."""
    format: int = FORMAT

    def descriptors(self) -> Iterator[int]:
        """All of them."""
        yield from self.locks
        yield from (self.listeners.tcp, self.listeners.gateway, self.listeners.connect)
        for front in self.clients.http:
            yield from front
        for line in self.clients.lines:
            yield from (fd for fd in (line.source, line.sink, line.control) if fd is not None)


def ask_successor(settings: GatewaySettings, environ: Mapping[str, str]) -> str:
    """The version that would take over. `HostError` says why it would not come up. Blocking."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "hostwright.successor",
        settings.host,
        str(settings.port),
    ]
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
        said = cast("dict[str, Any]", json.loads(done.stdout)) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise _refused(f"It could not be asked: {error}") from error
    if said is None:
        raise _refused(f"It does not start:\n{done.stderr.strip()[-4000:]}")
    if said["format"] != FORMAT:
        raise HostError(
            f"Version {said['version']} cannot take over from the one that runs.",
            fix="Start anew: `hostwright down`, then `hostwright up`.",
            code="successor_refused",
        )
    if said["problems"]:
        raise _refused("\n".join(said["problems"]))
    return str(said["version"])


def _refused(why: str) -> HostError:
    return HostError(
        f"The new daemon would not come up, so the old one goes on as it was. {why}",
        fix="Correct that (`hostwright check` finds all of it), then try again.",
        code="successor_refused",
    )


def succeed(estate: Estate, environ: Mapping[str, str]) -> NoReturn:
    """Become the successor. Only from the main thread, whose end the kernel tells our servers."""
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(estate))
        file.seek(0)
        for fd in (file.fileno(), *estate.descriptors()):
            os.set_inheritable(fd, True)
        # A reload that is asked for before the successor listens to signals must not end it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        command = [sys.executable, *sys.orig_argv[1:]]
        given = {**environ, ESTATE_VARIABLE: str(file.fileno())}
        try:
            os.execve(sys.executable, command, given)  # noqa: S606 - becoming it is the point
        except OSError as error:
            raise HostError(
                f"{sys.executable} cannot be executed: {error.strerror}. This daemon has ended.",
                fix="Install it again, then `hostwright up`.",
                code="not_replaced",
            ) from error


def inherited() -> Estate | None:
    """What an earlier program of this process has left; None in a process that was just started."""
    number = os.environ.pop(ESTATE_VARIABLE, "")
    if not number.isdecimal():
        return None
    with os.fdopen(int(number), "rb") as file:
        estate = msgspec.json.decode(file.read(), type=Estate)
    for fd in estate.descriptors():
        os.set_inheritable(fd, False)
    return estate
