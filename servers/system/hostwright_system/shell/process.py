"""One command from start to the end of everything it started.

True asyncio; what blocks (fork and exec, waiting for the warden's exit) runs in threads. It starts
a `warden` per command, which holds the command's processes together: see there for the means and
the protocol. Here the pipes are read, the time is kept and the warden is watched.

Exit is what the warden reports, never the end of a pipe: a background process that holds the pipe
delays nothing. When the warden says that all is ended, what the pipes still hold is read and that
is all. When the server dies in whatever way, the warden sees it and ends the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from hostwright_kit.errors import HostError
from hostwright_system.shell.cgroups import cgroup_name, cgroup_parent, end_cgroup
from hostwright_system.shell.resolve import ResolvedCommand, start_failure
from hostwright_system.shell.warden.processes import kill_session
from hostwright_system.shell.warden.supervise import KILL_SECONDS, POLL_SECONDS

Stream = Literal["stdout", "stderr"]
Receiver = Callable[[bytes, Stream], Awaitable[None]]

READ_BYTES = 256 * 1024
# How long the warden may take beyond the grace period before the server ends the command itself.
WARDEN_PATIENCE_SECONDS = KILL_SECONDS + 4

# The package folder is searched last and holds no name of the standard library; importing instead
# of running the file lets Python use its compiled form. -I and -S: nothing of ours is needed.
_WARDEN_START = (
    "import sys; sys.path.append(sys.argv[2]); from warden.supervise import main; main()"
)

# All that the interpreter itself may need to start.
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
# More than a pipe holds: what is read after the end beyond this was written after the end.
_LEFT_IN_PIPE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Ending:
    """How a command ended. `exit_code` as in subprocess: -N when signal N killed it."""

    exit_code: int | None
    timed_out: bool
    cancelled: bool
    duration_seconds: float
    ended_processes: int | None
    surviving_pids: tuple[int, ...]
    containment: tuple[str, ...]


@dataclass(frozen=True)
class _Launched:
    warden: subprocess.Popen[bytes]
    control: socket.socket
    outputs: dict[Stream, int]


async def execute(
    command: ResolvedCommand,
    receive: Receiver,
    *,
    name: str,
    timeout_seconds: float,
    grace_seconds: float,
) -> Ending:
    """Run the command and end all of it at exit, time-out or cancellation, whichever is first.

    A cancelled call returns, too, once everything is ended: the ending says `cancelled`. A second
    cancellation gives up waiting; the warden then ends the command by itself.
    """
    life = _Life(command, receive, name, grace_seconds)
    started = time.monotonic()
    task = asyncio.create_task(life.run())
    timed_out = cancelled = False
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
        timed_out = not done
    except asyncio.CancelledError:
        # It may have ended in the same moment: then there was nothing to cancel.
        cancelled = not task.done()
    if not task.done():
        life.end()
        try:
            bound = grace_seconds + WARDEN_PATIENCE_SECONDS
            await asyncio.wait({task}, timeout=bound)
            if not task.done():
                await life.force()
        except asyncio.CancelledError:
            task.cancel()
            raise
    await task
    return Ending(
        exit_code=life.exit_code,
        timed_out=timed_out,
        cancelled=cancelled,
        duration_seconds=time.monotonic() - started,
        ended_processes=life.ended_processes,
        surviving_pids=life.surviving_pids,
        containment=life.containment,
    )


class _Life:
    """The server's side of one warden."""

    def __init__(
        self, command: ResolvedCommand, receive: Receiver, name: str, grace_seconds: float
    ) -> None:
        self._command = command
        self._receive = receive
        parent = cgroup_parent()
        self._cgroup = f"{parent}/{cgroup_name(name)}" if parent else None
        self._grace_seconds = grace_seconds
        self._warden: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._must_end = False
        self._main_pid = 0
        self._reported = False
        self._failure: HostError | None = None
        self.exit_code: int | None = None
        self.ended_processes: int | None = None
        self.surviving_pids: tuple[int, ...] = ()
        self.containment: tuple[str, ...] = ()

    def end(self) -> None:
        """Ask the warden to end the command; harmless when it is ending already."""
        self._must_end = True
        if self._warden is not None:
            # The command may have stopped it; it is of the same user.
            self._warden.send_signal(signal.SIGCONT)
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(b"end\n")

    async def force(self) -> None:
        """The warden does not answer, perhaps stopped by the command: end it, then the rest."""
        if self._warden is not None:
            self._warden.kill()
        await asyncio.to_thread(self._sweep)

    async def run(self) -> None:
        launched = await _uninterrupted(functools.partial(_launch, self._command))
        self._warden = launched.warden
        pumps = [_Pump(fd, stream, self._receive) for stream, fd in launched.outputs.items()]
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=launched.control)
            self._writer.write(self._request())
            if self._must_end:
                self.end()
            async with asyncio.TaskGroup() as group:
                for pump in pumps:
                    group.create_task(pump.run())
                await self._listen(reader)
                if not self._reported:
                    await asyncio.to_thread(self._sweep)
                for pump in pumps:
                    pump.finish()
        finally:
            # Closing tells a warden that still lives to end the command.
            if self._writer is not None:
                self._writer.close()
            else:
                launched.control.close()
            for pump in pumps:
                os.close(pump.descriptor)
            threading.Thread(target=launched.warden.wait, daemon=True).start()
        if self._failure is not None:
            raise self._failure
        if not self._reported:
            raise _supervision_lost("cgroup" in self.containment)

    def _request(self) -> bytes:
        command = self._command
        request = {
            "path": command.path,
            "argv": command.argv,
            "env": command.env,
            "cwd": command.cwd,
            "umask": command.umask,
            "grace_seconds": self._grace_seconds,
            "cgroup": self._cgroup,
            "server": os.getpid(),
        }
        return json.dumps(request).encode() + b"\n"

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take the warden's reports until the last one, or until it is gone."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message: dict[str, Any] = json.loads(line)
                if "failed" in message:
                    self._failure = start_failure(
                        self._command, message["failed"], message["errno"]
                    )
                    self._reported = True
                    return
                if "pid" in message:
                    self._main_pid = message["pid"]
                    self.containment = tuple(message["containment"])
                elif "exited" in message:
                    self.exit_code = message["exited"]
                elif "ended" in message:
                    self.ended_processes = message["ended"]
                    self.surviving_pids = tuple(message["surviving"])
                    self._reported = True
                    return

    def _sweep(self) -> None:
        """Blocking. Without its warden: the cgroup, and the session that the command led."""
        if self._cgroup:
            end_cgroup(Path(self._cgroup))
        deadline = time.monotonic() + KILL_SECONDS
        while self._main_pid and kill_session(self._main_pid):
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)


