"""One daemon per state: a lock that the kernel drops with its holder, and the pid for people.

flock(2) is the truth; the pid in the file only says whom to look for. Two files are locked,
`daemon.pid` in the runtime folder (which the command line finds) and `daemon.lock` in the state
folder (which may be shared by two configurations).
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hostwright_kit.errors import HostError

PID_FILE = "daemon.pid"
LOCK_FILE = "daemon.lock"
# `daemon_pid` holds the lock for an instant to see whether it is free.
CONTENTION_SECONDS = 0.5

_log = logging.getLogger(__name__)


class DaemonLock:
    """Held from before the first server starts until after the last one is gone."""

    def __init__(
        self, runtime_dir: Path, state_dir: Path, inherited: Sequence[int] | None = None
    ) -> None:
        """`inherited`: the descriptors that hold it already, from before an execve(2)."""
        self._pid_file = runtime_dir / PID_FILE
        self._files = (self._pid_file, state_dir / LOCK_FILE)
        self._inherited = inherited
        self._handles: list[int] = []

    def acquire(self) -> None:
        """Lock, or refuse with the pid of the daemon that runs. Blocks for half a second."""
        if self._inherited is not None:
            # The lock belongs to the open file, which was never closed; the pid is the same.
            self._handles = list(self._inherited)
            return
        try:
            for path in self._files:
                self._handles.append(self._lock(path))
        except BaseException:
            self.release()
            raise
        self._note_stale()
        self._write(f"{os.getpid()}\n")

    def copies(self) -> list[int]:
        """Further descriptors of the locked files: they keep the lock when this one is left."""
        return [os.dup(handle) for handle in self._handles]

    def leave(self) -> None:
        """Close without giving it up: whoever has the copies holds it."""
        while self._handles:
            os.close(self._handles.pop())

    def release(self) -> None:
        """Give it up; the emptied file stays, so that no two locks can be on two files."""
        if len(self._handles) == len(self._files):
            self._write("")
        while self._handles:
            os.close(self._handles.pop())

    def __enter__(self) -> DaemonLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _lock(self, path: Path) -> int:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(
                f"The lock file {path} cannot be opened: {error.strerror}.",
                fix=f"Give this user the file and its folder {path.parent}.",
                code="lock_unavailable",
            ) from error
        deadline = time.monotonic() + CONTENTION_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(handle)
                pid = _read_pid(self._pid_file)
                who = f"with pid {pid} " if pid else ""
                raise HostError(
                    f"Another daemon {who}runs on {path.parent}.",
                    fix="Use it (`hostwright status`), end it (`hostwright down`), or name other "
                    "folders with HOSTWRIGHT_STATE_DIR and HOSTWRIGHT_RUNTIME_DIR.",
                    code="already_running",
                ) from None
            else:
                return handle

    def _note_stale(self) -> None:
        if pid := _read_pid(self._pid_file):
            _log.warning(
                "%s names pid %d, which is no daemon of ours any more (it did not end in order); "
                "replaced.",
                self._pid_file,
                pid,
            )

    def _write(self, text: str) -> None:
        handle = self._handles[0]
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def daemon_pid(runtime_dir: Path) -> int | None:
    """The pid of the daemon that runs on this folder, or None. For the command line; blocking."""
    path = runtime_dir / PID_FILE
    deadline = time.monotonic() + CONTENTION_SECONDS
    while True:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # Held: by a daemon, which has its pid in the file in a moment if not yet.
            if (pid := _read_pid(path)) or time.monotonic() > deadline:
                return pid
            time.sleep(0.02)
        else:
            return None
        finally:
            os.close(handle)


def _read_pid(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
