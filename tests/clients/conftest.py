"""The ways to our tools as fixtures: bare server and gateway, over stdio and HTTP.

Servers are started once for a module and shared by its tests; each test's clients live in a room
of their own. Where a client starts our program itself (stdio), the program's folders are given to
it by the client's configuration: the test's own for a bare server, the daemon's for `connect`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .harness import Endpoint, Room, accepts, answers, free_port, program, wait_until

ENDPOINTS = ("bare-stdio", "connect", "bare-http", "gateway", "gateway-system")
HTTP_ENDPOINTS = ("bare-http", "gateway", "gateway-system")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clients_large: drives a client that is a large download")


@contextmanager
def opened(folder: Path, **variables: str) -> Generator[Room]:
    room = Room(folder, variables=variables)
    try:
        yield room
    finally:
        room.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A fresh home for one test."""
    with opened(tmp_path) as room:
        yield room


@dataclass(frozen=True)
class Daemon:
    """A running supervisor."""

    room: Room
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def token(self, name: str) -> str:
        done = self.room.run([program("hostwright"), "token", name, "--json"]).ok()
        return str(done.json()["token"])


@contextmanager
def running_daemon(
    folder: Path, manifests: Mapping[str, str] | None = None, **variables: str
) -> Generator[Daemon]:
    """A supervisor that runs, with the owner's `manifests` (without the line of the name)."""
    port = free_port()
    with opened(folder, HOSTWRIGHT_GATEWAY__PORT=str(port), **variables) as room:
        place = room.folder / "config" / "manifests"
        place.mkdir(mode=0o700)
        for name, text in (manifests or {}).items():
            (place / f"{name}.toml").write_text(f'name = "{name}"\n{text}\n')
        daemon = room.start("daemon", [program("hostwright"), "up"])
        wait_until(lambda: answers(port, "/readyz"), "ready gateway", daemon)
        yield Daemon(room, port)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A supervisor as the owner gets it: the gateway asks for a token."""
    with running_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def open_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A supervisor whose gateway admits anybody on loopback, for runners that take only a URL."""
    folder = tmp_path_factory.mktemp("open-daemon")
    with running_daemon(folder, HOSTWRIGHT_GATEWAY__REQUIRE_TOKEN="false") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def bare_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`hostwright-system` alone on a loopback port."""
    port = free_port()
    with opened(tmp_path_factory.mktemp("bare")) as room:
        argv = [program("hostwright-system"), "--http", f"127.0.0.1:{port}"]
        server = room.start("bare", argv)
        wait_until(lambda: accepts(port), "listener", server)
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def token(daemon: Daemon) -> str:
    return daemon.token("client")


def resolve(name: str, request: pytest.FixtureRequest) -> Endpoint:
    """The endpoint of that name; only what it needs is started."""
    if name == "bare-stdio":
        room: Room = request.getfixturevalue("room")
        return Endpoint(argv=(program("hostwright-system"),), env=room.marks)
    if name == "bare-http":
        return Endpoint(url=request.getfixturevalue("bare_url"))
    daemon: Daemon = request.getfixturevalue("daemon")
    if name == "connect":
        argv = (program("hostwright"), "connect", "system")
        return Endpoint(argv=argv, env=daemon.room.marks)
    url = daemon.url if name == "gateway" else f"{daemon.url}/system"
    return Endpoint(url=url, token=request.getfixturevalue("token"))


@pytest.fixture(params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Each way in turn."""
    return resolve(request.param, request)


@pytest.fixture(params=("bare-stdio", "connect", "gateway"))
def prompting(request: pytest.FixtureRequest) -> Endpoint:
    """The ways on which a question to the user travels differently."""
    return resolve(request.param, request)
