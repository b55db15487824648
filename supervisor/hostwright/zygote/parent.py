"""The zygote's loop: takes descriptors from the daemon, forks, tells the pid.

One message is one packet of JSON with descriptors beside it, over a SOCK_SEQPACKET pair inherited
from the daemon (docs/zygote.md). It never reads what a server is given (see `job.py`).

A child is forked twice over: the one in between ends at once, so that the kernel hands the child to
the daemon (PR_SET_CHILD_SUBREAPER), which then is its parent in every sense: it waits for it, and
its death kills it. What happens to the zygote is nothing to its children.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hostwright.zygote import warm
from hostwright.zygote.birth import PR_SET_PDEATHSIG, Marker, become
from hostwright.zygote.job import STALE, Job

MAX_PACKET = 64 * 1024
MAX_DESCRIPTORS = 253  # SCM_MAX_FD
REAP_SECONDS = 0.005
ORPHANED_SECONDS = 0.0002


class Parent:
    """The process that forks; a template is a second one, forked from the first."""

    def __init__(self, control: int, marker: Marker) -> None:
        self._control = socket.socket(fileno=control)
        self._marker = marker
        self._fingerprint = warm.Fingerprint()
        self._templates: list[int] = []
        self._between: dict[int, int] = {}
        """Processes between us and a server, and the number of the request each is for."""
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def ready(self, **facts: Any) -> None:
        """Tell that forking may begin."""
        self._say(ready=True, **facts)

    def names(self) -> list[str]:
        """The entry points to be loaded, which is the first that the daemon says; waits for it."""
        packet = self._control.recv(MAX_PACKET)
        if not packet:
            os._exit(0)
        names: list[str] = json.loads(packet)["names"]
        return names

    def serve(self) -> Job:
        """Fork on demand. Returns in a child, never here; ends when the daemon hangs up."""
        while True:
            while self._between and not select.select([self._control], [], [], REAP_SECONDS)[0]:
                self._reap()
            packet, handles, _, _ = socket.recv_fds(self._control, MAX_PACKET, MAX_DESCRIPTORS)
            if not packet:
                self._end()
            request = json.loads(packet)
            if "preload" in request:
                self._branch(request["preload"], handles)
            elif (job := self._deliver(request["id"], handles)) is not None:
                return job

    def _deliver(self, number: int, handles: Sequence[int]) -> Job | None:
        """Fork one server. Returns its job in the child, None here.

        Nothing is waited for here, so many can be on their way at once; the server tells its pid.
        """
        why = self._unfit(handles)
        if why is None:
            try:
                middle = os.fork()
            except OSError as error:
                why, middle = f"fork: {error.strerror}", -1
            if middle == 0:
                self._fork_and_leave(number)
                return self._be_born(handles)
            if middle > 0:
                self._between[middle] = number
        for handle in handles:
            os.close(handle)
        if why is not None:
            self._say(id=number, refused=why)
        return None

    def _fork_and_leave(self, number: int) -> None:
        """In the process between: fork the server and end. Returns in the server."""
        me = os.getpid()
        try:
            child = os.fork()
        except BaseException:  # noqa: BLE001 - nothing of the zygote's may run on in here
            os._exit(1)
        if child:
            os._exit(0)
        # The daemon is to know of it when it is the daemon's, and no sooner.
        while os.getppid() == me:
            time.sleep(ORPHANED_SECONDS)
        self._say(id=number, pid=os.getpid())

    def _reap(self) -> None:
        """Take leave of those in between that have ended; who could not fork has told nothing."""
        for middle, number in list(self._between.items()):
            pid, status = os.waitpid(middle, os.WNOHANG)
            if pid:
                del self._between[middle]
                if status:
                    self._say(id=number, refused="the second fork failed")

    def _be_born(self, handles: Sequence[int]) -> Job:
        self._control.detach()
        file, gate, *passed = handles
        job = Job.from_file(file)
        become(job, gate, passed, self._marker, self._umask)
        return job

    def _unfit(self, handles: Sequence[int]) -> str | None:
        """Why nothing may be forked from here now, if so."""
        self._templates = [one for one in self._templates if os.waitpid(one, os.WNOHANG)[0] == 0]
        if (changed := self._fingerprint.changed()) is not None:
            return f"{STALE}: {changed} has changed since it was loaded"
        return warm.why_not_alone([self._control.fileno(), *handles])

    def _branch(self, modules: Sequence[str], handles: Sequence[int]) -> None:
        """Fork a template that has these modules loaded too; it serves the passed socket."""
        (control,) = handles
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(control)  # the daemon sees the end of it
            return
        if pid:
            os.close(control)
            self._templates.append(pid)
            return
        # It lives and dies with the first; children of either are the daemon's.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != me:
            os._exit(0)
        self._control.close()
        self._control = socket.socket(fileno=control)
        self._templates, self._between = [], {}
        self.prepare(lambda: warm.preload(modules))

    def prepare(self, work: Callable[[], dict[str, Any]]) -> None:
        """Do what is to be done before forking; say ready, or why not and end."""
        try:
            facts = work()
        except warm.UnfitError as error:
            self._say(refused=str(error), culprit=error.culprit)
            os._exit(0)
        why = "its environment block cannot be written" if not self._marker.usable else None
        why = why or warm.why_not_alone([self._control.fileno()])
        if why is not None:
            self._say(refused=why)
            os._exit(0)
        self._fingerprint.extend()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or every child would write it again
        warm.settle()
        self.ready(**facts)

    def _end(self) -> NoReturn:
        """The daemon has hung up. What a template is forking just then waits at its gate."""
        for template in self._templates:
            os.kill(template, signal.SIGKILL)
            os.waitpid(template, 0)
        os._exit(0)

    def _say(self, **message: Any) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except ConnectionError:
            os._exit(0)
