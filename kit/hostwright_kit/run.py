"""Starting a server: `serve("system", build)`, the body of every server's command.

stdio unless told otherwise; `--http`, `--socket`, `--check`, `--version`. On SIGTERM, SIGINT or
the end of stdin: running calls get a moment to finish, are then cancelled, the ledger is flushed,
exit 0, all within five seconds. `python -m hostwright_kit.run NAME` starts the server that
registered NAME in the entry-point group `hostwright.servers`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fastmcp import FastMCP
from fastmcp.server.context import reset_transport, set_transport
from starlette.types import ASGIApp

from hostwright_kit.check import run_check
from hostwright_kit.errors import HostError
from hostwright_kit.http import BearerAuth, BodyLimit, accept_bodies, make_server
from hostwright_kit.redact import RedactingFormatter
from hostwright_kit.runtime import TOKENS_FILE, Runtime, open_runtime
from hostwright_kit.server import HostServer
from hostwright_kit.sockets import bind_tcp, is_loopback, parse_address, unix_listener
from hostwright_kit.stdio import serve_lines, stdio_wire
from hostwright_kit.tokens import Tokens
from hostwright_kit.vouching import ENTRY_POINT_GROUP, LINK_FD_VARIABLE, TOKEN_VARIABLE

CLOSE_SECONDS = 2.0
LAST_SECONDS = 3.5

logger = logging.getLogger(__name__)

Build = Callable[[Runtime], HostServer]


def serve(name: str, build: Build, *, version: str, argv: list[str] | None = None) -> None:
    """Run a server as this process's program; does not return."""
    _open_missing_streams()
    options = _parser(name, version).parse_args(argv)
    _log_to_stderr()
    try:
        if options.check:
            code = run_check(name, build, config_file=options.config, as_json=options.json)
        else:
            code = asyncio.run(_run(name, build, options))
    except HostError as error:
        print(f"{name}: {error.message}\n  fix: {error.fix}", file=sys.stderr)  # noqa: T201
        code = 1
    _exit(code)


def serve_object(name: str, load: Callable[[], FastMCP[Any]]) -> None:
    """Run what `load` returns, over stdio and as it is: no guard of ours; does not return."""
    _open_missing_streams()
    _log_to_stderr()
    try:
        # What it prints while it is loaded must not reach the client as if it were an answer.
        with contextlib.redirect_stdout(sys.stderr):
            app = load()
        asyncio.run(_run_object(name, app))
    except HostError as error:
        print(f"{name}: {error.message}\n  fix: {error.fix}", file=sys.stderr)  # noqa: T201
        _exit(1)
    _exit(0)


async def _run_object(name: str, app: FastMCP[Any]) -> None:
    ending = Ending(name)
    await _until_told(_serve_stdio(app, ending), ending)


def main() -> None:
    """`python -m hostwright_kit.run NAME […]`."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m hostwright_kit.run NAME [options]")
    serve_installed(sys.argv[1], sys.argv[2:])


def serve_installed(name: str, argv: list[str]) -> None:
    """Run the server that registered `name`; does not return."""
    build, version = find_installed(name)
    serve(name, build, version=version, argv=argv)


@functools.cache
def find_installed(name: str) -> tuple[Build, str]:
    """What builds the server that registered `name`, imported, and its version."""
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        raise SystemExit(
            f"No installed distribution registers a server {name!r}. "
            f"Fix: install it (pip install hostwright-{name})."
        )
    point = next(iter(found))
    return point.load(), point.dist.version if point.dist else "0"


def _open_missing_streams() -> None:
    """Put /dev/null where the parent closed a standard stream.

    The next file that is opened gets the lowest free number; without this a database or a socket
    of ours would become fd 0 or 1 and be read from, or written to, as if it were the client.
    """
    for number, mode in enumerate(("r", "w", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
            os.set_inheritable(number, True)
            stream = os.fdopen(number, mode, closefd=False)
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)


def _log_to_stderr() -> None:
    """One way to stderr for every library, and no secret on it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    fastmcp = logging.getLogger("fastmcp")
    fastmcp.handlers.clear()
    fastmcp.propagate = True
    fastmcp.setLevel(logging.WARNING)


def _parser(name: str, version: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"hostwright-{name}",
        description=f"The Hostwright MCP server {name!r}: MCP on stdio unless told otherwise.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--http", metavar="HOST:PORT", help="streamable HTTP at /mcp")
    where.add_argument("--socket", metavar="PATH", type=Path, help="streamable HTTP on a socket")
    where.add_argument(
        "--check", action="store_true", help="check configuration, permissions and binaries"
    )
    parser.add_argument("--json", action="store_true", help="with --check: print JSON")
    parser.add_argument("--config", metavar="FILE", type=Path, help="a further config.toml")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    return parser


