"""What the command line's tests stand on: an installation in folders of its own, the installed
command as a process, and a real terminal for what asks for the PIN."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from hostwright.manifest_files import suite_folder
from hostwright_kit.approvals import Approvals, Request
from hostwright_kit.ledger import Ledger
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import APPROVALS_FILE, LEDGER_FILE

PROGRAM = Path(sys.executable).with_name("hostwright")
SUITE = tuple(sorted(file.stem for file in suite_folder().glob("*.toml")))
PIN = "4711-pin"
# A busy machine takes a while; nothing here waits this long when it works.
PATIENCE_SECONDS = 60.0
# The leader of a new session that opens a terminal gets it as its controlling one.
ON_TERMINAL = 'terminal=$1; shift; exec "$@" <>"$terminal" >&0 2>&1'
# The same, but what the command prints goes elsewhere; prompts come on the terminal all the same.
PIPED = 'terminal=$1; shift; exec "$@" <>"$terminal" 2>&0'


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def document(self) -> Any:
        """What `--json` printed: one document and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = self.document["error"]
        assert set(found) == {"code", "message", "fix"}
        assert found["message"]
        assert found["fix"]
        return found


class World:
    """One installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state, self.config, self.runtime, self.home, self.work = (
            folder / name for name in ("state", "config", "run", "home", "work")
        )
        for path in (self.state, self.config, self.runtime, self.home, self.work):
            path.mkdir(mode=0o700)

    @property
    def paths(self) -> Paths:
        return Paths(config_dir=self.config, state_dir=self.state, runtime_dir=self.runtime)

    @property
    def ledger(self) -> Path:
        return self.state / LEDGER_FILE

    def env(self, **extra: str) -> dict[str, str]:
        """Nothing of this machine's own installation or clients."""
        alien = re.compile(r"HOSTWRIGHT_|XDG_|CLAUDE|CODEX|OPENCLAW|COLUMNS$|FORCE_COLOR$")
        inherited = {name: text for name, text in os.environ.items() if not alien.match(name)}
        return {
            **inherited,
            "HOME": str(self.home),
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.config),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
            "HOSTWRIGHT_GATEWAY__PORT": "0",
            # The keyring of whoever runs the tests is not theirs to write to.
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            **extra,
        }

    def run(self, *words: str | Path, **env: str) -> Done:
        """Run `hostwright WORDS` without a terminal; it must never end in a traceback."""
        process = subprocess.run(
            [PROGRAM, *words],
            env=self.env(**env),
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            start_new_session=True,
            check=False,
        )
        done = Done(process.returncode, process.stdout, process.stderr)
        assert "Traceback" not in done.text, done.text
        return done

    def ok(self, *words: str | Path, **env: str) -> Done:
        """The same, and it must succeed."""
        done = self.run(*words, **env)
        assert done.code == 0, done
        return done

    def json(self, *words: str | Path, **env: str) -> Any:
        """The same with `--json`."""
        return self.ok(*words, "--json", **env).document

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """A command that goes on; the caller ends it."""
        return subprocess.Popen(
            [PROGRAM, *words],
            env=self.env(**env),
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def without_suite(self) -> None:
        """Our own servers are not started; the supervisor's own tools are."""
        manifests = self.config / "manifests"
        manifests.mkdir(mode=0o700, exist_ok=True)
        for name in SUITE:
            text = f'name = "{name}"\nentry_point = "{name}"\nenabled = false\n'
            (manifests / f"{name}.toml").write_text(text)

    @contextmanager
    def daemon(self, **env: str) -> Generator[dict[str, Any]]:
        """A daemon in the background; afterwards no process of it may be left."""
        try:
            yield self.json("up", "--detach", **env)
        finally:
            self.run("down")
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            assert not left, left

    def processes(self) -> list[psutil.Process]:
        """Every process that lives in this installation, whoever its parent is."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                ours = process.environ().get("HOSTWRIGHT_STATE_DIR") == str(self.state)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @contextmanager
    def approvals(self) -> Generator[Approvals]:
        """As a server opens them."""
        ledger = Ledger(self.ledger)
        approvals = Approvals(self.state / APPROVALS_FILE, ledger, lifetime_seconds=600)
        try:
            yield approvals
        finally:
            approvals.close()
            ledger.close()

    def ask(self, *, caller: str = "agent", tool: str = "act", **arguments: Any) -> str:
        """A request that waits for the owner; its id."""
        with self.approvals() as approvals:
            wanted = Request(
                digest=os.urandom(8).hex(),
                caller=caller,
                server="system",
                tool=tool,
                arguments=arguments,
                reason="profile standard",
            )
            return approvals.request(wanted).id

    def set_pin(self) -> None:
        OperatorPin(self.state).set(PIN)

    def at_terminal(
        self, *words: str, answers: Mapping[str, str] | None = None, piped: bool = False
    ) -> Done:
        """Run a command on a terminal of its own and answer each prompt once, as it comes.

        What is typed before a prompt is thrown away by programs that ask for secrets. `piped`:
        only stdout is no terminal; the result has both apart.
        """
        ours, theirs = pty.openpty()
        script = PIPED if piped else ON_TERMINAL
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", os.ttyname(theirs), PROGRAM, *words],
            env=self.env(COLUMNS="200", TERM="xterm"),
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        screen, waiting = b"", dict(answers or {})
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while (data := _written(ours)) or process.poll() is None:
                assert time.monotonic() < deadline, f"still running, on the screen: {screen!r}"
                screen += data
                for prompt in [one for one in waiting if one.encode() in screen]:
                    os.write(ours, waiting.pop(prompt).encode() + b"\n")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            os.close(ours)
            os.close(theirs)
        assert not waiting, f"not asked: {list(waiting)}\n{screen!r}"
        text = screen.decode()
        assert "Traceback" not in text, text
        return (
            Done(process.returncode, printed, text) if piped else Done(process.returncode, text, "")
        )


def wait_for(what: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Until `what` gives something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def _written(terminal: int) -> bytes:
    ready, _, _ = select.select([terminal], [], [], 0.1)
    return os.read(terminal, 65_536) if ready else b""
