"""Listening to the daemon's events over its unix socket, across its restarts.

`listen` yields events and, between them, what became of the connection: `Connected` and `Lost`. It
comes back by itself with the cursor of the last event that it gave, so nothing is given twice and
what is missing is told (`events.gap`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from hostwright.cli.output import NoDaemonError
from hostwright_kit.errors import HostError

# Heartbeats come every 15 s.
SILENCE_SECONDS = 45.0
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0


class Happened(NamedTuple):
    """One event."""

    cursor: str
    kind: str
    at: str
    fields: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"cursor": self.cursor, "kind": self.kind, "at": self.at, **self.fields}


class Connected(NamedTuple):
    """The stream is open."""


class Lost(NamedTuple):
    """It is not, for this reason; it is tried again."""

    why: str


Message = Happened | Connected | Lost


class Wanted(NamedTuple):
    """What to ask for, as in `sse.py`."""

    kinds: Sequence[str] = ()
    servers: Sequence[str] = ()
    tools: Sequence[str] = ()
    callers: Sequence[str] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """For the query."""
        names = ("filter", "server", "tool", "caller")
        return {name: ",".join(words) for name, words in zip(names, self, strict=True) if words}


async def listen(
    socket: Path, wanted: Wanted, *, cursor: str = "now", follow: bool = True
) -> AsyncGenerator[Message]:
    """Events from `cursor` on; without `follow`, up to now, and without a daemon an error."""
    wait = FIRST_WAIT_SECONDS
    lost = False
    while True:
        why = "it ended the stream"
        try:
            async for message in _once(socket, wanted, cursor, follow=follow):
                if isinstance(message, str):
                    cursor = message
                    continue
                if isinstance(message, Happened):
                    cursor = message.cursor
                wait, lost = FIRST_WAIT_SECONDS, False
                yield message
        except (httpx2.HTTPError, NoDaemonError) as error:
            if not follow:
                raise NoDaemonError from error
            why = str(error) or type(error).__name__
        if not follow:
            return
        if not lost:
            lost = True
            yield Lost(why)
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


async def _once(
    socket: Path, wanted: Wanted, cursor: str, *, follow: bool
) -> AsyncIterator[Message | str]:
    """One connection's messages; a plain text is a cursor without an event."""
    asked = {**wanted.parameters, "cursor": cursor, "follow": "true" if follow else "false"}
    timeout = httpx2.Timeout(10.0, read=SILENCE_SECONDS)
    async with (
        httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://hostwright",
            timeout=timeout,
        ) as http,
        http.stream("GET", "/events", params=asked) as answer,
    ):
        if answer.status_code == 503:
            # It is ending, or has too many listeners: worth another try.
            raise httpx2.ReadError(f"HTTP 503: {(await answer.aread())[:300].decode()}")
        if answer.status_code != 200:
            raise _refused(answer.status_code, await answer.aread())
        yield Connected()
        place = data = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                place = value
            elif name == "data":
                data = value
            elif not line and data:
                yield _happened(place, data)
                data = ""
            elif not line and place:
                yield place


def _happened(cursor: str, data: str) -> Happened:
    fields: dict[str, Any] = json.loads(data)
    return Happened(cursor, str(fields.pop("kind")), str(fields.pop("at")), fields)


def _refused(status: int, body: bytes) -> HostError:
    try:
        found = json.loads(body)["error"]
        return HostError(found["message"], fix=found["fix"], code=found["code"])
    except (ValueError, KeyError, TypeError):
        return HostError(
            f"The daemon answered /events with HTTP {status}.",
            fix="Is it of this version? `hostwright down`, then `hostwright up`.",
            code="daemon_failed",
        )
