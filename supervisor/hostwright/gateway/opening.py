"""Finding out which era a server speaks.

A server of ours speaks the new one. Of a stranger both is possible: it is asked `server/discover`,
and when it refuses, or says nothing for a while, it gets the handshake. A server that was only slow
to start may answer the first question after all; then it is of the new era.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, cast

from hostwright import __version__
from hostwright.gateway.asker import LATEST_LEGACY
from hostwright.gateway.link import Link

Era = Literal["auto", "modern", "legacy"]
# A server of the handshake era may ignore what it does not know instead of refusing it.
DISCOVER_SECONDS = 5.0
OWN_INFO = {"name": "hostwright-gateway", "version": __version__}
Capabilities = dict[str, Any]


async def open_link(link: Link, era: Era) -> Capabilities:
    """Meet the server and return what it can.

    Bounded by whoever calls: how long a server may take to start is not known here.
    """
    if era == "legacy":
        return await _handshake(link)
    discovering = asyncio.create_task(link.request("server/discover", {}))
    try:
        if era == "auto":
            await asyncio.wait([discovering], timeout=DISCOVER_SECONDS)
            if not discovering.done() or discovering.exception() is not None:
                return await _handshake_beside(link, discovering)
        return _capabilities(await discovering)
    finally:
        await _ended(discovering)


async def _handshake_beside(link: Link, discovering: asyncio.Task[dict[str, Any]]) -> Capabilities:
    """The handshake, unless a server that was only slow to start answers in the new era."""
    shaking = asyncio.create_task(_handshake(link))
    try:
        if not discovering.done():
            await asyncio.wait([discovering, shaking], return_when=asyncio.FIRST_COMPLETED)
        if shaking.done() and shaking.exception() is not None and link.alive:
            # A server of the new era refuses it; then the first question is still open.
            await asyncio.wait([discovering])
        if discovering.done() and discovering.exception() is None:
            link.legacy = False
            return _capabilities(discovering.result())
        return await shaking
    finally:
        await _ended(shaking)


async def _handshake(link: Link) -> Capabilities:
    params: Mapping[str, Any] = {
        "protocolVersion": LATEST_LEGACY,
        "capabilities": link.desk.declared,
        "clientInfo": OWN_INFO,
    }
    found = await link.awaited(lambda done: link.handshake("initialize", params, done), link.cancel)
    link.notify("notifications/initialized")
    link.legacy = True
    return _capabilities(found)


def _capabilities(found: Mapping[str, Any]) -> Capabilities:
    declared = found.get("capabilities")
    return cast("Capabilities", declared) if isinstance(declared, dict) else {}


async def _ended(task: asyncio.Task[Any]) -> None:
    """End a task whose outcome no longer matters."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # Looked at, or asyncio would log it as forgotten.
        task.exception()
