"""`tools/list` of a server with 200 tools, as every client asks for it first thing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from bench.bounds import Bound
from bench.fronts import Front, Gateway, Missing, direct_http, fastmcp_proxy, mcp_proxy
from bench.home import MANY_TOOLS, Home
from bench.load import drive
from bench.many_tools import COUNT
from bench.peers import Peer
from bench.plan import Plan
from bench.results import Load, Row, missing_row, rounds_row
from bench.wire import Client, WireError

LISTS = "3 lists"
WHAT = f"tools/list of {COUNT} tools, 1 client, 2025-11-25"
FASTER = Bound(of="p50", beside="FastMCP proxy", how="theirs ÷ ours", at_least=200)
FAILURES = (OSError, WireError, TimeoutError, asyncio.IncompleteReadError)
Say = Callable[[str], None]


async def all_tools(client: Client) -> Callable[[], None]:
    """One list: until its last byte is here. That it is whole is looked at afterwards, because to
    read 200 schemas takes a client longer than some fronts need to send them."""
    answer = await client.fetch("tools/list", {})

    def look() -> None:
        found = len(answer()["tools"])
        if found < COUNT:
            raise WireError(f"{found} of {COUNT} tools were listed")

    return look


async def lists(plan: Plan, peer: Peer, say: Say) -> list[Row]:
    """Every front in turn, round after round."""
    home = Home(system=False, echo=False, many=True)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(home.close)
        await home.up()
        await home.make_token()
        fronts: list[Front | Missing] = [
            direct_http(MANY_TOOLS),
            fastmcp_proxy(MANY_TOOLS),
            mcp_proxy(peer, MANY_TOOLS),
            Gateway(home, "HTTP", "many"),
            Gateway(home, "connect", "many"),
        ]
        opened: list[tuple[Front, Client, list[Load]]] = []
        rows: list[Row] = []
        for front in fronts:
            say(f"lists: starting {front.name}")
            if isinstance(front, Missing):
                rows.append(missing_row(LISTS, WHAT, front.name, front.why))
                continue
            stack.push_async_callback(front.end)
            try:
                await front.start()
                client = await front.open_client()
                stack.push_async_callback(client.close)
                (await all_tools(client))()
                opened.append((front, client, []))
            except FAILURES as error:
                if front.kind != "peer":
                    raise
                rows.append(missing_row(LISTS, WHAT, front.name, f"it failed: {error!r}"))
        for number in range(plan.rounds):
            order = list(opened)
            random.Random(number).shuffle(order)  # noqa: S311 - no secret
            for front, client, loads in order:
                say(f"lists, round {number + 1}: {front.name}")
                loads.append(await drive([client], plan.seconds, all_tools, front.processes))
    rows += [
        rounds_row(LISTS, WHAT, front.name, loads, kind=front.kind).model_copy(
            update={
                "unit": "lists/s",
                "bounds": (FASTER,) if front.kind == "ours" and "HTTP" in front.name else (),
            }
        )
        for front, _, loads in opened
    ]
    return rows
