"""A Hostwright of its own for the measurements: folders, manifests, daemon, token.

State lies beside the repository's other test data, on a real disk: on a tmpfs the ledger's fsync
would cost nothing and its figures would be worth nothing. Sockets lie in /tmp, because the paths
of unix sockets are short.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import httpx2
import psutil

from bench.processes import CommandError, clean_environment, run, tree
from bench.wire import Era, HttpClient, PipeClient
from hostwright.manifest import Manifest
from hostwright.manifest_files import suite_folder

ROOT = Path(__file__).resolve().parent.parent
DEPS = ROOT / ".test-deps" / "bench"
BIN = Path(sys.executable).parent
SETTLED = ("ready", "disabled", "hibernated")
"""States of a server with which a start is done."""
NO_DAEMON = 3
"""Exit code of `hostwright` where none runs."""
HOSTWRIGHT = str(BIN / "hostwright")
SYSTEM = str(BIN / "hostwright-system")
ECHO = str(Path(__file__).with_name("echo_server.py"))
ECHO_STDIO = [sys.executable, ECHO, "stdio"]


MANY_TOOLS = str(Path(__file__).with_name("many_tools.py"))


def knows(key: str) -> bool:
    """Whether manifests have this key; a figure that needs it is not measured otherwise."""
    return key in Manifest.model_fields


def served(name: str, file: str, more: str = "") -> str:
    """The manifest of a FastMCP server in a file: by fork where there is that, else a command."""
    if knows("fastmcp"):
        how = f"fastmcp = {json.dumps(f'{file}:mcp')}"
    else:
        how = f"command = {json.dumps([sys.executable, file, 'stdio'])}"
    # The owner believes what the server says of its tool, so a call of it is a read.
    return f'name = "{name}"\n{how}\n{more}\n[guard]\ntrust_annotations = true\n'


class Home:
    """The folders of one installation, and its daemon while it runs."""

    def __init__(
        self, *, system: bool, echo: bool, more: str = "", copies: int = 0, many: bool = False
    ) -> None:
        """`more` goes into the echo servers' manifests; `copies` are further echo servers."""
        DEPS.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="home-", dir=DEPS))
        self.runtime = Path(tempfile.mkdtemp(prefix="hw-bench-"))
        self.log = self.folder / "clients.log"
        self.state = self.folder / "state"
        self.env = {
            **clean_environment(),
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.folder / "config"),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
            "HOSTWRIGHT_GATEWAY__PORT": "0",
            # The owner accepts in advance: what is measured is the ledger, not a person.
            "HOSTWRIGHT_POLICY__PROFILE": "autonomous",
            # Reads leave no entry, acts do: what is compared are fronts that keep no record.
            "HOSTWRIGHT_LEDGER__READS": "none",
        }
        self.url = ""
        self.token = ""
        self.daemon: psutil.Process | None = None
        self._begun = False
        manifests = self.folder / "config" / "manifests"
        manifests.mkdir(parents=True, mode=0o700)
        for suite in suite_folder().glob("*.toml"):
            if not (system and suite.stem == "system"):
                text = f'name = "{suite.stem}"\nentry_point = "{suite.stem}"\nenabled = false\n'
                (manifests / suite.name).write_text(text)
        names = ["echo"] if echo else []
        names += [f"echo-{number}" for number in range(1, copies + 1)]
        for name in names:
            (manifests / f"{name}.toml").write_text(served(name, ECHO, more))
        if many:
            (manifests / "many.toml").write_text(served("many", MANY_TOOLS))

    async def make_token(self) -> None:
        """A bearer token for HTTP clients of this home."""
        made = await run([HOSTWRIGHT, "token", "bench", "--replace", "--json"], env=self.env)
        self.token = str(json.loads(made)["token"])

    async def up(self) -> None:
        """Start the daemon; returns when every server is ready, and raises when one is not."""
        self._begun = True
        starting = asyncio.create_task(run([HOSTWRIGHT, "up", "--detach", "--json"], env=self.env))
        try:
            out = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A daemon that is half up cannot be told to end: it is let up first.
            await asyncio.wait([starting])
            raise
        self.adopt(cast("dict[str, Any]", json.loads(out)))

    def adopt(self, status: dict[str, Any]) -> None:
        """Take over a daemon that was started in this home."""
        self.daemon = psutil.Process(status["pid"])
        self.url = str(status["url"])
        broken = [one for one in status["servers"] if one["state"] not in SETTLED]
        if broken:
            raise RuntimeError(f"not every server became ready: {broken}")

    async def status(self) -> dict[str, Any]:
        """What `hostwright status` says, over the same socket."""
        # Without a TLS context, which takes longer to make than the question to answer.
        transport = httpx2.AsyncHTTPTransport(
            uds=str(self.runtime / "gateway.sock"), verify=False, trust_env=False
        )
        async with httpx2.AsyncClient(transport=transport, timeout=30, trust_env=False) as client:
            answer = await client.get("http://gateway/control/status")
        return cast("dict[str, Any]", answer.json())

    async def server(self, name: str) -> dict[str, Any]:
        """One server's row of the status."""
        return next(row for row in (await self.status())["servers"] if row["name"] == name)

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything that it has started."""
        return tree(self.daemon) if self.daemon else []

    async def down(self) -> None:
        """End the daemon, if one runs."""
        if self._begun:
            self._begun, self.daemon = False, None
            try:
                await run([HOSTWRIGHT, "down"], env=self.env)
            except CommandError as error:
                if error.code != NO_DAEMON:
                    raise

    async def close(self) -> None:
        """End everything and remove the folders."""
        try:
            await self.down()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.runtime, ignore_errors=True)

    def http(self, server: str, era: Era = "legacy") -> HttpClient:
        """A client of the gateway over HTTP, with its token; not yet open."""
        return HttpClient(f"{self.url}/{server}", era=era, token=self.token)

    def connect(self, server: str, era: Era = "legacy") -> PipeClient:
        """A client that starts `hostwright connect SERVER`, as agents do; not yet open."""
        return PipeClient([HOSTWRIGHT, "connect", server], env=self.env, era=era)

    def bare(self, era: Era = "legacy") -> PipeClient:
        """A client of the system server alone, over stdio; not yet open."""
        return PipeClient([SYSTEM], env=self.env, era=era)
