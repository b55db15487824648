"""What the zygote pays once so that its children need not: imports, caches; and the proof that it
may fork at all.

A fork copies one thread. Had an import started another, the child would find its locks held by
nobody; so exactly one thread must exist, and no descriptor that a library opened for itself.
What a server imports only while it serves is imported by serving once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# BLAS libraries start a thread per core when they are loaded; with one there is none.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "zygote", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class UnfitError(Exception):
    """Nothing can be forked from here; says why."""

    def __init__(self, reason: str, culprit: str | None = None) -> None:
        super().__init__(reason)
        self.culprit = culprit
        """The server without which it could be."""


class Fingerprint:
    """What was loaded, so that an upgrade under a running zygote is noticed before the next fork.

    An installation changes its site-packages folder; files outside of them (a checkout that is
    installed as editable) are looked at one by one.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self.extend()

    def extend(self) -> None:
        """Add what was loaded since; what was known before keeps its time."""
        library = sysconfig.get_paths()["stdlib"]
        folders = {path for path in sys.path if path.endswith("-packages")}
        files = {
            file
            for module in list(sys.modules.values())
            if (file := getattr(module, "__file__", None))
            and not file.startswith((library, *folders))
        }
        for path in folders | files:
            self._times.setdefault(path, _time(path))

    def changed(self) -> str | None:
        """A path that is not as it was."""
        return next((path for path, time in self._times.items() if _time(path) != time), None)


def _time(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def why_not_alone(known: Sequence[int]) -> str | None:
    """Why a fork would not be safe now, if so; `known` are the descriptors that are our own."""
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - counted, not opened
    if threads != 1:
        return f"{threads} threads run in it"
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2 and int(name) not in known:
            with contextlib.suppress(OSError):  # the listing's own
                what = Path("/proc/self/fd", name).readlink()
                return f"an import left a descriptor open ({what})"
    return None


def settle() -> None:
    """Keep the collector off what stays, and give back what warming up left.

    Not collected before: that takes longer than the little garbage is worth, once and shared.
    """
    gc.freeze()
    with contextlib.suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def warm_up(entry_points: Callable[[], Sequence[str]]) -> dict[str, Any]:
    """Import and use everything that the servers share, then those that are named."""
    from hostwright_kit import run  # noqa: PLC0415 - this is what takes the time

    importlib.import_module("hostwright_kit.run_file")
    asyncio.run(serve_once())
    for name in entry_points():
        # What fails here fails again in the server's own process, and is told in its own log.
        with contextlib.suppress(Exception, SystemExit):
            run.find_installed(name)
        if (why := _threads()) is not None:
            raise UnfitError(f"importing the server {name} leaves {why}", culprit=name)
    return {"modules": len(sys.modules)}


def preload(modules: Sequence[str]) -> dict[str, Any]:
    """Import what a template is made for."""
    gc.unfreeze()
    for name in ONE_THREAD:
        os.environ[name] = "1"
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise UnfitError(f"preload {name!r}: {type(error).__name__}: {error}") from error
        if (why := _threads()) is not None:
            raise UnfitError(f"importing {name} leaves {why}")
    return {"modules": len(sys.modules)}


def _threads() -> str | None:
    count = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    return f"{count} threads" if count != 1 else None


def requests() -> list[dict[str, Any]]:
    """What a gateway asks a server: what it is, what it offers, a call."""

    def ask(number: int, method: str, **params: Any) -> dict[str, Any]:
        return {"id": number, "method": method, "params": {**params, "_meta": _MODERN}}

    return [
        ask(1, "server/discover"),
        ask(2, "tools/list"),
        ask(3, "resources/list"),
        ask(4, "prompts/list"),
        ask(5, "tools/call", name="echo", arguments={"text": "a"}),
    ]


async def serve_once() -> None:
    """One server and one client in this process: fills the caches that filling takes time.

    No tool that runs in a thread, no ledger, no file: nothing may outlast it.
    """
    from fastmcp import FastMCP  # noqa: PLC0415 - loaded already

    from hostwright_kit.stdio import LineWire, serve_lines  # noqa: PLC0415

    app: Any = FastMCP("warm")

    async def echo(text: str) -> dict[str, str]:
        """Gives it back, with a docstring, because reading those needs a parser.

        Args:
            text: What to give back.
        """
        return {"text": text}

    app.tool(echo)
    ours, theirs = socket.socketpair()
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(serve_lines(app, LineWire(their_reader, their_writer)))
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        for request in requests():
            writer.write(json.dumps({"jsonrpc": "2.0", **request}).encode() + b"\n")
            await reader.readline()
    finally:
        writer.close()
        await serving
        their_writer.close()
        for one in (writer, their_writer):
            await one.wait_closed()