async def _run(name: str, build: Build, options: argparse.Namespace) -> int:
    link_key = _take_link_key()
    runtime = open_runtime(name, config_file=options.config)
    runtime.link_key = link_key
    ending = Ending(name, lambda: runtime.close_records(0.5))
    try:
        app = build(runtime)
        app.publish()
        if options.http:
            runtime.transport = "http"
            work = _serve_http(app, options.http)
        elif options.socket:
            runtime.transport = "socket"
            work = _serve_socket(app, options.socket)
        else:
            work = _serve_stdio(app, ending)
        await _until_told(work, ending)
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await runtime.close()
        except TimeoutError:
            logger.warning("%s was slow to close and was cut off", name)
    return 0


class Ending:
    """The promise to be gone within five seconds, kept even by a tool that does not stop.

    A tool that sits in a system call in a worker thread cannot be cancelled; when the time is up
    the ledger is flushed and the process leaves without it. The ledger then shows an intent
    without an outcome, which is the truth. The clock is a thread, because what does not end may
    be holding the event loop itself.
    """

    def __init__(self, server: str, flush: Callable[[], object] = lambda: None) -> None:
        self._server = server
        self._flush = flush
        self._told, self._tell = os.pipe()
        threading.Thread(target=self._watch, name="ending", daemon=True).start()

    def begin(self) -> None:
        """Start the clock. Takes no lock, so a signal handler may call it at any point."""
        os.write(self._tell, b".")

    def _watch(self) -> None:
        os.read(self._told, 1)
        time.sleep(LAST_SECONDS)
        self._flush()
        # Not over logging: its lock may be held by whoever waits for a reader of stderr.
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{self._server} did not end in time and was cut off\n".encode())
        os._exit(0)


async def _until_told(work: Coroutine[Any, Any, None], ending: Ending) -> None:
    """Run `work` until it ends by itself or a signal ends it."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        ending.begin()
        loop.call_soon_threadsafe(task.cancel)

    # Not loop.add_signal_handler: that one runs only when the loop comes round again.
    ends = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in ends}
    try:
        await task
    except asyncio.CancelledError:
        # The signal's doing; a cancellation of ourselves would come through as well.
        if (current := asyncio.current_task()) and current.cancelling():
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serve_stdio(app: FastMCP[Any], ending: Ending) -> None:
    token = set_transport("stdio")
    try:
        async with stdio_wire() as wire:
            wire.on_end = ending.begin
            await serve_lines(app, wire)
    finally:
        reset_transport(token)


async def _serve_http(app: HostServer, address: str) -> None:
    host, port = parse_address(address)
    guarded = _http_app(app, token_required=not is_loopback(host), hosts=[host])
    await _serve_asgi(guarded, bind_tcp(host, port))


async def _serve_socket(app: HostServer, path: Path) -> None:
    async with unix_listener(path) as listener:
        await _serve_asgi(_http_app(app, token_required=False, hosts=[]), listener)


def _http_app(app: HostServer, *, token_required: bool, hosts: list[str]) -> ASGIApp:
    inner = app.http_app(path="/mcp", host_origin_protection=True, allowed_hosts=hosts)
    accept_bodies(inner)
    tokens = Tokens(app.runtime.paths.state_dir / TOKENS_FILE)
    auth = BearerAuth(inner, tokens, required=token_required)
    if token_required and not auth.can_admit():
        raise HostError(
            "Beyond loopback a bearer token is required, and none exists.",
            fix=f"Make one (`hostwright token NAME`) or set {TOKEN_VARIABLE} for this server.",
            code="token_missing",
        )
    return BodyLimit(auth)


async def _serve_asgi(app: ASGIApp, listener: socket.socket) -> None:
    server = make_server(app)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        # Running requests get uvicorn's grace, then they are cut.
        server.should_exit = True
        await serving
        raise


def _take_link_key() -> str | None:
    """The secret that the supervisor wrote into an inherited pipe, if it started us."""
    descriptor = os.environ.pop(LINK_FD_VARIABLE, "")
    if not descriptor.isdigit():
        return None
    with os.fdopen(int(descriptor), "rb") as pipe:
        return pipe.read(256).decode("ascii") or None


def _exit(code: int) -> None:
    """Leave at once even if a worker thread is still inside a slow system call."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread is not threading.main_thread() for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
