"""The sockets of the gateway, opened in one place.

TCP (loopback by default) for clients with a bearer token; `gateway.sock` for the command line and
for clients of this user; `connect.sock` for `hostwright connect`. The unix sockets are 0600 in a
0700 folder: the kernel admits only their owner. A daemon that replaces another one goes on with its
sockets, so that nobody who connects meanwhile is refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from hostwright.settings import GatewaySettings
from hostwright.status import CONNECT_SOCKET, GATEWAY_SOCKET
from hostwright_kit.sockets import bind_tcp, inherited_unix_listener, unix_listener


class UnixListeners(NamedTuple):
    """Those of this user alone."""

    gateway: socket.socket
    connect: socket.socket


class HandedListeners(msgspec.Struct):
    """Those of another daemon, by descriptor."""

    host: str
    port: int
    """As configured; 0 for any."""
    tcp: int
    gateway: int
    connect: int


@contextmanager
def tcp_listener(
    settings: GatewaySettings, handed: HandedListeners | None = None
) -> Generator[socket.socket]:
    """The port."""
    same = handed is not None and (handed.host, handed.port) == (settings.host, settings.port)
    if handed is not None and same:
        opened = socket.socket(fileno=handed.tcp)
    else:
        opened = bind_tcp(settings.host, settings.port)
        if handed is not None:
            os.close(handed.tcp)
    with contextlib.closing(opened) as listener:
        yield listener


@asynccontextmanager
async def unix_listeners(
    runtime_dir: Path,
    handed: HandedListeners | None = None,
    *,
    keep: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[UnixListeners]:
    """The sockets in the runtime folder. `keep`: whether others go on with them at the end."""
    async with (
        _unix(runtime_dir / GATEWAY_SOCKET, handed and handed.gateway, keep) as gateway,
        _unix(runtime_dir / CONNECT_SOCKET, handed and handed.connect, keep) as connect,
    ):
        yield UnixListeners(gateway, connect)


def _unix(
    path: Path, handed: int | None, keep: Callable[[], bool]
) -> AbstractAsyncContextManager[socket.socket]:
    if handed is None:
        return unix_listener(path, keep=keep)
    return inherited_unix_listener(path, handed, keep=keep)
