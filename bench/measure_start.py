"""From the start of a program to its first useful answer, each as a user or a client starts it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from pydantic import BaseModel

from bench.bounds import Bound
from bench.fronts import (
    HttpFront,
    Missing,
    direct_http,
    fastmcp_proxy,
    log_file,
    mcp_proxy,
    wait_for_tools,
)
from bench.home import BIN, ECHO, ECHO_STDIO, HOSTWRIGHT, Home
from bench.peers import Peer
from bench.plan import Plan
from bench.processes import clean_environment, end, free_port, start
from bench.results import Kind, Row, missing_row
from bench.wire import Client, HttpClient, PipeClient, WireError, tool_names

START = "1 start"
FRONT = "start a front → echo listed over HTTP"
CLIENT = "client spawns a command → tools/list answered"
SUITE = "the suite → every server ready"
PROMPT = Bound(at_most=60)
FAILURES = (OSError, WireError, TimeoutError, asyncio.IncompleteReadError)
Say = Callable[[str], None]


class Starter(BaseModel, frozen=True):
    """Something that starts, is asked, and is ended again; returns the milliseconds it took."""

    what: str
    who: str
    kind: Kind
    once: Callable[[], Awaitable[float]]


async def starts(plan: Plan, peer: Peer, say: Say) -> list[Row]:
    """Every start in turn, round after round; a round 0 only warms the caches."""
    async with contextlib.AsyncExitStack() as stack:
        suite = Home(system=True, echo=False)
        stack.push_async_callback(suite.close)
        running = Home(system=True, echo=True)
        stack.push_async_callback(running.close)
        gateway = Home(system=False, echo=True)
        stack.push_async_callback(gateway.close)
        await running.up()
        await gateway.make_token()
        starters, missing = _starters(suite, running, gateway, peer)
        failed: set[str] = set()
        took: list[list[float]] = [[] for _ in starters]
        for number in range(0 if plan.start_warm else 1, plan.start_rounds + 1):
            say(f"starts, round {number} of {plan.start_rounds}")
            for starter, values in zip(starters, took, strict=True):
                if starter.who in failed:
                    continue
                try:
                    milliseconds = await starter.once()
                except FAILURES as error:
                    if starter.kind != "peer":
                        raise
                    failed.add(starter.who)
                    why = f"it failed: {error!r}"
                    missing.append(missing_row(START, starter.what, starter.who, why))
                    continue
                if number:
                    values.append(milliseconds)
    rows = [
        Row(
            section=START,
            what=starter.what,
            who=starter.who,
            kind=starter.kind,
            unit="ms",
            values=tuple(values),
            bounds=(PROMPT,) if starter.what == CLIENT and "connect" in starter.who else (),
        )
        for starter, values in zip(starters, took, strict=True)
        if starter.who not in failed
    ]
    return _grouped([*rows, *missing])


def _starters(
    suite: Home, running: Home, gateway: Home, peer: Peer
) -> tuple[list[Starter], list[Row]]:
    def front(who: str, kind: Kind, once: Callable[[], Awaitable[float]]) -> Starter:
        return Starter(what=FRONT, who=who, kind=kind, once=once)

    def client(who: str, kind: Kind, argv: list[str], home: Home | None = None) -> Starter:
        async def once() -> float:
            env = home.env if home else clean_environment()
            return await _spawned(PipeClient(argv, env=env))

        return Starter(what=CLIENT, who=who, kind=kind, once=once)

    fastmcp = [str(BIN / "fastmcp"), "run", ECHO, "--no-banner", "--log-level", "ERROR"]
    starters = [
        client("python echo_server.py", "direct", ECHO_STDIO),
        client("fastmcp run echo_server.py", "peer", fastmcp),
        client("hostwright connect echo", "ours", [HOSTWRIGHT, "connect", "echo"], running),
        client("hostwright connect system", "ours", [HOSTWRIGHT, "connect", "system"], running),
        client("hostwright-system, no daemon", "ours", [str(BIN / "hostwright-system")], suite),
        front("direct HTTP", "direct", lambda: _fronted(direct_http())),
        front("FastMCP proxy", "peer", lambda: _fronted(fastmcp_proxy())),
        front("hostwright up, echo alone", "ours", lambda: _gateway(gateway)),
        Starter(
            what=SUITE,
            who="hostwright up --detach",
            kind="ours",
            once=lambda: _detached(suite),
        ),
    ]
    proxy = mcp_proxy(peer)
    if isinstance(proxy, Missing):
        return starters, [missing_row(START, FRONT, proxy.name, proxy.why)]

    def proxied() -> Awaitable[float]:
        return _fronted(proxy)

    return [*starters[:7], front("mcp-proxy", "peer", proxied), *starters[7:]], []


async def _spawned(client: PipeClient) -> float:
    began = time.perf_counter()
    await client.open(log_file())
    try:
        if not await tool_names(client):
            raise RuntimeError("a server listed no tools")
        return _milliseconds(began)
    finally:
        await client.close()


async def _fronted(front: HttpFront) -> float:
    began = time.perf_counter()
    try:
        await front.start()
        return _milliseconds(began)
    finally:
        await front.end()


async def _gateway(home: Home) -> float:
    """The daemon in the foreground, as a service manager runs it."""
    port = free_port()
    env = {**home.env, "HOSTWRIGHT_GATEWAY__PORT": str(port)}

    async def open_client() -> Client:
        return await HttpClient(f"http://127.0.0.1:{port}/mcp/echo", token=home.token).open()

    began = time.perf_counter()
    root = start([HOSTWRIGHT, "up"], env=env, log=home.log)
    try:
        await wait_for_tools(open_client, root)
        return _milliseconds(began)
    finally:
        await end(root)


async def _detached(home: Home) -> float:
    began = time.perf_counter()
    await home.up()
    try:
        return _milliseconds(began)
    finally:
        await home.down()


def _milliseconds(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _grouped(rows: Sequence[Row]) -> list[Row]:
    order = (SUITE, FRONT, CLIENT)
    return sorted(rows, key=lambda row: order.index(row.what))
