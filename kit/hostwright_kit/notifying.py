"""Telling the owner that something waits: on the desktop, to a webhook, by a command.

Beside the calls and never in their way: a thread of its own, a short queue, a bound on each try.
What is told are names (who asks for which tool of which server, the request's id) and never
arguments. Whether the last try of each way worked is kept in `<state_dir>/notify.json`, so that the
status can show it.
"""

from __future__ import annotations

import contextlib
import html
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from hostwright_kit.approvals import Approval
from hostwright_kit.atomic import write_private
from hostwright_kit.clock import utc_now
from hostwright_kit.config import NotifyConfig
from hostwright_kit.redact import redact_text

logger = logging.getLogger(__name__)

STATUS_FILE = "notify.json"
MAX_WAITING = 32
MAX_NAME_CHARS = 120
CLOSE_SECONDS = 1.0
# What a desktop's notifier or a script of the owner's needs; secrets of a server are not among it.
_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "DISPLAY", "WAYLAND_DISPLAY",
    "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip


class Tried(BaseModel, frozen=True):
    """How the last try of one way went."""

    at: str
    problem: str | None = None


class FailedError(Exception):
    """A notification did not get through; the text names no secret."""


class Notifier:
    """Sends what `tell` is given, one after the other. Thread-safe."""

    def __init__(self, config: NotifyConfig, state_dir: Path) -> None:
        self._config = config
        self._file = state_dir / STATUS_FILE
        self._waiting: queue.Queue[Approval | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ways: list[tuple[str, Callable[[Mapping[str, str]], None]]] = []
        if config.desktop:
            self._ways.append(("desktop", self._desktop))
        if config.webhook is not None:
            self._ways.append(("webhook", self._webhook))
        if config.command:
            self._ways.append(("command", self._command))

    def tell(self, approval: Approval) -> None:
        """That this request waits. Returns at once."""
        if not self._ways:
            return
        with self._lock:
            if self._thread is None:
                # Begun here and not earlier: a forked server has no threads of its parent.
                self._thread = threading.Thread(target=self._send_all, name="notify", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(approval)
        except queue.Full:
            logger.warning("too much waits to be told; %s was left out", approval.id)

    def close(self) -> None:
        """A last moment for what is on its way."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            thread.join(CLOSE_SECONDS)

    def _send_all(self) -> None:
        while (approval := self._waiting.get()) is not None:
            told = message_of(approval)
            for way, send in self._ways:
                try:
                    send(told)
                except FailedError as failure:
                    logger.warning("the owner could not be told by %s: %s", way, failure)
                    self._note(way, str(failure))
                except Exception as error:
                    logger.exception("the owner could not be told by %s", way)
                    self._note(way, type(error).__name__)
                else:
                    self._note(way, None)

    def _note(self, way: str, problem: str | None) -> None:
        found = {**_tried(self._file), way: Tried(at=utc_now(), problem=problem)}
        text = json.dumps({name: one.model_dump() for name, one in found.items()})
        try:
            write_private(self._file, text.encode())
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._file, error.strerror)

    # -- the ways --------------------------------------------------------------------------------

    def _desktop(self, told: Mapping[str, str]) -> None:
        call = f"{told['caller']} wants {told['server']}.{told['tool']}"
        # Notification daemons read markup.
        body = html.escape(f"{call}\n{told['approve']}")
        words = ["--app-name=hostwright", "--icon=dialog-password", "--", "Approval needed", body]
        self._run(["notify-send", *words], b"")

    def _command(self, told: Mapping[str, str]) -> None:
        self._run(list(self._config.command), json.dumps(dict(told)).encode() + b"\n")

    def _run(self, argv: Sequence[str], given: bytes) -> None:
        env = {name: os.environ[name] for name in _PASSED if name in os.environ}
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise FailedError(f"{argv[0]}: {error.strerror}") from error
        try:
            process.communicate(given, timeout=self._config.timeout_seconds)
        except subprocess.TimeoutExpired:
            raise FailedError(
                f"{argv[0]} took longer than {self._config.timeout_seconds:g} s"
            ) from None
        finally:
            # With all that it started, however it ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise FailedError(f"{argv[0]} ended with code {process.returncode}")

    def _webhook(self, told: Mapping[str, str]) -> None:
        import httpx2  # noqa: PLC0415 - only where it is used: every server would pay for it

        url = self._config.webhook or ""
        # Not the whole URL, which may hold a key.
        host = urlsplit(url).hostname
        try:
            with (
                httpx2.Client(timeout=self._config.timeout_seconds, follow_redirects=False) as http,
                http.stream("POST", url, json=dict(told)) as answer,
            ):
                status = answer.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise FailedError(f"{host} did not answer ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise FailedError(f"{host} answered with status {status}")


def message_of(approval: Approval) -> dict[str, str]:
    """What is told about a request: names, no arguments."""
    return {
        "event": "approval.pending",
        "id": approval.id,
        "caller": _name(approval.caller),
        "server": _name(approval.server),
        "tool": _name(approval.tool),
        "reason": _name(approval.reason),
        "created": approval.created,
        "expires": approval.expires,
        "approve": f"hostwright approve {approval.id}",
        "host": socket.gethostname(),
    }


def notify_problems(state_dir: Path) -> list[str]:
    """What did not get through at the last try, for the status."""
    return [
        f"The owner could not be told of what waits by {way} ({one.at}): {one.problem}. "
        "Fix: correct [notify] in config.toml, or what it names."
        for way, one in _tried(state_dir / STATUS_FILE).items()
        if one.problem is not None
    ]


def _tried(file: Path) -> dict[str, Tried]:
    try:
        held: Any = json.loads(file.read_bytes())
        return {name: Tried.model_validate(one) for name, one in held.items()}
    except (OSError, ValueError, AttributeError, ValidationError):
        return {}  # not there yet, or not worth keeping


def _name(text: str) -> str:
    plain = "".join(char if char.isprintable() else "\ufffd" for char in redact_text(text))
    return plain if len(plain) <= MAX_NAME_CHARS else f"{plain[:MAX_NAME_CHARS]}…"
