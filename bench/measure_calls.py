"""Calls per second and their latency, and memory: the same echo server behind every front."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence

from bench.bounds import Bound
from bench.fronts import Front, Gateway, Missing, StdioFront, direct_http, fastmcp_proxy, mcp_proxy
from bench.home import Home
from bench.load import drive, echo
from bench.peers import Peer
from bench.plan import Plan
from bench.processes import memory
from bench.results import Load, Row, missing_row, rounds_row
from bench.wire import Client, Era, WireError

MANY = 32
CALLS = "3 calls"
MEMORY = "2 memory"
WARM_CALLS = 20
OURS = "hostwright HTTP"
FRONT = "CPU of the front alone per call, {clients}, {revision}"
BOUNDS: Mapping[int, Bound] = {
    1: Bound(of="p50", beside="direct HTTP", at_most=0.75),
    MANY: Bound(beside="direct HTTP", at_least=2),
}
LESS_CPU = tuple(
    Bound(beside=peer, how="theirs ÷ ours", at_least=15) for peer in ("mcp-proxy", "FastMCP proxy")
)
LOADS: tuple[tuple[Era, int], ...] = (("legacy", 1), ("legacy", MANY), ("modern", 1))
REVISIONS: Mapping[Era, str] = {"legacy": "2025-11-25", "modern": "2026-07-28"}
FAILURES = (OSError, WireError, TimeoutError, asyncio.IncompleteReadError)
Say = Callable[[str], None]


class Open:
    """A front that runs, with its clients of each era."""

    def __init__(self, front: Front, clients: Mapping[Era, Sequence[Client]]) -> None:
        self.front = front
        self.clients = clients


async def calls(plan: Plan, peer: Peer, say: Say) -> list[Row]:
    """Every front at once, measured in turn: so many clients of this era and of that."""
    home = Home(system=False, echo=True)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(home.close)
        await home.up()
        await home.make_token()
        fronts: list[Front | Missing] = [
            StdioFront(),
            direct_http(),
            fastmcp_proxy(),
            mcp_proxy(peer),
            Gateway(home, "HTTP"),
            Gateway(home, "connect"),
        ]
        opened: list[Open] = []
        absent: list[Missing] = []
        for front in fronts:
            say(f"calls: starting {front.name}")
            if isinstance(front, Missing):
                absent.append(front)
                continue
            stack.push_async_callback(front.end)
            try:
                await front.start()
                opened.append(Open(front, await _open_clients(front, stack)))
            except FAILURES as error:
                if front.kind != "peer":
                    raise
                absent.append(Missing(name=front.name, why=f"it failed: {error!r}"))
        rows: list[Row] = []
        for era, count in LOADS:
            what = f"echo, {_clients(count)}, {REVISIONS[era]}"
            say(f"calls: {what}, {plan.rounds} rounds")
            able = [one for one in opened if era in one.front.eras]
            unable = [
                Missing(name=one.front.name, why=f"it does not know revision {REVISIONS[era]}")
                for one in opened
                if era not in one.front.eras
            ]
            measured = await _rounds(able, era, count, plan)
            found = [
                rounds_row(CALLS, what, one.front.name, loads, kind=one.front.kind).model_copy(
                    update={"bounds": _promised(one.front.name, era, count)}
                )
                for one, loads in measured
            ]
            found += [missing_row(CALLS, what, one.name, one.why) for one in (*absent, *unable)]
            names = [front.name for front in fronts]
            rows += sorted(found, key=lambda row: names.index(row.who))
            rows += _of_fronts(measured, era, count)
        return rows


def _promised(who: str, era: Era, count: int) -> tuple[Bound, ...]:
    return (BOUNDS[count],) if who == OURS and era == "legacy" else ()


def _of_fronts(measured: Sequence[tuple[Open, Sequence[Load]]], era: Era, count: int) -> list[Row]:
    """What the fronts add to the server's own work: their processes, without those behind them."""
    what = FRONT.format(clients=_clients(count), revision=REVISIONS[era])
    return [
        Row(
            section=CALLS,
            what=what,
            who=one.front.name,
            kind=one.front.kind,
            unit="ms",
            values=tuple(load.front_ms_per_call for load in loads),
            bounds=LESS_CPU if (one.front.name, era, count) == (OURS, "legacy", MANY) else (),
        )
        for one, loads in measured
        if one.front.alone()
    ]