class _Pump:
    """Reads one pipe: never more than one chunk in memory, and a slow receiver slows the writer."""

    def __init__(self, descriptor: int, stream: Stream, receive: Receiver) -> None:
        self.descriptor = descriptor
        self._stream: Stream = stream
        self._receive = receive
        self._finishing = asyncio.Event()
        self._readable = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        left = _LEFT_IN_PIPE_BYTES
        while left > 0:
            try:
                data = os.read(self.descriptor, READ_BYTES)
            except BlockingIOError:
                if self._finishing.is_set():
                    # Everything that could write has ended: an empty pipe is the end of it.
                    return
                self._readable.clear()
                loop.add_reader(self.descriptor, self._readable.set)
                try:
                    await self._readable.wait()
                finally:
                    loop.remove_reader(self.descriptor)
                continue
            if not data:
                return
            if self._finishing.is_set():
                # Bounded: a process that could not be ended may write for ever.
                left -= len(data)
            await self._receive(data, self._stream)
            # A receiver that only counts does not yield, and a flood would own the loop.
            await asyncio.sleep(0)

    def finish(self) -> None:
        self._finishing.set()
        self._readable.set()


def _launch(command: ResolvedCommand) -> _Launched:
    """Blocking: start a warden whose first three descriptors are to be the command's."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as on_failure:
        opened.callback(theirs.close)
        on_failure.callback(ours.close)
        writers: dict[Stream, int] = {}
        outputs: dict[Stream, int] = {}
        streams: tuple[Stream, ...] = ("stdout",) if command.merge_stderr else ("stdout", "stderr")
        for stream in streams:
            outputs[stream], writers[stream] = _pipe()
            on_failure.callback(os.close, outputs[stream])
            opened.callback(os.close, writers[stream])
        stdin = opened.enter_context(_stdin_file(command.stdin))
        process = subprocess.Popen(
            # The warden is our own file, run by the interpreter that runs us.
            [
                *(sys.executable, "-I", "-S", "-c", _WARDEN_START),
                *(str(theirs.fileno()), str(Path(__file__).parent)),
            ],
            stdin=stdin,
            stdout=writers["stdout"],
            stderr=writers.get("stderr", writers["stdout"]),
            pass_fds=(theirs.fileno(),),
            env={k: v for k, v in os.environ.items() if k in _LOADER_VARIABLES},
            cwd="/",
            start_new_session=True,
        )
        on_failure.pop_all()
    ours.setblocking(False)
    return _Launched(process, ours, outputs)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # Fewer wake-ups under a flood. The kernel bounds what one user may have in all.
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, READ_BYTES)
    return reader, writer


def _stdin_file(data: bytes | None) -> IO[bytes]:
    """A nameless file instead of a pipe: nobody has to write while the command does not read."""
    if data is None:
        return Path(os.devnull).open("rb")
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("stdin"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.seek(0)
    return file


async def _uninterrupted(function: Callable[[], _Launched]) -> _Launched:
    """A launch that is cancelled half-way must still be taken back, not be forgotten."""
    launching = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        launching.add_done_callback(_abandon)
        raise
    except OSError as error:
        raise HostError(
            f"No process can be started: {error.strerror}.",
            fix="End some processes or raise the limits of open files and processes.",
            code="cannot_execute",
        ) from error


def _abandon(launching: asyncio.Future[_Launched]) -> None:
    if launching.cancelled() or launching.exception():
        return
    launched = launching.result()
    launched.control.close()
    for descriptor in launched.outputs.values():
        os.close(descriptor)
    threading.Thread(target=launched.warden.wait, daemon=True).start()


def _supervision_lost(all_ended: bool) -> HostError:
    ended = (
        "everything that it had started has been ended."
        if all_ended
        else "what was left of its session has been ended, but what had detached itself may "
        "still run."
    )
    return HostError(
        "The supervising process of the command was killed, so its outcome is unknown; " + ended,
        fix="If the command kills its parent process, leave that out; otherwise look for a lack "
        "of memory (journal, dmesg) and try again.",
        code="supervision_lost",
    )


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between RTMIN and RTMAX has no name
        return f"SIG{number}"
