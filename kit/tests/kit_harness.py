"""What the kit's tests stand on: an installation in a folder of its own, and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import httpx2
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp_types import CallToolResult, Implementation

from hostwright_kit.access_reading import list_all
from hostwright_kit.approvals import Approvals
from hostwright_kit.audit import Event, EventFilter, verify
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Ledger
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import APPROVALS_FILE, LEDGER_FILE
from hostwright_kit.vouching import ERROR_META

Era = Literal["legacy", "2026-07-28"]
Way = Literal["stdio", "http", "socket"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")
WAYS: tuple[Way, ...] = ("stdio", "http", "socket")
Found = TypeVar("Found")


class Home:
    """The folders of one installation, and programs that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "config"
        self.runtime = folder / "run"
        self.acts_file = folder / "acts"
        self.stderr_file = folder / "stderr"
        for path in (self.state, self.config, self.runtime):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def paths(self) -> Paths:
        return Paths(config_dir=self.config, state_dir=self.state, runtime_dir=self.runtime)

    @property
    def ledger(self) -> Path:
        return self.state / LEDGER_FILE

    def env(self, **extra: str) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("HOSTWRIGHT_")
        }
        return {
            **inherited,
            "PYTHONPATH": str(Path(__file__).parent),
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.config),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
            "PROBE_ACTS": str(self.acts_file),
            **extra,
        }

    def configure(self, text: str) -> None:
        (self.config / "config.toml").write_text(text)

    def acts(self) -> list[str]:
        """What was really done."""
        return self.acts_file.read_text().splitlines() if self.acts_file.exists() else []

    def stderr(self) -> str:
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""

    def events(self, **wanted: str) -> list[Event]:
        """Ledger and access log, oldest first; nothing while there is no ledger yet."""
        try:
            page = list_all(self.ledger, EventFilter(**wanted), limit=500)
        except HostError as error:
            if error.code != "not_found":
                raise
            return []
        return page.events[::-1]

    def assert_ledger_holds(self) -> None:
        found = verify(self.ledger)
        assert found.ok, found

    @contextmanager
    def approvals(self) -> Generator[Approvals]:
        """The approvals as the owner's terminal opens them."""
        ledger = Ledger(self.ledger)
        approvals = Approvals(self.state / APPROVALS_FILE, ledger, lifetime_seconds=600)
        try:
            yield approvals
        finally:
            approvals.close()
            ledger.close()

    def grant(self, approval_id: str) -> None:
        with self.approvals() as approvals:
            approvals.grant(approval_id, via="terminal", by="owner")

    def probe(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = subprocess.PIPE,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | None = None,
        before: Callable[[], object] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """The test server as a process with pipes; the caller ends it."""
        with self.stderr_file.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "probe_server", *options],
                env=self.env(**(env or {})),
                stdin=stdin,
                stdout=stdout,
                stderr=file if stderr is None else stderr,
                pass_fds=pass_fds,
                preexec_fn=before,  # noqa: PLW1509 - it closes descriptors, nothing else does
            )

    @contextmanager
    def serving(self, *options: str, **env: str) -> Generator[subprocess.Popen[bytes]]:
        """The test server listening; it must end by itself when told to."""
        process = self.probe(*options, env=env, stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: process.poll() is not None or _answers(options))
            assert process.poll() is None, self.stderr()
            yield process
        finally:
            end(process)

    @asynccontextmanager
    async def client(
        self,
        way: Way,
        era: Era,
        *,
        address: str = "",
        elicit: Any = None,
        name: str = "tester",
        **env: str,
    ) -> AsyncGenerator[Client[Any]]:
        """An official client; over stdio it starts the server itself."""
        if way == "stdio":
            transport: Any = StdioTransport(
                sys.executable,
                ["-m", "probe_server"],
                env=self.env(**env),
                keep_alive=False,
                log_file=self.stderr_file,
            )
        elif way == "socket":
            transport = StreamableHttpTransport(
                "http://localhost/mcp", httpx_client_factory=_over_socket(address)
            )
        else:
            transport = StreamableHttpTransport(f"http://{address}/mcp")
        info = Implementation(name=name, version="9")
        async with Client(
            transport, mode=era, elicitation_handler=elicit, client_info=info
        ) as client:
            yield client


