"""What the zygote's tests stand on: a nursery with folders of its own, and servers to be forked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hostwright.keeper import inherited, processes
from hostwright.keeper.child import Child, Launch
from hostwright.keeper.logs import ServerLog
from hostwright.keeper.records import Records
from hostwright.manifest import Fork
from hostwright.zygote.nursery import Nursery

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
# What a server sees of the world as it is loaded, before anything of it runs.
WORLD = """
import atexit, ctypes, os, random, signal, sys, time
import fastmcp
from fastmcp import FastMCP

def ignored(field):
    line = [l for l in open("/proc/self/status") if l.startswith(field)][0]
    return int(line.split()[1], 16) & (1 << 31) - 1

death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
mask = os.umask(0); os.umask(mask)
def is_open(number):
    try: os.fstat(number)
    except OSError: return False
    return True

# Without the listing's own, which is closed again.
numbers = [n for n in sorted(map(int, os.listdir("/proc/self/fd"))) if is_open(n)]
SEEN = {
    "environ": {name: ascii(value) for name, value in os.environ.items()},
    "cwd": os.getcwd(), "argv": sys.argv, "path": sys.path[0],
    "local": time.strftime("%H", time.localtime(0)), "random": random.random(),
    "descriptors": numbers,
    "session": os.getsid(0) == os.getpid(), "ignored": ignored("SigIgn"),
    "blocked": ignored("SigBlk"), "death": death.value, "parent": os.getppid(), "umask": mask,
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "log_level": fastmcp.settings.log_level, "modules": sorted(sys.modules),
    "threads": len(os.listdir("/proc/self/task")), "main": __name__,
}
mcp = FastMCP("world")

@mcp.tool
async def seen() -> dict:
    return SEEN

@mcp.tool
async def escape() -> int:
    "A grandchild that leaves the session and is orphaned, without ever executing anything."
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            for number in range(3, 100):
                try: os.close(number)
                except OSError: pass
            while True: time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(read, 20))
"""


class World:
    """A nursery, and a way to start servers with it."""

    def __init__(self, folder: Path, environ: Mapping[str, str], names: tuple[str, ...]) -> None:
        self.folder = folder
        self.environ = {**environ}
        self.records = Records(folder)
        self.log = ServerLog(folder / "server.log", str)
        self.zygote_log = folder / "zygote.log"
        self.nursery = Nursery(
            self.records,
            ServerLog(self.zygote_log, str),
            self.environ,
            list(names),
            ready_seconds=150,
        )
        self.children: list[Child] = []

    def server(self, source: str = WORLD, name: str = "world") -> Path:
        """A file with such a server."""
        file = self.folder / f"{name}.py"
        file.write_text(textwrap.dedent(source))
        return file

    def launch(self, file: Path, **changes: Any) -> Launch:
        """A launch of `mcp` in this file."""
        fields: dict[str, Any] = {
            "name": file.stem,
            "argv": (sys.executable, "-P", "-m", "hostwright_kit.run_file", f"{file}:mcp"),
            "env": self.environ,
            "cwd": self.folder,
            "fork": Fork(kind="file", target=f"{file}:mcp"),
        }
        what = Launch.model_validate(fields | changes)
        return what.model_copy(update={"env": {**what.env, inherited.MARK: what.mark}})

    async def start(self, what: Launch) -> Child:
        """Start it as the keeper does."""
        await self.records.begin(what.mark, what.name)
        child = await Child.start(what, self.log, by_fork=self.nursery.start)
        assert child.id
        await self.records.started(what.mark, child.id)
        self.children.append(child)
        return child

    async def fork(self, what: Launch) -> Child:
        """Start it, by fork and nothing else."""
        before = self.nursery.forked
        child = await self.start(what)
        assert self.nursery.forked == before + 1, self.nursery.plain
        return child

    async def close(self) -> None:
        for child in self.children:
            await child.stop(timeout_seconds=1)
        await self.nursery.close()
        self.log.close()


@asynccontextmanager
async def world(
    folder: Path, *names: str, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[World]:
    """A world of its own, of which nothing is left."""
    processes.become_subreaper()
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    found = World(folder, {**kept, **(environ or {})}, names)
    try:
        yield found
    finally:
        await found.close()


async def call(child: Child, tool: str, **arguments: Any) -> Any:
    """Call a tool of a server over its own pipes."""
    params = {"name": tool, "arguments": arguments, "_meta": META}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    child.stdin.write(json.dumps(request).encode() + b"\n")
    line = await asyncio.wait_for(child.stdout.readline(), 60)
    result = json.loads(line)["result"]
    assert not result.get("isError"), result
    found = result["structuredContent"]
    return found.get("result", found)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it, generously."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    return processes.identity(pid) is None


def memory_holds(pid: int, needle: bytes) -> bool:
    """Whether these bytes stand anywhere in this process's memory."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, access, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if not access.startswith("rw"):
            continue
        with contextlib.suppress(OSError), Path(f"/proc/{pid}/mem").open("rb") as memory:
            memory.seek(start)
            if needle in memory.read(end - start):
                return True
    return False
