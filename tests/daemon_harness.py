"""A real supervisor for a test: its own folders, its own port, and nothing of it left at the end.

`Installation` holds the folders, `Daemon` a running `hostwright up`. Clients are the official one
over each way in (`hostwright connect`, HTTP with a token, the unix socket), or raw lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import mcp_types as mcp
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

from hostwright_kit.access_reading import list_all
from hostwright_kit.audit import Event, EventFilter, verify
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.vouching import ERROR_META

Era = Literal["legacy", "2026-07-28"]
Way = Literal["stdio", "http", "socket"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")
WAYS: tuple[Way, ...] = ("stdio", "http", "socket")
MODERN: Era = "2026-07-28"
SUITE = tuple(sorted(file.stem for file in Path(__file__).parent.parent.glob("manifests/*.toml")))
LINUX = sys.platform == "linux"
BIN = Path(sys.executable).parent
THIRD_PARTY = Path(__file__).with_name("third_party.py")
QUICK = """
[restart]
first_delay_seconds = 0.05
max_delay_seconds = 0.3
breaker_failures = {breaker}
"""
Found = TypeVar("Found")


class Installation:
    """The folders of one installation, and what is configured there."""

    def __init__(self, folder: Path, *, profile: str = "autonomous") -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "config"
        self.work = folder / "work"
        # Unix sockets have short paths; pytest's temporary folders are long.
        self.runtime = Path(tempfile.mkdtemp(prefix="hw-"))
        for path in (self.state, self.config, self.work):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.configure(profile)
        self.log = folder / "daemon.log"
        self.port = 0

    def configure(self, profile: str, more: str = "") -> None:
        """The owner's config.toml: file tools see nothing but the work folder."""
        roots = json.dumps([str(self.work)])
        (self.config / "config.toml").write_text(
            f'[policy]\nprofile = "{profile}"\n[system]\nroots = {roots}\n{more}\n'
        )

    def third_party(self, name: str, *options: str, breaker: int = 50, more: str = "") -> None:
        """A manifest that runs `third_party.py` with these options."""
        command = [sys.executable, str(THIRD_PARTY), "--name", name, *options]
        self.manifest(name, f"command = {json.dumps(command)}", breaker=breaker, more=more)

    def without_suite(self) -> None:
        """Leave our own servers out where a test is about others: they are the slowest to start."""
        for name in SUITE:
            self.manifest(name, f'entry_point = "{name}"\nenabled = false')

    def manifest(self, name: str, text: str, *, breaker: int = 50, more: str = "") -> None:
        """A manifest of the owner's."""
        folder = self.config / "manifests"
        folder.mkdir(mode=0o700, exist_ok=True)
        body = f'name = "{name}"\n{text}\n{more}\n{QUICK.format(breaker=breaker)}'
        (folder / f"{name}.toml").write_text(body)

    @property
    def marks(self) -> dict[str, str]:
        return {
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.config),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
            "HOSTWRIGHT_GATEWAY__PORT": str(self.port),
        }

    @property
    def env(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("HOSTWRIGHT_")
        }
        # The keyring of whoever runs the tests is not theirs to write to.
        keyring = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
        return {**inherited, **self.marks, **keyring, "NO_COLOR": "1", "PYTHONFAULTHANDLER": "1"}

    @property
    def ledger(self) -> Path:
        return self.state / LEDGER_FILE

    def events(self, **wanted: str) -> list[Event]:
        """Ledger and access log, oldest first."""
        return list_all(self.ledger, EventFilter(**wanted), limit=500).events[::-1]

    def assert_ledger_holds(self) -> None:
        found = verify(self.ledger)
        assert found.ok, found

    def cli(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """One `hostwright` command to its end."""
        done = subprocess.run(
            [str(BIN / "hostwright"), *words],
            env=self.env,
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not ok or done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done

    def token(self, name: str) -> str:
        return str(json.loads(self.cli("token", name, "--json").stdout)["token"])

    def processes(self) -> dict[int, str]:
        """Every living process of this installation, by its environment (Linux)."""
        mark = f"HOSTWRIGHT_RUNTIME_DIR={self.runtime}".encode()
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if line:
                        found[int(folder.name)] = line
        return found

    @contextmanager
    def up(self, *, settled: bool = True) -> Generator[Daemon]:
        """Run the supervisor; at the end it must go by itself and leave nothing."""
        daemon = Daemon(self)
        try:
            daemon.wait_open()
            if settled:
                daemon.wait_settled()
            yield daemon
        finally:
            daemon.end()

    def close(self) -> None:
        shutil.rmtree(self.runtime, ignore_errors=True)


class Daemon:
    """A running `hostwright up`."""

    def __init__(self, home: Installation) -> None:
        self.home = home
        with home.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "hostwright"), "up"],
                env=home.env,
                cwd=home.work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.url = ""
        self._control = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(home.runtime / "gateway.sock")),
            base_url="http://gateway",
            timeout=60,
        )

    @property
    def origin(self) -> str:
        """The gateway's address without a path."""
        return self.url.removesuffix("/mcp")

    def said(self) -> str:
        return self.home.log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        answer = self._control.get("/control/status")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def act(self, name: str, action: str) -> httpx2.Response:
        return self._control.post(f"/control/servers/{name}/{action}")

    def server(self, name: str) -> dict[str, Any]:
        """One server's row of the status."""
        return next(row for row in self.status()["servers"] if row["name"] == name)

    def wait_open(self) -> None:
        def opened() -> bool:
            assert self.process.poll() is None, self.said()
            try:
                self.url = str(self.status()["url"])
            except httpx2.HTTPError:
                return False
            return True

        wait_for(opened, self.said, seconds=60)

    def wait_settled(self) -> None:
        """Every server has answered or failed once."""
        going = ("stopped", "starting")  # what is disabled stays out of it
        wait_for(
            lambda: all(row["state"] not in going for row in self.status()["servers"]),
            self.said,
            seconds=60,
        )

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        wait_for(lambda: self.server(name)["state"] == state, lambda: str(self.server(name)))
        return self.server(name)

    def kill(self, name: str) -> int:
        """SIGKILL a server's process; returns the pid it had."""
        pid = int(self.server(name)["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_daemon(self) -> None:
        """SIGKILL the supervisor itself."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGTERM; whatever stays is ended hard and fails the test."""
        self._control.close()
        stubborn = ""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(25)
            except subprocess.TimeoutExpired:
                stubborn = f"the daemon ignored SIGTERM for 25 s:\n{self.said()}"
                self.process.kill()
                self.process.wait()
        if LINUX:
            left = settle(self.home.processes)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            stubborn += f"left behind: {left}" if left else ""
        assert not stubborn, stubborn

    # -- clients ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(
        self,
        way: Way = "socket",
        era: Era = MODERN,
        *,
        server: str = "",
        token: str = "",
        elicit: Any = None,
        name: str = "tester",
        messages: Any = None,
        **more: Any,
    ) -> AsyncGenerator[Client[Any]]:
        """The official client, over one of the ways in; `more` are further handlers of its own."""
        path = f"/mcp/{server}" if server else "/mcp"
        if way == "stdio":
            transport: Any = StdioTransport(
                str(BIN / "hostwright"),
                ["connect", *([server] if server else [])],
                env=self.home.env,
                keep_alive=False,
                log_file=self.home.log,
            )
        elif way == "socket":
            transport = StreamableHttpTransport(
                f"http://gateway{path}",
                httpx_client_factory=over_socket(self.home.runtime / "gateway.sock"),
            )
        else:
            transport = StreamableHttpTransport(
                f"{self.origin}{path}", headers={"Authorization": f"Bearer {token}"}
            )
        async with Client(
            transport,
            mode=era,
            elicitation_handler=elicit,
            message_handler=messages,
            client_info=mcp.Implementation(name=name, version="9"),
            **more,
        ) as client:
            yield client

    @contextmanager
    def wire(self, server: str = "") -> Generator[Wire]:
        """Raw lines over `hostwright connect`."""
        process = subprocess.Popen(
            [str(BIN / "hostwright"), "connect", *([server] if server else [])],
            env=self.home.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            yield Wire(process)
        finally:
            for stream in (process.stdin, process.stdout):
                assert stream
                with contextlib.suppress(OSError):
                    stream.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    def post(
        self, body: bytes, *, server: str = "", token: str = "", **headers: str
    ) -> httpx2.Response:
        """One raw HTTP request to an endpoint on the TCP port."""
        sent = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **({"Authorization": f"Bearer {token}"} if token else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        url = f"{self.url}/{server}" if server else self.url
        # As bytes, because tests send what is no ASCII as well.
        raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        return httpx2.post(url, content=body, headers=raw, timeout=30)


class Wire:
    """A hand on the raw lines of a stdio connection."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._next_id = 0

    def send(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def message(self) -> dict[str, Any]:
        """The next message of any kind."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the connection was closed"
        return json.loads(line)

    def answer(self) -> dict[str, Any]:
        """The next message that is not a notification."""
        while "id" not in (message := self.message()):
            pass
        return message

    def begin(self, method: str, meta: Mapping[str, Any] | None = None, **params: Any) -> int:
        self._next_id += 1
        self.send(request(self._next_id, method, meta, **params))
        return self._next_id

    def ask(
        self, method: str, meta: Mapping[str, Any] | None = None, **params: Any
    ) -> dict[str, Any]:
        number = self.begin(method, meta, **params)
        answer = self.answer()
        assert answer["id"] == number, answer
        return answer


def request(
    number: int | str, method: str, meta: Mapping[str, Any] | None = None, **params: Any
) -> bytes:
    """One JSON-RPC line of the era 2026-07-28, where every request stands alone."""
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        **(meta or {}),
    }
    filled = {**params, "_meta": envelope}
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": filled}
    return json.dumps(body).encode() + b"\n"


def processes_running(words: str) -> list[int]:
    """Pids of living processes with these words, NUL-separated, in their command line (Linux)."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def over_socket(path: Path) -> Any:
    def factory(**options: Any) -> httpx2.AsyncClient:
        options.setdefault("timeout", httpx2.Timeout(30.0, read=300.0))
        return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)), **options)

    return factory


def wait_for(
    condition: Callable[[], Found], what: Callable[[], str] = str, *, seconds: float = 60.0
) -> Found:
    """The first true value of `condition`; `what` is shown when it never comes."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen in time: {what()}"
        time.sleep(0.03)
    return found


def settle(look: Callable[[], Found], *, seconds: float = 30.0) -> Found:
    """What `look` still finds after it had time to become empty."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


async def subscribe(client: Client[Any], uri: str) -> None:
    """`resources/subscribe`: the SDK's own method for it warns that the new era has none."""
    request = mcp.SubscribeRequest(params=mcp.SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, mcp.EmptyResult)


async def unsubscribe(client: Client[Any], uri: str) -> None:
    """`resources/unsubscribe`."""
    request = mcp.UnsubscribeRequest(params=mcp.UnsubscribeRequestParams(uri=uri))
    await client.session.send_request(request, mcp.EmptyResult)


def text(result: Any) -> str:
    """The text of a result."""
    return " ".join(getattr(block, "text", "") for block in result.content)


def structured(result: Any) -> dict[str, Any]:
    """The structured content of a result that has one."""
    assert result.structured_content, result
    return result.structured_content


def failure(result: Any) -> dict[str, Any]:
    """The structured error of a call that failed."""
    assert result.is_error, result
    return (result.meta or {})[ERROR_META]