class Wire:
    """A hand on the raw lines of a server's stdio."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._next_id = 0

    def send(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next message that is not a notification."""
        assert self.process.stdout
        while True:
            line = self.process.stdout.readline()
            assert line, "the server closed its stdout"
            message: dict[str, Any] = json.loads(line)
            if "id" in message:
                return message

    def begin(self, method: str, **params: Any) -> int:
        """Send a request of the stateless era."""
        self._next_id += 1
        self.send(request(self._next_id, method, **params))
        return self._next_id

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = self.begin(method, **params)
        answer = self.answer()
        assert answer["id"] == number, answer
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.ask("tools/call", name=tool, arguments=arguments)


def request(number: int, method: str, **params: Any) -> bytes:
    """One JSON-RPC line of the era 2026-07-28, where every request stands alone."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta}}
    return json.dumps(body).encode() + b"\n"


def end(process: subprocess.Popen[bytes], *, seconds: float = 15.0) -> int:
    """SIGTERM, and the exit code; a process that stays is killed and fails the test."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return finish(process, seconds=seconds)


def finish(process: subprocess.Popen[bytes], *, seconds: float = 15.0) -> int:
    """The exit code of a process that is to end by itself."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def wait_for(condition: Callable[[], Found], *, seconds: float = 60.0) -> Found:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def failure(result: CallToolResult | Any) -> dict[str, Any]:
    """The structured error of a call that failed."""
    assert result.is_error, result
    return (result.meta or {})[ERROR_META]


def text(result: Any) -> str:
    return " ".join(getattr(block, "text", "") for block in result.content)


def edit_ledger(path: Path, *statements: str) -> None:
    """What somebody with the file in hand can do: drop the triggers and change rows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER IF EXISTS entries_no_update")
        db.execute("DROP TRIGGER IF EXISTS entries_no_delete")
        for statement in statements:
            db.execute(statement)


def _answers(options: tuple[str, ...]) -> bool:
    kind, address = options[-2:]
    family = socket.AF_UNIX if kind == "--socket" else socket.AF_INET
    with socket.socket(family) as probe, contextlib.suppress(OSError):
        if kind == "--socket":
            probe.connect(address)
        else:
            _, _, port = address.rpartition(":")
            probe.connect(("127.0.0.1", int(port)))
        return True
    return False


def _over_socket(path: str) -> Any:
    def factory(**options: Any) -> httpx2.AsyncClient:
        options.setdefault("timeout", httpx2.Timeout(30.0, read=300.0))
        return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=path), **options)

    return factory


def http_exchange(
    way: str,
    address: str,
    body: bytes,
    *,
    method_header: str = "",
    name_header: str = "",
    **headers: str,
) -> tuple[int, bytes]:
    """One POST by hand, so that what a library would refuse to send can be sent too.

    Status 0: the server closed the connection without an answer.
    """
    sent = {
        "host": "localhost",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "content-length": str(len(body)),
        "connection": "close",
    }
    if method_header:
        sent |= {"mcp-protocol-version": "2026-07-28", "mcp-method": method_header}
    if name_header:
        sent["mcp-name"] = name_header
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in sent.items() if value]
    head = "\r\n".join(["POST /mcp HTTP/1.1", *lines, "", ""]).encode("latin-1")
    with _connected(way, address) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head + body)
        answer = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                answer += chunk
    status, _, rest = answer.partition(b"\r\n")
    return (int(status.split()[1]) if status else 0), rest.partition(b"\r\n\r\n")[2]


def _connected(way: str, address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if way.endswith("socket") else socket.AF_INET)
    connection.settimeout(20)
    if way.endswith("socket"):
        connection.connect(address)
    else:
        connection.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    return connection