async def _rounds(
    opened: Sequence[Open], era: Era, count: int, plan: Plan
) -> list[tuple[Open, list[Load]]]:
    found: list[tuple[Open, list[Load]]] = [(one, []) for one in opened]
    for number in range(plan.rounds):
        order = list(found)
        # Not always the same neighbour, and the same orders in every run of the bench.
        random.Random(number).shuffle(order)  # noqa: S311 - no secret
        for one, loads in order:
            have = one.clients[era]
            if number == 0:
                await asyncio.gather(*(echo(client) for client in have[:count]))
            clients = [have[at % len(have)] for at in range(count)]
            front = one.front
            loads.append(await drive(clients, plan.seconds, echo, front.processes, front.alone))
    return found


async def _open_clients(front: Front, stack: contextlib.AsyncExitStack) -> dict[Era, list[Client]]:
    found: dict[Era, list[Client]] = {}
    for era in front.eras:
        most = max(count for wanted, count in LOADS if wanted == era)
        clients = found.setdefault(era, [])
        for _ in range(1 if front.shared else most):
            client = await front.open_client(era)
            stack.push_async_callback(client.close)
            clients.append(client)
        for _ in range(WARM_CALLS):
            await echo(clients[0])
    return found


async def memories(plan: Plan, peer: Peer, say: Say) -> list[Row]:
    """Each front alone with 1 and with 32 clients that have called: what all of it takes."""
    found: dict[tuple[int, str], list[float]] = {}
    kinds: dict[str, Front] = {}
    notes: dict[tuple[int, str], str] = {}
    broken: dict[str, str] = {}
    for number in range(plan.memory_rounds):
        for make in _memory_fronts(peer):
            home = Home(system=False, echo=True)
            front = make(home)
            say(f"memory, round {number + 1}: {front.name}")
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(home.close)
                if isinstance(front, Missing):
                    broken[front.name] = front.why
                    continue
                if front.kind == "ours":
                    await home.up()
                    await home.make_token()
                stack.push_async_callback(front.end)
                kinds[front.name] = front
                try:
                    await front.start()
                    occupied = await _occupied(front, stack)
                except FAILURES as error:
                    if front.kind != "peer":
                        raise
                    broken[front.name] = f"it failed: {error!r}"
                    continue
                for count, (total, processes) in occupied.items():
                    found.setdefault((count, front.name), []).append(total / 1e6)
                    notes[count, front.name] = f"{processes} process{'es' if processes > 1 else ''}"
    rows = [
        missing_row(MEMORY, _held(count), name, why)
        for name, why in broken.items()
        for count in (1, MANY)
    ]
    for (count, name), values in found.items():
        if name in broken:
            continue
        rows.append(
            Row(
                section=MEMORY,
                what=_held(count),
                who=name,
                kind=kinds[name].kind,
                unit="MB",
                values=tuple(values),
                note=notes[count, name],
            )
        )
    return sorted(rows, key=lambda row: row.what != _held(1))


async def _occupied(front: Front, stack: contextlib.AsyncExitStack) -> dict[int, tuple[int, int]]:
    """Bytes and processes with 1 and with 32 clients."""
    found: dict[int, tuple[int, int]] = {}
    clients: list[Client] = []
    for count in (1, MANY):
        while len(clients) < count:
            client = await front.open_client()
            stack.push_async_callback(client.close)
            clients.append(client)
        for _ in range(WARM_CALLS):
            await asyncio.gather(*(echo(client) for client in clients))
        taken = await asyncio.to_thread(memory, front.processes())
        found[count] = (taken.bytes, taken.processes)
    return found


def _memory_fronts(peer: Peer) -> list[Callable[[Home], Front | Missing]]:
    return [
        lambda _: direct_http(),
        lambda _: fastmcp_proxy(),
        lambda _: mcp_proxy(peer),
        lambda home: Gateway(home, "HTTP"),
        lambda home: Gateway(home, "connect"),
    ]


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _held(count: int) -> str:
    return f"memory with {_clients(count)}"
